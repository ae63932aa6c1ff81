"""Mask rules: which sources may attend to which.

A rule turns S names into an (S, S) bool table, [query, key].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amodal.core import unknown
from amodal.core.embeddings import FUSED
from amodal.nn.attention.varlen import MaskRule


def pure(names: Sequence[str]) -> Tensor:
    """Each field attends to itself, fusion tokens to everything, and nobody else to them.

    Zorro, arXiv:2301.09595, 3.2.
    """
    table = torch.eye(len(names), dtype=torch.bool)
    if FUSED in names:
        table[names.index(FUSED)] = True
    return table


def bottleneck(names: Sequence[str]) -> Tensor:
    """Fields exchange only through fusion tokens, which attend to all and are attended to by all.

    MBT, arXiv:2107.00135, 3.2.
    """
    table = pure(names)
    if FUSED in names:
        table[:, names.index(FUSED)] = True
    return table


RULES: dict[str, MaskRule | None] = {"full": None, "pure": pure, "bottleneck": bottleneck}


def rule(name: str) -> MaskRule | None:
    """The mask rule of a name; None for full attention.

    Raises:
        AmodalError: For a name that is not in `RULES`.
    """
    if name not in RULES:
        raise unknown("attention rule", name, RULES)
    return RULES[name]
