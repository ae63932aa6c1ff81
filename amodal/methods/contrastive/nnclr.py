"""NNCLR: the positive of a view is the nearest neighbour, in a support set, of the other view.
Dwibedi, Aytar, Tompson, Sermanet & Zisserman, ICCV 2021, arXiv:2104.14548. Loss: their eq. 3 and 4
with predictions, algorithm 1.

Each field has heads and a support set of its own, a queue of projections of the first views of
earlier rows. Neighbours have no gradient.

Differs:
- Views are two of "strong", which are SimCLR's but for crops of 20 to 100 % of the area (theirs 8
  to 100 %); no small crops beside them.
- The softmax over predictions and the one over neighbours (their symmetric loss) are averaged,
  where theirs are added; the two views are averaged as in algorithm 1.
- The first layers of the projection have no bias, which the BatchNorm behind them would subtract.
- No code of the authors is public. What the paper leaves open is chosen here: BatchNorm is per
  view, over the batch of all processes.
- Their encoder is a ResNet-50, to be had by `--backbone image=timm:resnet50 --train-backbones`.
  Ours is a transformer unless one says so.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import Batch, Embeddings, Recipe, views_of
from amodal.methods.contract import Clock, Method
from amodal.methods.shared.ranges import check_at_least, check_positive
from amodal.methods.shared.shapes import share
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import BatchNorm, Projector
from amodal.nn.queue import Queues, nearest
from amodal.objectives.info_nce import info_nce

PAPER_RECIPE = Recipe(
    optimizer="lars",
    lr=0.3,
    lr_scaling="linear/256",
    momentum=0.9,
    weight_decay=1e-6,
    schedule="cosine",
    warmup_epochs=10,
    clip=0.0,
    batch_size=4096,
    epochs=1000,
)
"""Of ImageNet, section 4.1."""


def nnclr(
    encoder: Encoder,
    *,
    temperature: float = 0.1,
    queue: int = 98304,
    width: int = 256,
    hidden: int = 2048,
    predictor_hidden: int = 4096,
) -> Nnclr:
    """Build NNCLR.

    Args:
        encoder: Of any fields.
        temperature: Of the softmax.
        queue: Rows of the support set of each field. Set it well below the number of records: the
            nearest neighbour of a row may be an older vector of its own, which is no other row.
        width: Of projections and predictions.
        hidden: Of the projection's other layers.
        predictor_hidden: Of the prediction's other layer.

    Raises:
        AmodalError: For an option out of its range.
    """
    check_at_least(1, queue=queue, width=width, hidden=hidden, predictor_hidden=predictor_hidden)
    check_positive(temperature=temperature)
    return Nnclr(
        encoder,
        temperature=temperature,
        queue=queue,
        width=width,
        hidden=hidden,
        predictor_hidden=predictor_hidden,
    )


class Nnclr(Method):
    """Contrast with nearest neighbours; see `nnclr` for the arguments."""

    min_batch_size = 2
    views = ("strong", "strong")

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: float,
        queue: int,
        width: int,
        hidden: int,
        predictor_hidden: int,
    ):
        super().__init__()
        self.encoder, self.temperature = encoder, temperature
        self.heads = nn.ModuleDict(
            {
                f: nn.Sequential(
                    Projector(encoder.width, width, hidden=hidden, layers=3), BatchNorm(width)
                )
                for f in encoder.fields
            }
        )
        self.predictors = nn.ModuleDict(
            {f: Projector(width, width, hidden=predictor_hidden) for f in encoder.fields}
        )
        self.queues = Queues(list(encoder.fields), queue, width)
        # section 3.2: it begins as random vectors, so that there is a neighbour from the first step
        self.queues.push({f: normalize(torch.randn(queue, width), dim=1) for f in encoder.fields})
        self._new: dict[str, Tensor] = {}

    def features(self, batch: Batch) -> Embeddings:
        return self.encoder.features(batch)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        return share({f"nnclr/{f}": self.contrast(features, f) for f in self.encoder.fields})

    def contrast(self, features: Embeddings, field: str) -> Tensor:
        """Each view's neighbour picks out the prediction of the other view, eq. 4."""
        z1, z2 = (self.heads[field](features[s].flat) for s in views_of(field, 2))
        p1, p2 = (self.predictors[field](z) for z in (z1, z2))
        support = self.queues.earlier(field).to(z1.dtype)
        near1, near2 = (nearest(normalize(z.detach(), dim=1), support) for z in (z1, z2))
        # pushed after the step, so that no row is its own neighbour; of one view, section 3.2
        self._new[field] = normalize(z1.detach(), dim=1)
        return (
            info_nce(near1, p2, temperature=self.temperature)
            + info_nce(near2, p1, temperature=self.temperature)
        ) / 2

    def on_step_end(self, clock: Clock) -> None:
        self.queues.push(self._new)
        self._new = {}
