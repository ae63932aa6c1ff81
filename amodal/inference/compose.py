"""Queries of a reference and of words that change it, as one vector each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.inference.embed import device_of
from amodal.inference.forward_passes import AnyEncoder, eval_mode


def change_field(encoder: AnyEncoder) -> str:
    """The field that changes are of in an encoder that has learnt to compose, else ""."""
    combiner = getattr(encoder, "combiner", None)  # stand-ins for encoders have none
    return "" if combiner is None else str(combiner.change_field)


@torch.no_grad()
def compose(encoder: AnyEncoder, reference_ND: Tensor, change_ND: Tensor) -> Tensor:
    """Compose queries as the encoder has learnt to, or else by the mean of unit vectors.

    Args:
        encoder: With or without a combiner.
        reference_ND: Vectors of what is to be changed.
        change_ND: Vectors of what to change in it.

    Returns:
        (N, D) float32 on the CPU.
    """
    combiner = getattr(encoder, "combiner", None)
    if combiner is None:
        return mean_of_units(reference_ND, change_ND)
    device = device_of(encoder)
    with eval_mode(encoder):
        composed: Tensor = combiner(reference_ND.to(device), change_ND.to(device))
    return composed.float().cpu()


def mean_of_units(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """The mean of two unit vectors, row by row."""
    return (normalize(a_ND.float(), dim=1) + normalize(b_ND.float(), dim=1)) / 2
