"""Attention rules: which sources may read which. A rule turns S names into an (S, S) bool table
[query, key]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amodal.core import unknown
from amodal.core.embeddings import FUSED
from amodal.nn.attention.varlen import MaskRule


def pure(names: Sequence[str]) -> Tensor:
    """Each field reads itself; fusion tokens read everything and nobody else reads them (Zorro,
    arXiv:2301.09595, 3.2)."""
    table = torch.eye(len(names), dtype=torch.bool)
    if FUSED in names:
        table[names.index(FUSED)] = True
    return table


def bottleneck(names: Sequence[str]) -> Tensor:
    """Fields exchange only through the fusion tokens, which read and are read by all (MBT,
    arXiv:2107.00135, 3.2)."""
    table = pure(names)
    if FUSED in names:
        table[:, names.index(FUSED)] = True
    return table


RULES: dict[str, MaskRule | None] = {"full": None, "pure": pure, "bottleneck": bottleneck}


def rule(name: str) -> MaskRule | None:
    if name not in RULES:
        raise unknown("attention rule", name, RULES)
    return RULES[name]
