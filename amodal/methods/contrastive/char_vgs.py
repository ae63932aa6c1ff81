"""Sentences grounded in pictures: a recurrent reader of characters learns from nothing but which
picture a caption belongs to. Merkx and Frank, Natural Language Engineering 2019, arXiv:1903.11393:
bidirectional GRU, attention for every dimension, and the hinge over all mismatched pairs, for every
two fields. Row 153 of the catalogue.

Each cycle of the learning rate begins Adam anew; there are 4, where the paper has 8 of four epochs,
and takes the mean of the similarities of their ends (snapshot ensemble), which is left out. Letters
are read one by one where the text field has `patch = 1`. The paper's pictures come from a frozen
backbone (`--backbone image=timm:…`); without one they are read by a transformer of their own."""

from __future__ import annotations

from amodal.methods.contract import StagedMethod
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.margin import ranking_hinge

ENCODER = {"mixer": "gru", "pool": "vector"}


def char_vgs(
    encoder: Encoder, *, width: int = 128, margin: float = 0.2, over: str = "sum", cycles: int = 4
) -> Cycles:
    """width: of the common space; margin: by which a pair must be closer than any mismatch; over:
    of a row's mismatches, their "sum", "mean" or the "hardest"; cycles: of the learning rate, each
    of which begins anew."""

    def objective(z):
        pairs = field_pairs(z)
        return share(
            {
                f"hinge/{a}~{b}": ranking_hinge(*z.pair(a, b), margin=margin, over=over)
                for a, b in pairs
            }
        )

    method = Cycles(two_fields(encoder).align(width), objective)
    method.stages = tuple((i + 1) / cycles for i in range(cycles))
    return method


class Cycles(StagedMethod, Towers):
    """Towers whose learning rate begins anew with each stage."""
