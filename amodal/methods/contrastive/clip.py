"""CLIP for any number of fields: every two fields of a record are contrasted within the batch.

Radford et al., ICML 2021, arXiv:2103.00020, figure 3. Every pair of fields has its own symmetric
InfoNCE, over the records that have both, as in CMC (arXiv:1906.05849, eq. 8).

Differs: from the paper, for pictures and texts:

- encoders: ViT or a changed ResNet for pictures, a causal transformer of 12 layers for texts, whose
  vector is its last token's. Here small networks or transformers over tokens and their mean, unless
  one says so: `--backbone image=timm:vit_base_patch32_224@scratch
  text=transformers:DIR@scratch` with an architecture in DIR, `--pool cls` for pictures.
- size: `width` of the common space is 512 there for ViT-B/32 and 1,024 for ResNet-50.
- views: theirs is a random square of the resized picture; here "weak" views, unless the recipe or
  `--views` say otherwise.
- optimizer: `PAPER_RECIPE`, from tables 18 to 20; epsilon is 1e-6 there for ViT. It is chosen by
  itself from 100 million records on: batches of 32,768 are of no use for fewer.
"""

from torch import Tensor

from amodal.core import Embeddings, Recipe
from amodal.methods.shared.shapes import Objective, Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=5e-4,
    weight_decay=0.2,
    betas=(0.9, 0.98),
    schedule="cosine",
    warmup_steps=2000,
    clip=0.0,
    batch_size=32768,
    epochs=32.0,
)
"""Of ViT-B/32 and ResNet-50 (whose second beta is 0.999)."""
PAPER_RECORDS = 100_000_000


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
