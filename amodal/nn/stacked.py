"""Sequences of one batch side by side, as rows of a larger one: one call serves them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from amodal.core import Tokens, field_of
from amodal.core.column import joined
from amodal.core.host import on_host
from amodal.core.tokens import joined_attributes


def stack(parts: Sequence[Tokens]) -> Tokens:
    """Rows 0 to B - 1 are those of the first part, B to 2 B - 1 those of the second, and so on.

    Args:
        parts: Tokens of one batch of B rows. Sources of one field become one source.
    """
    if len(parts) == 1:
        return parts[0]
    # by field: views of one field are one source to a mask rule
    names = tuple(dict.fromkeys(field_of(n) for tokens in parts for n in tokens.names))
    return Tokens(
        torch.cat([b.x for b in parts]),
        joined(
            # row numbers of their own, so that sequences of one record do not see each other
            [on_host(lambda row, start=i * b.size: row + start, b.row) for i, b in enumerate(parts)]
        ),
        joined([b.source_among(names, field_of) for b in parts]),
        torch.cat([b.position for b in parts]),
        names,
        sum(b.size for b in parts),
        joined_attributes(parts),
    )


def unstack(whole: Tokens, parts: Sequence[Tokens]) -> list[Tokens]:
    """The parts of `stack`, with x of the whole."""
    return [
        tokens.with_x(x) for tokens, x in zip(parts, torch.split(whole.x, [len(b) for b in parts]))
    ]
