"""An ensemble of models in one index: their vectors end to end, so that a product is the weighted
mean of their cosines (V2L, arXiv:2207.12994). The index need not know about the ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError


def ensemble(vectors: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Join the vectors of models.

    Args:
        vectors: (N, D_m) of each model m, for the same records, of any norm.
        weights: w_m, at least 0 and not all 0; equal if None.

    Returns:
        (N, sum of D_m) unit vectors, whose products are sum_m w_m cos_m / sum_m w_m.

    Raises:
        AmodalError: If the numbers of records or of weights do not fit.
    """
    weights = [1.0] * len(vectors) if weights is None else list(weights)
    if not vectors or len({len(v) for v in vectors}) > 1:
        raise AmodalError(
            f"an ensemble needs vectors of the same records, got {[len(v) for v in vectors]}"
        )
    if len(weights) != len(vectors) or min(weights) < 0 or not sum(weights):
        raise AmodalError(
            f"{len(vectors)} models need as many weights of at least 0, not all of them 0; got "
            f"{weights}"
        )
    share = [(w / sum(weights)) ** 0.5 for w in weights]
    return torch.cat([s * normalize(v, dim=1) for s, v in zip(share, vectors)], 1)
