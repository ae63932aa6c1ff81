"""Modality dropout: whole fields of a row are hidden, and never all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError, name_code
from amodal.masking.hashing import hash_bits, uniform


def drop_modalities(present: dict[str, Tensor], seeds_B: Tensor, rate: float) -> dict[str, Tensor]:
    """Hide each field of a row with a probability.

    If that would hide all fields of a row, the one with the highest draw stays.

    Args:
        present: Field -> (B,) bool, the rows that have it.
        seeds_B: (B,) int64.
        rate: Probability to hide a field.

    Returns:
        Field -> (B,) bool, the rows in which it stays visible.

    Raises:
        AmodalError: For a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise AmodalError(f"the chance to hide a field is from 0 to 1, not {rate}")
    present_BM = torch.stack(list(present.values()), 1)
    draw = torch.stack([uniform(hash_bits(seeds_B, name_code(f"hidden {s}"))) for s in present], 1)
    # below every draw, so that a field that is missing is never the one that stays
    draw = torch.where(present_BM, draw, -1.0)
    last = torch.nn.functional.one_hot(draw.argmax(1), len(present)).bool()
    visible = present_BM & ((draw >= rate) | last)
    return dict(zip(present, visible.unbind(1)))


def random_subsets(present: dict[str, Tensor], seeds_B: Tensor) -> dict[str, Tensor]:
    """Draw one of the non-empty subsets of the fields of each row, all equally likely.

    Args:
        present: Field -> (B,) bool, the rows that have it.
        seeds_B: (B,) int64.

    Returns:
        Field -> (B,) bool, the rows in which it stays visible.
    """
    present_BM = torch.stack(list(present.values()), 1).long()
    subsets = (1 << present_BM.sum(1)) - 1
    # The name is part of the seed: another one would draw other subsets in runs that go on.
    drawn = 1 + (uniform(hash_bits(seeds_B, name_code("any senses"))).double() * subsets).long()
    place = present_BM.cumsum(1) - present_BM
    # bit k of `drawn` is for the k-th field that the row has
    visible = present_BM.bool() & ((drawn[:, None] >> place) & 1).bool()
    return dict(zip(present, visible.unbind(1)))
