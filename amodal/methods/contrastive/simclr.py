"""SimCLR: two augmented views of a value are contrasted within the batch.

Chen et al., ICML 2020, arXiv:2002.05709. Loss: their eq. 1. With more than one field, each learns
from its own two views.
"""

from torch import Tensor

from amodal.core import Embeddings
from amodal.methods.shared.shapes import Towers, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.info_nce import nt_xent


def simclr(encoder: Encoder, *, temperature: float = 0.5, width: int = 128) -> Towers:
    """NT-Xent between two strong views of each value.

    Args:
        encoder: Trained in place.
        temperature: Temperature of the softmax.
        width: Output width of the projector, which training alone uses.
    """
    heads = {f: Projector(encoder.width, width, hidden=encoder.width) for f in encoder.fields}

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"nt_xent/{a}~{b}": nt_xent(*z.pair(a, b), temperature=temperature)
                for a, b in view_pairs(z)
            }
        )

    return Towers(encoder, objective, heads=heads, views=("strong", "strong"))
