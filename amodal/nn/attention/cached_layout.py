"""The layout of tokens that go through blocks one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from amodal.core import Tokens
from amodal.nn.attention.varlen import Layout, MaskRule


class CachedLayout:
    """A layout for blocks in a row: computed anew only when tokens came or went.

    Args:
        compute: Of which transformer, `Transformer.lay_out`.
    """

    def __init__(self, compute: Callable[[Tokens, MaskRule | None], Layout]):
        self.compute, self.last = compute, cast("tuple[Tokens, Layout] | None", None)

    def __call__(self, tokens: Tokens, mask_rule: MaskRule | None = None) -> Layout:
        if self.last is None or not self._is_of(self.last[0], tokens):
            self.last = tokens, self.compute(tokens, mask_rule)
        return self.last[1]

    def _is_of(self, a: Tokens, b: Tokens) -> bool:
        # by identity: `with_x` hands the same tensors on, and comparing values would wait for a GPU
        same = a.row is b.row and a.source is b.source and a.names == b.names
        return same and a.position is b.position
