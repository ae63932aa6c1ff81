"""AstroM3: every two fields of an object are contrasted, each pair at a temperature of its own.

Rizhko and Bloom, 2024, arXiv:2411.08842. Loss: their symmetric cross-entropy of each pair of
fields, averaged over the pairs. Row 39 of the catalogue. The authors' encoders are backbones from
scratch: an Informer over 200 steps of a light curve, the plain convolutions of GalSpecNet over
2,575 places of a spectrum, and two layers over the metadata.

    amodal pretrain astrom3 --data DATA --recipe paper --size base --views all=plain --out RUN
        --backbone light=informer spectrum=cnn1d metadata=mlp:width=512,layers=2
    amodal search RUN ...                   # similar stars, within a field and across fields
    amodal diagnose RUN --data DATA --label class     # fields that disagree; unlike their class
    amodal cluster RUN --data DATA          # subclasses
    amodal adapt RUN --data DATA --label class --out RUN2

Differs:

- encoders: between a backbone and the common space are two linear maps, through the width of
  `--size`, the second without a bias. ProbSparse attention draws its keys once for all series,
  theirs anew at each step. A light curve of more steps is cut to its middle, also in training,
  where theirs is cut at random (`--views light=weak` for 80 to 100 % of the steps with some noise).
- dropout: the authors' encoders have .25, .34 and .16; there is none here.
- inputs: a light curve is scaled by the channels' mean and deviation over the training records; the
  authors scale each by its own mean and median deviation, put its times between 0 and 1 and its
  length and deviation beside each step, with four of the star's numbers: channels that the data
  has to bring. Steps that lie unevenly in time need a channel of their own for it (a column that is
  not called time). Spectra come as they are, not brought to one grid of wavelengths.
- loss: the mean over pairs and directions; the authors' code has their sum, 6 times as much.
- a scale that has reached a bound still gets a gradient. The authors' clamping stops it, also at
  the bound where scales begin if rounding puts them past it.
- recipe: Adam's decay is decoupled here, and of matrices alone. The rate falls on a plateau of the
  loss in training, by entries of the log, theirs of the loss on validation data, by epochs, of
  which 6 without a lower one end the run; they keep the epoch that matches the fields of validation
  data best. Numbers of their search are rounded.
- product: the authors' classifier of all fields reads the mean of the projected vectors; `adapt`
  has the fields side by side, before projection.
- ours: any fields, and rows that lack some; other encoders and views.
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
