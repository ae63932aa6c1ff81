"""Hard negatives between fields: the more a negative resembles the anchor, the more it counts.

Choi, Beedu & Essa, 2023, arXiv:2309.01262. The loss is that of Robinson et al. (arXiv:2010.04592,
eq. 4) on pairs of motion sensors, here of any two fields of a record. Temperature, beta and prior
are within these papers' ranges. Row 49 of the catalogue.
"""

from torch import Tensor

from amodal.core import Embeddings
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.hard_negative import hard_negative_nce


def hardneg_har(
    encoder: Encoder,
    *,
    beta: float = 1.0,
    prior: float = 0.1,
    temperature: float = 0.5,
    width: int = 128,
    within: bool = True,
) -> Towers:
    """InfoNCE with debiased, reweighted negatives between every two fields.

    Args:
        encoder: Gets projection heads; needs two fields.
        beta: How much near negatives are stressed, 0 for not at all.
        prior: Assumed share of negatives that are of the anchor's class.
        temperature: Temperature of the softmax.
        width: Output width of the projection heads, which the loss alone uses.
        within: Negatives also come from the anchor's own field.
    """

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"hard/{a}~{b}": hard_negative_nce(
                    *z.pair(a, b), beta=beta, prior=prior, temperature=temperature, within=within
                )
                for a, b in field_pairs(z)
            }
        )

    return Towers(
        two_fields(encoder).align(width, hidden=encoder.width), objective, views=("strong",)
    )
