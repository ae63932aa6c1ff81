"""The second half of a decoder: states of a text, read in a causal order, go on to read what the
text describes.

Yu et al., TMLR 2022, arXiv:2205.01917, section 3.2, "Decoupled Text Decoder".
"""

from __future__ import annotations

from torch import nn

from amodal.core import Ragged
from amodal.core.host import on_host, take
from amodal.nn.attention.cross import PaddedLayout
from amodal.nn.generation.multi_source_decoder import MultiSourceBlock
from amodal.objectives.packed import row_index


class MultimodalDecoder(nn.Module):
    """Blocks of causal self-attention, attention to what is described, and an MLP, all pre-norm.

    Args:
        width: D.
        depth: Blocks.
        heads: Of attention.
    """

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.blocks = nn.ModuleList(MultiSourceBlock(width, heads, 1, "flat") for _ in range(depth))
        self.norm_keys, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, texts: Ragged, seen: Ragged) -> Ragged:
        """The states after all blocks and a norm.

        Args:
            texts: N lists of states (length, D).
            seen: N lists of tokens (length, D); list i is read by text i. A text whose list is
                empty reads nothing.
        """
        x_TD, y_TD = texts.flat, self.norm_keys(seen.flat)
        text_layout, seen_layout = PaddedLayout(texts.lengths), PaddedLayout(seen.lengths)
        present = on_host(lambda n: (n > 0)[:, None], seen.lengths)
        present_TS = take(present, row_index(texts.lengths))
        for block in self.blocks:
            x_TD = block(x_TD, [y_TD], text_layout, [seen_layout], present_TS)
        return Ragged(self.norm(x_TD), texts.lengths)
