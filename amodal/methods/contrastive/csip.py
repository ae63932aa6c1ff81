"""CSIP: pictures look for the height maps of what they show, and learn what stands out of the
ground. Corley and Najafirad, 2022, arXiv:2202.13251. Loss: softmax cross-entropy of each picture
over the height maps of the batch, at a learned temperature without bounds. Row 3 of the catalogue.
Heads for what comes after, segmentation and change: `amodal.nn.heads.dense`.

The paper's code has the direction from picture to height alone, which is the default here.
Differences: any fields, each of which the image looks for, averaged; encoders are the library's
instead of ResNets that begin from ImageNet's weights, and the projections have no bias."""

from amodal.core import unknown
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
    """image: the field that looks for the others and is kept for later tasks, the first picture
    (else the first field) unless given; symmetric: the others look for it too; width: of the common
    space; temperature: where the learned softmax temperature starts."""
    pictures = [
        f for f, modality in two_fields(encoder).fields.items() if modality.layout == "grid"
    ]
    image = image or [*pictures, *encoder.fields][0]
    if image not in encoder.fields:
        raise unknown("field", image, encoder.fields, "It was to be csip's image.")
    scale = Scale(1 / temperature)

    def objective(z):
        heat = 1 / scale()
        pairs = field_pairs(z, image)
        return share(
            {
                f"info_nce/{a}>{b}": info_nce(*z.pair(a, b), temperature=heat, symmetric=symmetric)
                for a, b in pairs
            }
        )

    return Towers(encoder.align(width), objective, learned=scale)
