"""CLIP for any number of fields: every two fields of a record are contrasted within the batch.

Radford et al., ICML 2021, arXiv:2103.00020, figure 3. Every pair of fields has its own symmetric
InfoNCE, over the records that have both, as in CMC (arXiv:1906.05849, eq. 8).
"""

from torch import Tensor

from amodal.core import Embeddings
from amodal.methods.shared.shapes import Objective, Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce


def clip(
    encoder: Encoder, *, width: int = 128, temperature: float = 0.07, max_scale: float = 100.0
) -> Towers:
    """InfoNCE between every two fields, at one learned temperature.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        width: Width of the common space.
        temperature: Initial value of the learned softmax temperature.
        max_scale: Upper bound of the inverse temperature.
    """
    scale = Scale(1 / temperature, most=max_scale)
    return Towers(two_fields(encoder).align(width), pairwise_info_nce(scale), learned=scale)


def pairwise_info_nce(scale: Scale) -> Objective:
    """The mean over pairs of fields of their InfoNCE, at one temperature."""

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale())
                for a, b in field_pairs(z)
            }
        )

    return objective
