"""A student predicts its momentum teacher's projection of another view (BYOL, MoCo v3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import Batch, Embeddings, field_of
from amodal.methods.contract import Clock, Columns, FeatureRecord
from amodal.methods.shared.shapes import (
    StudentTeacher,
    ema_update,
    frozen_copy,
    share,
    view_pairs,
)
from amodal.nn.encoder import Encoder

PairLoss = Callable[[Tensor, Tensor], Tensor]
"""(N, D) predictions and (N, D) targets of the same rows -> a scalar."""


@dataclass(frozen=True, kw_only=True)
class TwoNetworks(FeatureRecord):
    """Vectors of both networks, before their heads.

    Args:
        student: source -> (N, D).
        teacher: source -> (N, D), without a gradient.
    """

    student: Columns
    teacher: Columns


class MomentumTarget(StudentTeacher):
    """Two views a value: from each, the teacher's projection of the other is predicted.

    Heads have batch statistics, so they run in `losses`, where the whole batch is there, once for
    each view. The teacher's BatchNorm has statistics of its own.

    Args:
        encoder: The student.
        projectors: Field -> projector, which the teacher has a moving average of.
        predictors: Field -> predictor of the student alone.
        loss: Of predictions and targets.
        name: Of the loss, in the log.
        momentum: Of the teacher at the start, rising to 1 by half a cosine.
        views: How the two views are augmented.
    """

    min_batch_size = 2  # for BatchNorm in the heads

    def __init__(
        self,
        encoder: Encoder,
        *,
        projectors: Mapping[str, nn.Module],
        predictors: Mapping[str, nn.Module],
        loss: PairLoss,
        name: str,
        momentum: float,
        views: tuple[str, str],
    ):
        super().__init__(encoder, momentum=momentum, final_momentum=1.0, views=views)
        self.projectors, self.predictors = nn.ModuleDict(projectors), nn.ModuleDict(predictors)
        self.teacher_projectors = frozen_copy(self.projectors)
        self.loss, self.name = loss, name

    def features(self, batch: Batch) -> TwoNetworks:
        with torch.no_grad():
            teacher = self.teacher.features(batch).columns
        student = self.encoder.features(batch).columns
        return TwoNetworks(size=batch.size, student=student, teacher=teacher)

    def losses(self, features: TwoNetworks) -> dict[str, Tensor]:
        student = Embeddings(dict(features.student), features.size)
        teacher = Embeddings(dict(features.teacher), features.size)
        terms = {}
        for a, b in view_pairs(student):
            f = field_of(a)
            guesses = [self.predictors[f](self.projectors[f](z)) for z in student.pair(a, b)]
            with torch.no_grad():
                targets = [self.teacher_projectors[f](z) for z in teacher.pair(a, b)]
            loss = self.loss(guesses[0], targets[1]) + self.loss(guesses[1], targets[0])
            terms[f"{self.name}/{a}~{b}"] = loss
        return share(terms)

    def on_step_end(self, clock: Clock) -> None:
        super().on_step_end(clock)
        momentum = self.momentum_at(clock)
        ema_update(self.teacher_projectors, self.projectors, momentum, buffers=False)
