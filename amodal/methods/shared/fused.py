"""One vector of all fields of a row, by a fusion of their tokens (`amodal.nn.fusion.fusions`)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import Batch, Column, field_of, view_of
from amodal.methods.shared.regions import alone
from amodal.nn.encoder import Encoder


def fused_vectors(
    encoder: Encoder, fusion: nn.Module, batch: Batch, view: int = 1, seeds: Tensor | None = None
) -> Column:
    """(N, D) unit vectors of the rows that have any field, from the tokens of one view of all that
    they have, each field read alone first. seeds: (B,), while training."""
    seen = batch.only(*(s for s in batch.sources if view_of(s) in (0, view)))
    context = alone(encoder, seen)
    fused = fusion(
        {field_of(s): encoder.pools[field_of(s)].strip(bag) for s, bag in context.items()}, seeds
    )
    return Column(normalize(fused.values, dim=1), fused.rows)
