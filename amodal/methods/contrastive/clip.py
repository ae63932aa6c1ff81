"""CLIP for any number of fields: each two fields of a record find each other among the batch.
Radford et al., ICML 2021, arXiv:2103.00020, figure 3; every pair of fields has its own symmetric
InfoNCE, over the records that have both, as in CMC (arXiv:1906.05849, eq. 8)."""

from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce


def clip(
    encoder: Encoder, *, width: int = 128, temperature: float = 0.07, max_scale: float = 100.0
) -> Towers:
    """width: of the common space; temperature: where the learned softmax temperature starts;
    max_scale: bound of its inverse."""
    scale = Scale(1 / temperature, most=max_scale)

    def objective(z):
        return share(
            {
                f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale())
                for a, b in field_pairs(z)
            }
        )

    return Towers(two_fields(encoder).align(width), objective, learned=scale)
