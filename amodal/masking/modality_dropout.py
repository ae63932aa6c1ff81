"""Modality dropout: whole fields of a row are hidden, and never all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError, name_code
from amodal.masking.hashing import hash_bits, uniform


def sampled_sources(present: dict[str, Tensor], seeds_B: Tensor, rate: float) -> dict[str, Tensor]:
    """field -> (B,) bool: of the fields that a row has, each is hidden by chance `rate`; if that
    would hide them all, the one that was drawn to go last stays.

    present: field -> (B,) bool; seeds_B: (B,) int64, from which everything is drawn. Raises
    AmodalError for a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise AmodalError(f"the chance to hide a field is from 0 to 1, not {rate}")
    there = torch.stack(list(present.values()), 1)
    draw = torch.stack([uniform(hash_bits(seeds_B, name_code(f"hidden {s}"))) for s in present], 1)
    draw = torch.where(there, draw, -1.0)
    last = torch.nn.functional.one_hot(draw.argmax(1), len(present)).bool()
    kept = there & ((draw >= rate) | last)
    return dict(zip(present, kept.unbind(1)))


def any_sources(present: dict[str, Tensor], seeds_B: Tensor) -> dict[str, Tensor]:
    """field -> (B,) bool: of the fields that a row has, one of their non-empty subsets, all being
    as likely. A row without any keeps none.

    present: field -> (B,) bool; seeds_B: (B,) int64, from which the subset is drawn.
    """
    there = torch.stack(list(present.values()), 1).long()
    subsets = (1 << there.sum(1)) - 1
    # The name is part of the seed: another one would draw other subsets in runs that go on.
    drawn = 1 + (uniform(hash_bits(seeds_B, name_code("any senses"))).double() * subsets).long()
    place = there.cumsum(1) - there
    kept = there.bool() & ((drawn[:, None] >> place) & 1).bool()
    return dict(zip(present, kept.unbind(1)))
