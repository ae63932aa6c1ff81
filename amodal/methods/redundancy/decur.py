"""DeCUR: redundancy reduction that keeps common and field-unique dimensions apart.
Wang et al., ECCV 2024, arXiv:2309.05300. Loss: their eq. 2-5. Row 2 of the catalogue.

Differs:

- encoder: a transformer over tokens. The paper has ResNet-50, ViT-S and SegFormer, begun from
  weights of ImageNet; the first two can be had as backbones. Its residual deformable attention for
  ResNets (RDA) is not here.
- projector: 2,048 wide (`width=8192` for the paper's). Each field has its own. In the authors'
  code both are made of one list of layers and so share their weights, against the paper. The last
  layer has a bias, which standardising subtracts again.
- loss: terms are added; the authors' code divides their sum by three. With n fields the terms of a
  pair are divided by n - 1.
- common share: .875 is that for radar and optical images; the paper searches it (.75 for pictures
  with heights).
- views: `strong` twice for each field. Theirs are crops of 20-100 % (50-100 % indoors), flips on
  both axes, brightness and contrast alone, and of radar, heights and depth less than that; two
  views of satellite images may be of two seasons.
- optimizer: one rate for all; theirs has 0.0048 for biases and norms. The cosine ends at 1 % of
  the rate, theirs at 0.
- product: `amodal evaluate` probes each field alone and all together, `amodal adapt` fine-tunes.
  Segmentation: `amodal pretrain ssma --init-from RUN` trains a decoder of pixels on the encoders,
  with all fields or some, and `amodal map` draws what it has learnt, or segments and changes
  without labels. Theirs are SegFormer's decoder, FCN and CMX.
- the two kinds of dimensions are in the projectors, which the run keeps; the authors' pictures of
  what each kind looks at are not here.
"""

from torch import Tensor

from amodal.core import Embeddings, Recipe
from amodal.methods.shared.shapes import Towers, field_pairs, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.barlow import barlow_twins
from amodal.objectives.decur import decur as cross

# of the authors' scripts for pictures with heights; radar and optical images have 200 epochs, 512
# rows and a weight decay of 1e-5
PAPER_RECIPE = Recipe(
    optimizer="lars",
    lr=0.2,
    weight_decay=1e-6,
    momentum=0.9,
    schedule="cosine",
    warmup_steps=0,
    clip=0.0,
    batch_size=256,
    epochs=100.0,
)


def decur(
    encoder: Encoder, *, width: int = 2048, common: float = 0.875, off_diagonal: float = 5.1e-3
) -> Towers:
    """Build DeCUR.

    Args:
        encoder: Of any fields.
        width: Projector output D (8192 in the paper).
        common: Share of D on which two fields must agree (searched in the paper, 0.875 for radar
            and optical images).
        off_diagonal: Weight lambda of the redundancy terms.
    """
    heads = {f: Projector(encoder.width, width, layers=3) for f in encoder.fields}

    def objective(z: Embeddings) -> dict[str, Tensor]:
        within = {
            f"within/{a}~{b}": barlow_twins(*z.pair(a, b), off_diagonal=off_diagonal)
            for a, b in view_pairs(z)
        }
        across: dict[str, Tensor] = {}
        for a, b in field_pairs(z):
            shared, unique = cross(*z.pair(a, b), common=common, off_diagonal=off_diagonal)
            across |= {f"common/{a}~{b}": shared, f"unique/{a}~{b}": unique}
        # two fields: L_1 + L_2 + (L_common + L_unique) / 2. Of n, each meets n - 1 others, whose
        # terms share the weight of one
        others = len(encoder.fields) - 1
        return within | {name: term / (2 * others) for name, term in across.items()}

    return Towers(encoder, objective, heads=heads, views=("strong", "strong"))
