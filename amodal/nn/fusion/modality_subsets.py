"""Features of one batch for many subsets of the fields of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from amodal.core import Batch, Embeddings
from amodal.core.embeddings import FUSED
from amodal.nn.encoder import Encoder

Visible = Mapping[str, Tensor]
"""Field -> (B,) bool, the rows in which it is visible; in none for fields that are not named."""


def subset_features(encoder: Encoder, batch: Batch) -> Callable[[Visible], Embeddings]:
    """A function that gives the features for subsets of fields.

    With a joint trunk each call is a pass of the encoder; otherwise towers run once for all calls.

    Args:
        encoder: The encoder.
        batch: The batch.

    Returns:
        Visible fields -> features, as `amodal.nn.heads.supervised` reads them.
    """
    if encoder.trunk != "joint" or not isinstance(encoder, Encoder):
        z = encoder.features(batch)

        def pick(visible: Visible) -> Embeddings:
            some = {
                # an empty column, not a missing one: a head has an input for each field
                s: z[s].at(visible[s][z[s].rows]) if s in visible else z[s].at(z[s].rows[:0])
                for s in z.sources
            }
            return Embeddings(some, z.size)

        return pick
    tokens = encoder.tokenize(batch)

    def read(visible: Visible) -> Embeddings:
        some = {
            s: part.keep(visible[s][part.row]) if s in visible else part.at(part.row[:0])
            for s, part in tokens.items()
        }
        return Embeddings({FUSED: encoder.pool(encoder.encode(some))[FUSED]}, batch.size)

    return read
