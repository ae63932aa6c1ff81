"""Barlow Twins: the dimensions of two views' embeddings agree with themselves and not with each
other. Zbontar et al., ICML 2021, arXiv:2103.03230. Loss: their eq. 1."""

from torch import Tensor

from amodal.core import Embeddings
from amodal.methods.shared.shapes import Towers, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.barlow import barlow_twins as loss


def barlow_twins(encoder: Encoder, *, width: int = 2048, off_diagonal: float = 5e-3) -> Towers:
    """Build Barlow Twins.

    Args:
        encoder: Of any fields.
        width: Of the projector (the paper's largest has 8192).
        off_diagonal: Weight lambda of the redundancy term.
    """
    heads = {f: Projector(encoder.width, width, layers=3) for f in encoder.fields}

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"barlow/{a}~{b}": loss(*z.pair(a, b), off_diagonal=off_diagonal)
                for a, b in view_pairs(z)
            }
        )

    return Towers(encoder, objective, heads=heads, views=("strong", "strong"))
