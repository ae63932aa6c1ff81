"""ALIGN: two towers, one softmax in each direction, slightly smoothed labels, and noisy data.

Jia et al., ICML 2021, arXiv:2102.05918. Loss: their eq. 1-2, summed, for every pair of fields over
the records that have both. Their rules for dropping pairs are `amodal.curate.pair_rules`. Queries
such as a picture plus words are sums of vectors, see `amodal.search.query`. Row 149 of the
catalogue.

Differs:

- encoder: transformers over tokens, from scratch. The paper has EfficientNet-L2 with global
  pooling and BERT-large's first token: `--backbone image=timm:tf_efficientnet_l2:289@scratch
  caption=transformers:DIR@first@scratch`. Nothing is dropped in them here.
- heads: a linear map of each field into a space of 640; the paper maps text alone, into the space
  of its pictures' features.
- temperature: learned as a logarithm; the paper does not say. Its lower bound is ours.
- views: `weak`, a crop of 60-100 % and a flip; theirs are a random square of 289 of 346 pixels (70
  %) and a flip, and texts whole (`--views caption=plain`).
- optimizer: after the warm-up a cosine, theirs falls linearly to 0 (`--schedule linear`).
- data: the rules for pairs are `amodal curate --by pair_rules`, with the paper's limits; that on
  adult pictures, which takes a classifier, is left out.
- product: zero-shot classes by their names alone, retrieval and probes by `amodal evaluate`,
  queries of a picture and words by `amodal search`.
- multilingual training is the same loss on other texts; fine-tuning on Flickr30K and COCO has no
  recipe here.
"""

from torch import Tensor

from amodal.core import Embeddings, Recipe
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.smoothed_info_nce import smoothed_info_nce

PAPER_RECIPE = Recipe(
    optimizer="lamb",
    lr=1e-3,
    weight_decay=1e-5,
    schedule="cosine",
    warmup_steps=10_000,
    batch_size=16_384,
    steps=1_200_000,
)


def align(
    encoder: Encoder,
    *,
    width: int = 640,
    temperature: float = 1.0,
    min_temperature: float = 0.01,
    smoothing: float = 0.1,
) -> Towers:
    """InfoNCE with smoothed labels between every two fields, both directions summed.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        width: Width of the common space.
        temperature: Initial value of the learned softmax temperature.
        min_temperature: Lower bound of the temperature.
        smoothing: Share of a row's target that is spread evenly over all rows of the batch.
    """
    scale = Scale(1 / temperature, most=1 / min_temperature)

    def objective(z: Embeddings) -> dict[str, Tensor]:
        # eq. 1 and 2 are added, while `smoothed_info_nce` is the mean of both directions
        both = {
            f"info_nce/{a}~{b}": 2
            * smoothed_info_nce(*z.pair(a, b), temperature=1 / scale(), smoothing=smoothing)
            for a, b in field_pairs(z)
        }
        return share(both)

    return Towers(two_fields(encoder).align(width), objective, learned=scale)
