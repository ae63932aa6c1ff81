"""A causal order in the trunks of some fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from amodal.core import Tokens, field_of
from amodal.core.part import Part
from amodal.nn.attention.varlen import Layout, MaskRule, layout_of


class CausalFields(Part, nn.Module):
    """A block hook: tokens of some fields attend to themselves and to those before them alone.

    Args:
        fields: Whose trunks are causal; each needs a trunk of its own.
    """

    def __init__(self, fields: Sequence[str]):
        super().__init__()
        self.fields = frozenset(fields)

    def forward(self, number: int, tokens: Tokens, block: Callable[..., Tokens]) -> Tokens:
        """See `amodal.nn.transformer.BlockHook`."""
        if not self.fields.issuperset(map(field_of, tokens.names)):
            return block(tokens)
        return block(tokens, layout=causal_layout)


def causal_layout(tokens: Tokens, mask_rule: MaskRule | None = None) -> Layout:
    """`layout_of` in a causal order."""
    return layout_of(tokens, mask_rule, causal=True)
