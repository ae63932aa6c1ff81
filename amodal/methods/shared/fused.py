"""One vector of all fields of a row, by a fusion of their tokens (`amodal.nn.fusion.fusions`)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import Batch, Column, field_of, view_of
from amodal.methods.shared.regions import alone
from amodal.methods.shared.typed_parts import field_pool
from amodal.nn.encoder import Encoder


def fused_vectors(
    encoder: Encoder, fusion: nn.Module, batch: Batch, view: int = 1, seeds: Tensor | None = None
) -> Column:
    """Fuse the tokens of one view of all fields, each of which is encoded alone first.

    Args:
        encoder: Of the fields.
        fusion: Tokens of fields -> (N, D).
        batch: B rows.
        view: Number of the view, from 1.
        seeds: (B,) for what the fusion draws while training.

    Returns:
        (N, D) unit vectors of the rows that have any field.
    """
    context = alone(encoder, batch.only(*(s for s in batch.sources if view_of(s) in (0, view))))
    tokens = {field_of(s): field_pool(encoder, s).strip(t) for s, t in context.items()}
    fused = fusion(tokens, seeds)
    return Column(normalize(fused.values, dim=1), fused.rows)
