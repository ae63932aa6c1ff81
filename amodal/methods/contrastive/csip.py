"""CSIP: pictures are contrasted with height maps, and so learn what stands out of the ground.

Corley and Najafirad, 2022, arXiv:2202.13251. Loss: softmax cross-entropy of each picture over the
height maps of the batch, at a learned temperature without bounds. Row 3 of the catalogue. Heads for
the later tasks, segmentation and change detection: `amodal.nn.heads.dense`.

Differs: any fields, and the image is contrasted with each of the others, averaged. The encoders are
the library's instead of ResNets that start from ImageNet weights, and the projections have no bias.
The paper's code has the direction from picture to height alone, which is the default here.
"""

from torch import Tensor

from amodal.core import Embeddings, unknown
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce


def csip(
    encoder: Encoder,
    *,
    image: str = "",
    symmetric: bool = False,
    width: int = 256,
    temperature: float = 0.07,
) -> Towers:
    """InfoNCE from one image field to every other field.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        image: The field that is the query, and that later tasks use. Default: the first image
            field, else the first field.
        symmetric: Also contrast the other fields with the image.
        width: Width of the common space.
        temperature: Initial value of the learned softmax temperature.
    """
    pictures = [
        f for f, modality in two_fields(encoder).fields.items() if modality.layout == "grid"
    ]
    image = image or [*pictures, *encoder.fields][0]
    if image not in encoder.fields:
        raise unknown("field", image, encoder.fields, "It was to be csip's image.")
    scale = Scale(1 / temperature)

    def objective(z: Embeddings) -> dict[str, Tensor]:
        t = 1 / scale()
        return share(
            {
                f"info_nce/{a}>{b}": info_nce(*z.pair(a, b), temperature=t, symmetric=symmetric)
                for a, b in field_pairs(z, image)
            }
        )

    return Towers(encoder.align(width), objective, learned=scale)
