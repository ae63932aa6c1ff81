"""DINO: a student that sees small crops predicts what its slow teacher makes of large ones.
Caron et al., ICCV 2021, arXiv:2104.14294. Loss: their eq. 1-3 and algorithm 1. For every field that can be cropped. What
is kept is the student, as of every method; the paper evaluates the teacher, which a run with an average of the weights (--average)
comes close to."""

from __future__ import annotations

import torch
from torch import nn

from amodal.core import Batch
from amodal.methods._contract import Clock, Features
from amodal.methods.shapes import StudentTeacher, follow, frozen_copy, share
from amodal.nn.encoder import Encoder
from amodal.nn.heads import PrototypeHead
from amodal.objectives.dino import dino_loss, update_center

LARGE = 2  # views that the teacher sees


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
    """prototypes: outputs of the head (65,536 in the paper, for ImageNet); local_views: small crops beside the two large ones;
    temperature, teacher_temperature: of the two softmaxes; center_momentum: of the teacher's centre; momentum: of the teacher at
    the start, rising to 1."""
    return Dino(encoder, prototypes, local_views, temperature, teacher_temperature, center_momentum, momentum)


class Dino(StudentTeacher):
    def __init__(self, encoder, prototypes, local_views, temperature, teacher_temperature, center_momentum, momentum):
        views = ("strong",) * LARGE + ("local",) * local_views
        super().__init__(encoder, momentum=momentum, final_momentum=1.0, views=views)
        self.temperature, self.teacher_temperature, self.center_momentum = (
            temperature,
            teacher_temperature,
            center_momentum,
        )
        self.heads = nn.ModuleDict({f: PrototypeHead(encoder.width, prototypes) for f in encoder.fields})
        self.teacher_heads = frozen_copy(self.heads)
        self.centers = nn.ParameterDict(
            {f: nn.Parameter(torch.zeros(prototypes), requires_grad=False) for f in encoder.fields}
        )
        self._next: dict[str, torch.Tensor] = {}

    def features(self, batch: Batch) -> Features:
        columns = dict(self.encoder.features(batch).columns)
        large = [s for f in self.encoder.fields for s in self._sources(f)[:LARGE]]
        with torch.no_grad():
            taught = self.teacher.features(batch.only(*large))
        return Features(columns | {f"teacher/{s}": taught[s] for s in large}, batch.size)

    def losses(self, features: Features) -> dict[str, torch.Tensor]:
        terms = {}
        for f in self.encoder.fields:
            student = torch.stack([self.heads[f](features[s].values) for s in self._sources(f)])
            with torch.no_grad():
                teacher = torch.stack(
                    [self.teacher_heads[f](features[f"teacher/{s}"].values) for s in self._sources(f)[:LARGE]]
                )
            terms[f"dino/{f}"] = dino_loss(
                student,
                teacher,
                student_temperature=self.temperature,
                teacher_temperature=self.teacher_temperature,
                center_K=self.centers[f],
            )
            self._next[f] = update_center(self.centers[f].detach(), teacher, momentum=self.center_momentum)
        return share(terms)

    def tick(self, clock: Clock) -> None:
        super().tick(clock)
        follow(self.teacher_heads, self.heads, self.momentum_at(clock))
        for f, center in self._next.items():
            self.centers[f].data.copy_(center)
        self._next = {}

    def _sources(self, field: str) -> list[str]:
        return [f"{field}:{i + 1}" for i in range(len(self.views))]
