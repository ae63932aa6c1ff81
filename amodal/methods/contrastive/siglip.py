"""SigLIP for any number of fields: a binary loss on every pair of values, without a softmax.

Zhai et al., ICCV 2023, arXiv:2303.15343. Loss: their eq. 1, for every pair of fields over the
records that have both.
"""

from torch import Tensor

from amodal.core import Embeddings
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.methods.shared.typed_parts import bias_of
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.sigmoid import sigmoid_loss


def siglip(
    encoder: Encoder, *, width: int = 128, scale: float = 10.0, bias: float = -10.0
) -> Towers:
    """The sigmoid loss between every two fields, at one learned scale and bias.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        width: Width of the common space.
        scale: Initial value of the learned logit scale.
        bias: Initial value of the learned logit bias.
    """
    logit = Scale(scale, bias=bias)

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"sigmoid/{a}~{b}": sigmoid_loss(*z.pair(a, b), scale=logit(), bias=bias_of(logit))
                for a, b in field_pairs(z)
            }
        )

    return Towers(two_fields(encoder).align(width), objective, learned=logit)
