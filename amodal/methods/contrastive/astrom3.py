"""AstroM3: every two fields of an object are contrasted, each pair at a temperature of its own.

Rizhko and Bloom, 2024, arXiv:2411.08842. Loss: their symmetric cross-entropy of each pair of
fields, averaged over the pairs. Row 39 of the catalogue. What the paper does with it afterwards:
`amodal search` for similar objects, `amodal diagnose` for outliers.

Differs:

- encoders: those of the library. `--backbone spectrum=resnet1d --backbone facts=mlp` are a
  convolutional network with shortcuts for spectra and a residual perceptron; theirs are plain
  convolutions (GalSpecNet) and two layers. Light curves go through blocks with whole attention,
  theirs through an Informer (8 layers, 128 wide, 4 heads), which computes a part of it.
- what is projected is a field's vector in the encoder's width, by a linear map without a bias; the
  authors lay all 200 steps of a light curve, and all places of a spectrum, side by side.
- dropout: the authors' encoders have .25, .34 and .16; there is none here.
- inputs: a light curve is scaled by the channels' mean and deviation over the training records; the
  authors scale each by its own mean and median deviation, put its times between 0 and 1 and its
  length and deviation beside each step, with four of the star's numbers. Steps that lie unevenly in
  time need a channel of their own for it (a column that is not called time). Spectra come as they
  are, not brought to one grid of wavelengths.
- views: `weak`, 80 to 100 % of the steps with some noise, and a tenth of the cells dropped. The
  authors only choose 200 steps in a row of a longer light curve (`--views all=plain` for none).
- loss: the mean over pairs and directions; the authors' code has their sum, 6 times as much.
- a scale that has reached a bound still gets a gradient. The authors' clamping stops it, also at
  the bound where scales begin if rounding puts them past it.
- recipe: Adam's decay is decoupled here, and of matrices alone. The rate falls on a plateau of the
  loss in training, by entries of the log, theirs of the loss on validation data, by epochs, of
  which 6 without a lower one end the run; they keep the epoch that matches the fields of validation
  data best. Numbers of their search are rounded.
- product: `amodal search` finds similar stars, the method `finetune` classifies, `amodal cluster`
  finds subclasses; `amodal diagnose` names the objects whose fields disagree most. Outliers by the
  mean similarity of the members of a class are not there. The authors' classifier of all fields
  reads the mean of the projected vectors; `finetune` has them side by side, before projection.
- ours: any fields, and rows that lack some.
"""

import itertools

from torch import Tensor, nn

from amodal.core import Embeddings, Recipe
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=3.92e-3,
    weight_decay=4.67e-3,
    betas=(0.926, 0.999),
    schedule="plateau",
    decay_rate=0.1125,
    patience=3,
    warmup_epochs=10,
    clip=45.0,
    batch_size=512,
    epochs=100,
)
"""The authors' configuration of pre-training."""


def astrom3(
    encoder: Encoder,
    *,
    width: int = 512,
    temperature: float = 0.01,
    min_scale: float = 1.0,
    max_scale: float = 100.0,
) -> Towers:
    """InfoNCE between every two fields, with one learned temperature a pair.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        width: Width of the common space.
        temperature: Initial value of each learned softmax temperature.
        min_scale: Lower bound of the inverse temperature.
        max_scale: Upper bound of the inverse temperature.
    """
    pairs = itertools.combinations(two_fields(encoder).fields, 2)
    scales = nn.ModuleDict(
        {"~".join(pair): Scale(1 / temperature, least=min_scale, most=max_scale) for pair in pairs}
    )

    def objective(z: Embeddings) -> dict[str, Tensor]:
        terms = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale_of(a, b)())
            for a, b in field_pairs(z)
        }
        return share(terms)

    def scale_of(a: str, b: str) -> nn.Module:
        # a batch may bring its fields in another order than the encoder
        return scales[f"{a}~{b}"] if f"{a}~{b}" in scales else scales[f"{b}~{a}"]

    return Towers(encoder.align(width), objective, learned=scales)
