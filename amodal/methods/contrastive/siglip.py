"""SigLIP for any number of fields: each two values are told to belong together or not, pair by
pair, without a softmax. Zhai et al., ICCV 2023, arXiv:2303.15343. Loss: their eq. 1, for every pair
of fields over the records that have both."""

from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.sigmoid import sigmoid_loss


def siglip(
    encoder: Encoder, *, width: int = 128, scale: float = 10.0, bias: float = -10.0
) -> Towers:
    """width: of the common space; scale, bias: where the learned logit scale and bias start."""
    logit = Scale(scale, bias=bias)

    def objective(z):
        return share(
            {
                f"sigmoid/{a}~{b}": sigmoid_loss(*z.pair(a, b), scale=logit(), bias=logit.bias)
                for a, b in field_pairs(z)
            }
        )

    return Towers(two_fields(encoder).align(width), objective, learned=logit)
