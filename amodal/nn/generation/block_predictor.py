"""A narrow transformer that predicts the states of blocks of tokens (I-JEPA, arXiv:2301.08243,
section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from amodal.core import AmodalError, Tokens
from amodal.nn.drop_path import side_by_side
from amodal.nn.generation.mask_decoder import MaskDecoder
from amodal.nn.stacked import stack, unstack

HEAD = 32
"""Width of a head of attention."""


class BlockPredictor(nn.Module):
    """Encoded context tokens and the places of a block -> a vector for each token of the block.

    Blocks do not see each other: each is predicted from the context alone, by the same weights.

    Args:
        field: Whose tokens they are.
        width: Of the encoded tokens and of what is predicted.
        hidden: Width of the predictor; 0 for half of `width`.
        depth: Blocks of the transformer.

    Raises:
        AmodalError: For a width that heads of 32 do not divide, and no depth.
    """

    def __init__(self, field: str, width: int, *, hidden: int = 0, depth: int):
        super().__init__()
        hidden = hidden or width // 2
        if hidden < HEAD or hidden % HEAD:
            raise AmodalError(
                f"predictor_width is a multiple of {HEAD}, the width of a head of attention, not "
                f"{hidden}"
            )
        if depth < 1:
            raise AmodalError(f"predictor_depth is 1 block or more, not {depth}")
        self.decoder = MaskDecoder([field], width, width=hidden, depth=depth, heads=hidden // HEAD)
        self.out_proj = nn.Linear(hidden, width)

    def forward(self, context: Tokens, blocks: Sequence[Tokens]) -> list[Tokens]:
        """Predict each block of a batch.

        Args:
            context: Encoded tokens of one source (T, D).
            blocks: Tokens of the same source, whose x is not read.

        Returns:
            `blocks`, in their order, with x (t, D).
        """
        seen = stack([context] * len(blocks))
        with side_by_side(range(len(blocks))):
            (decoded,) = self.decoder([seen], [stack(blocks)])
        return unstack(decoded.with_x(self.out_proj(decoded.x)), blocks)
