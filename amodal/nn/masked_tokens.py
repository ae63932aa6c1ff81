"""A learned token in the place of hidden ones, as in BERT."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Tokens


def masked_tokens(tokens: Tokens, hidden_T: Tensor, mask_D: Tensor) -> Tokens:
    """The mask token in the place of hidden ones.

    Args:
        tokens: x (T, D), before positions are added.
        hidden_T: (T,) bool, on the device of the tokens.
        mask_D: The mask token.
    """
    return tokens.with_x(torch.where(hidden_T[:, None], mask_D.to(tokens.x.dtype), tokens.x))
