"""SimSiam: predict one's own projection of another view; a stopped gradient is all that is needed.

Chen and He, CVPR 2021, arXiv:2011.10566. Loss: their eq. 4, algorithm 1. With more than one field,
each learns from its own two views, and the loss is the mean over fields.

Views: `strong`, which is the paper's augmentation.

Differs:

- encoder: a transformer over tokens; the paper has ResNets, whose BatchNorm would couple rows. The
  paper's projector is as wide as its ResNet's features; `hidden` and `width` are numbers of their
  own here, with the paper's as defaults.
- optimizer: weight decay is of matrices alone; the authors' is of norms and biases too. The cosine
  ends at 1 % of the rate, theirs at 0.
- predictor: its learning rate falls with the others'; the authors' code can keep it fixed
  (`--fix-pred-lr`, 68.1 against 67.7 in their table 1).
- views: one linear map has the changes of colour in a fixed order, and blur comes before them.
- batch: 512 rows, or as many as there are; statistics are those of all of them, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from amodal.core import Batch, Embeddings, Recipe, field_of
from amodal.methods.contract import Method
from amodal.methods.shared.shapes import share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.negative_cosine import minus_cosine

PAPER_RECIPE = Recipe(
    optimizer="sgd",
    lr=0.05,
    lr_scaling="linear/256",
    weight_decay=1e-4,
    momentum=0.9,
    schedule="cosine",
    warmup_steps=0,
    clip=0.0,
    batch_size=512,
    epochs=100.0,
)


class SimSiam(Method):
    """Two views a value: from each, the projection of the other is predicted.

    Args:
        encoder: Of both views.
        projectors: Field -> projector.
        predictors: Field -> predictor.
    """

    views = ("strong", "strong")
    min_batch_size = 2  # for BatchNorm in the heads

    def __init__(
        self,
        encoder: Encoder,
        *,
        projectors: Mapping[str, nn.Module],
        predictors: Mapping[str, nn.Module],
    ):
        super().__init__()
        self.encoder = encoder
        self.projectors, self.predictors = nn.ModuleDict(projectors), nn.ModuleDict(predictors)

    def features(self, batch: Batch) -> Embeddings:
        return self.encoder.features(batch)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        terms = {}
        for a, b in view_pairs(features):
            f = field_of(a)
            z1, z2 = (self.projectors[f](x) for x in features.pair(a, b))
            p1, p2 = (self.predictors[f](z) for z in (z1, z2))
            # the stop-gradient, without which everything collapses, is that of the objective
            terms[f"simsiam/{a}~{b}"] = (minus_cosine(p1, z2) + minus_cosine(p2, z1)) / 2
        return share(terms)


def simsiam(
    encoder: Encoder, *, width: int = 2048, hidden: int = 2048, predictor_hidden: int = 512
) -> SimSiam:
    """Build SimSiam.

    Args:
        encoder: Of both views.
        width: Of projections and predictions.
        hidden: Of the projectors' two hidden layers.
        predictor_hidden: Of the predictors' hidden layer, a bottleneck.
    """
    projectors = {
        f: Projector(encoder.feature_width(f), width, hidden=hidden, layers=3, last_norm=True)
        for f in encoder.fields
    }
    predictors = {f: Projector(width, width, hidden=predictor_hidden) for f in encoder.fields}
    return SimSiam(encoder, projectors=projectors, predictors=predictors)
