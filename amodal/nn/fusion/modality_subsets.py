"""One batch read several times, each time with some of the fields of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from amodal.core import Batch, Embeddings
from amodal.core.embeddings import FUSED
from amodal.nn.encoder import Encoder

Kept = Mapping[str, Tensor]
"""field -> (B,) bool: the rows that keep it; a field that is not named is kept by none."""


def reader(encoder: Encoder, batch: Batch) -> Callable[[Kept], Embeddings]:
    """What a head of `amodal.nn.heads.supervised` reads of the fields that each row keeps. Of a
    joint trunk that is one pass of what is kept; towers run once, whatever is asked for."""
    if encoder.trunk != "joint" or not isinstance(encoder, Encoder):
        z = encoder.features(batch)

        def pick(kept: Kept) -> Embeddings:
            some = {
                s: z[s].at(kept[s][z[s].rows]) if s in kept else z[s].at(z[s].rows[:0])
                for s in z.sources
            }
            return Embeddings(some, z.size)

        return pick
    bags = encoder.tokenize(batch)

    def read(kept: Kept) -> Embeddings:
        some = {
            s: bag.keep(kept[s][bag.row]) if s in kept else bag.at(bag.row[:0])
            for s, bag in bags.items()
        }
        return Embeddings({FUSED: encoder.pool(encoder.encode(some))[FUSED]}, batch.size)

    return read
