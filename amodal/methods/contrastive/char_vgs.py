"""Visually grounded sentences: a recurrent encoder of characters learns from picture-caption pairs.

Merkx and Frank, Natural Language Engineering 2019, arXiv:1903.11393: a bidirectional GRU, attention
for every dimension, and the hinge over all mismatched pairs, for every two fields. Row 153 of the
catalogue.

Differs:
- Each cycle of the learning rate starts a fresh Adam. There are 4 cycles; the paper has 8, of four
  epochs each. The paper takes the mean of the similarities at the ends of its cycles (snapshot
  ensemble), which is left out.
- Characters are tokens, whatever the schema says of the text field. Those that are rare in the
  training texts are read by their bytes.
- The paper's pictures come from a frozen backbone (`--backbone image=timm:…`). Without one they go
  through a transformer of their own.
"""

from __future__ import annotations

from torch import Tensor

from amodal.core import Embeddings
from amodal.methods.contract import StagedMethod
from amodal.methods.shared.shapes import Objective, Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.margin import ranking_hinge

ENCODER = {"mixer": "gru", "pool": "vector"}
TOKENS = "characters"


def char_vgs(
    encoder: Encoder,
    *,
    width: int = 128,
    margin: float = 0.2,
    reduction: str = "sum",
    cycles: int = 4,
) -> Cycles:
    """A ranking hinge between every two fields, under a cyclic learning rate.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        width: Width of the common space.
        margin: By how much a pair must be closer than any mismatch.
        reduction: Reduction over a row's mismatches: "sum", "mean" or "hardest".
        cycles: Number of cycles of the learning rate, each with a fresh optimizer.
    """

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"hinge/{a}~{b}": ranking_hinge(*z.pair(a, b), margin=margin, over=reduction)
                for a, b in field_pairs(z)
            }
        )

    return Cycles(two_fields(encoder).align(width), objective, cycles=cycles)


class Cycles(StagedMethod, Towers):
    """Towers whose learning rate starts afresh with each stage.

    Args:
        cycles: Number of stages, of equal length.
    """

    def __init__(self, encoder: Encoder, objective: Objective, *, cycles: int):
        super().__init__(encoder, objective)
        self.stages = tuple((i + 1) / cycles for i in range(cycles))
