"""DINO: a student with small crops predicts its momentum teacher's prototypes of large ones, for
every field that can be cropped. Caron et al., ICCV 2021, arXiv:2104.14294, eq. 1-3 and algorithm 1.
The student is saved, as by every method; the paper evaluates the teacher, which a run with an
average of the weights (--ema) comes close to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import Batch, views_of
from amodal.methods.contract import Clock, Columns, FeatureRecord
from amodal.methods.shared.shapes import StudentTeacher, ema_update, frozen_copy, share
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import PrototypeHead
from amodal.objectives.dino import dino_loss, update_center

LARGE = 2  # views that the teacher encodes


def dino(
    encoder: Encoder,
    *,
    prototypes: int = 1024,
    local_views: int = 4,
    temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    center_momentum: float = 0.9,
    momentum: float = 0.996,
) -> StudentTeacher:
    """Build DINO.

    Args:
        encoder: The student.
        prototypes: Outputs of the head (65,536 in the paper, for ImageNet).
        local_views: Small crops beside the two large ones.
        temperature: Of the student's softmax.
        teacher_temperature: Of the teacher's softmax.
        center_momentum: Of the teacher's centre.
        momentum: Of the teacher at the start, rising to 1.
    """
    return Dino(
        encoder,
        prototypes=prototypes,
        views=("strong",) * LARGE + ("local",) * local_views,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        center_momentum=center_momentum,
        momentum=momentum,
    )


@dataclass(frozen=True, kw_only=True)
class DinoFeatures(FeatureRecord):
    """Vectors of both networks.

    Args:
        student: source -> (N, D), of all views.
        teacher: source -> (N, D), of the large views, without a gradient.
    """

    student: Columns
    teacher: Columns


class Dino(StudentTeacher):
    """Self-distillation over prototypes.

    Args:
        encoder: The student.
        prototypes: Outputs of the head.
        views: How they are augmented, the large ones first.
        temperature: Of the student's softmax.
        teacher_temperature: Of the teacher's softmax.
        center_momentum: Of the teacher's centre.
        momentum: Of the teacher at the start.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        prototypes: int,
        views: tuple[str, ...],
        temperature: float,
        teacher_temperature: float,
        center_momentum: float,
        momentum: float,
    ):
        super().__init__(encoder, momentum=momentum, final_momentum=1.0, views=views)
        self.heads = nn.ModuleDict(
            {f: PrototypeHead(encoder.width, prototypes) for f in encoder.fields}
        )
        self.teacher_heads = frozen_copy(self.heads)
        centers = {
            f: nn.Parameter(torch.zeros(prototypes), requires_grad=False) for f in encoder.fields
        }
        self.centers = nn.ParameterDict(centers)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.center_momentum = center_momentum
        self._next_centers: dict[str, Tensor] = {}

    def features(self, batch: Batch) -> DinoFeatures:
        student = self.encoder.features(batch).columns
        large = [s for f in self.encoder.fields for s in views_of(f, LARGE)]
        with torch.no_grad():
            z = self.teacher.features(batch.only(*large))
        return DinoFeatures(size=batch.size, student=student, teacher={s: z[s] for s in large})

    def losses(self, features: DinoFeatures) -> dict[str, Tensor]:
        terms = {}
        for f in self.encoder.fields:
            sources, center = views_of(f, len(self.views)), self.centers[f]
            student = torch.stack([self.heads[f](features.student[s].values) for s in sources])
            with torch.no_grad():
                vectors = [features.teacher[s].values for s in sources[:LARGE]]
                teacher = torch.stack([self.teacher_heads[f](z) for z in vectors])
            terms[f"dino/{f}"] = dino_loss(
                student,
                teacher,
                student_temperature=self.temperature,
                teacher_temperature=self.teacher_temperature,
                center_K=center,
            )
            # kept until the step ends, as losses may be computed more than once
            self._next_centers[f] = update_center(
                center.detach(), teacher, momentum=self.center_momentum
            )
        return share(terms)

    def on_step_end(self, clock: Clock) -> None:
        super().on_step_end(clock)
        ema_update(self.teacher_heads, self.heads, self.momentum_at(clock))
        for f, center in self._next_centers.items():
            self.centers[f].data.copy_(center)
        self._next_centers = {}
