"""Fields that lie on one ground."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Tokens, field_of, name_code
from amodal.core.host import host_copy
from amodal.core.tokens import GROUP
from amodal.nn.attention.bias import plane_of
from amodal.nn.encoder import Encoder


def views_together(encoder: Encoder) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """The views of fields: those that lie on a grid are turned together if there is more than one,
    so that they stay on one ground; if one of them must not be turned, none is."""
    grids = plane_of(encoder.fields)
    if len(grids) < 2:
        return ("weak",)
    turned = all(encoder.fields[f].known_view("turned") == "turned" for f in grids)
    together = "turned" if turned else "plain"
    return {f: (together if f in grids else "weak",) for f in encoder.fields}


def group_codes(encoder: Encoder, tokens: Tokens) -> Tensor:
    """(T,) int64 on the CPU, a number for the group of each token of a source, by its name.

    Args:
        encoder: Of the fields.
        tokens: Of one source.
    """
    field = field_of(tokens.names[0])
    names = encoder.fields[field].token_groups
    if not names:
        return torch.full_like(host_copy(tokens.row), name_code(field))
    codes = torch.tensor([name_code(f"{field}.{name}") for name in names])
    return codes[host_copy(tokens.attributes[GROUP])]
