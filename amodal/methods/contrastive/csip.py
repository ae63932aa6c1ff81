"""CSIP: pictures are contrasted with height maps, and so learn what stands out of the ground.

Corley and Najafirad, 2022, arXiv:2202.13251. Loss: softmax cross-entropy of each picture over the
height maps of the batch, at a learned temperature without bounds. Row 3 of the catalogue. Heads for
the later tasks, segmentation and change detection: `amodal.nn.heads.dense`.

Differs:

- encoders: those of the library, from nothing. The paper has two ResNets that start from ImageNet
  weights, with pooled features; `--backbone picture=timm:resnet18@pretrained` and the like give
  them, with `--train-backbones`, without which they stay as they are.
- projections have no bias; the authors' linear layers have one. Both are 256 wide by their classes;
  the file of their pre-training says 128 (`--method.width 128`).
- views: `weak`, a crop of 60 to 100 % and a flip, of each field on its own. The authors change both
  fields in the same way, half the time each by a crop of 50 to 100 %, flips in both directions and
  a turn by up to 90 degrees, blur a fifth of them, and then shift the picture's colours by a hair
  (strength .01) or make it grey (a fifth). There are no turns, no vertical flips and no blur here;
  `--views picture=plain heights=plain` lets the two fields show one place, without any change.
- heights are scaled as images of 16 bits there (divided by 65,535); here by what the field says.
- recipe: `PAPER_RECIPE`, where betas and decay are those of AdamW in torch, at which the authors
  leave them; biases and norms decay too there. A batch of theirs is 4 tiles cut into patches of 512
  pixels, 16 of a tile of 2,048; here a record is a patch, drawn on its own.
- product: the picture's encoder under a U-Net, and under Siamese fully convolutional networks for
  changes (concatenated or subtracted), with focal and Jaccard losses. Here `amodal map RUN --change
  BEFORE,AFTER` draws changes without a label, by the distance between the two maps of features, and
  `--segments` divides pictures. With labels `amodal pretrain ssma --init-from RUN` trains a decoder
  of pixels by cross-entropy on the encoder of the picture, which the map then shows; of two times
  it has two encoders that share no weights. Shared ones are parts of Python
  (`amodal.nn.heads.dense`), lighter than a U-Net, without skips from early layers.
- ours: any fields, of which one is the image; with more than one other, the mean over them; and the
  direction from heights to pictures (`symmetric`).
"""

from torch import Tensor

from amodal.core import Embeddings, Recipe, unknown
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.01,
    betas=(0.9, 0.999),
    schedule="constant",
    warmup=0.0,
    clip=0.0,
    batch_size=64,
    resolution=512,
    epochs=100.0,
)
"""The authors' configuration of pre-training."""


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
