"""DINO: a student that sees small crops predicts what its slow teacher makes of large ones, for
every field that can be cropped. Caron et al., ICCV 2021, arXiv:2104.14294, eq. 1-3 and algorithm 1.
The student is kept, as by every method; the paper evaluates the teacher, which a run with an
average of the weights (--ema) comes close to."""

import torch
from torch import nn

from amodal.core import Batch, views_of
from amodal.methods.contract import Clock, Features
from amodal.methods.shared.shapes import StudentTeacher, ema_update, frozen_copy, share
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import PrototypeHead
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
    """prototypes: outputs of the head (65,536 in the paper, for ImageNet); local_views: small crops
    beside the two large ones; temperature, teacher_temperature: of the two softmaxes;
    center_momentum: of the teacher's centre; momentum: of the teacher at the start, rising to 1."""
    method = Dino(encoder, prototypes, ("strong",) * LARGE + ("local",) * local_views, momentum)
    method.heat = {"student_temperature": temperature, "teacher_temperature": teacher_temperature}
    method.center_momentum = center_momentum
    return method


class Dino(StudentTeacher):
    def __init__(self, encoder: Encoder, prototypes: int, views: tuple[str, ...], momentum: float):
        super().__init__(encoder, momentum=momentum, final_momentum=1.0, views=views)
        self.heads = nn.ModuleDict(
            {f: PrototypeHead(encoder.width, prototypes) for f in encoder.fields}
        )
        self.teacher_heads = frozen_copy(self.heads)
        centers = {
            f: nn.Parameter(torch.zeros(prototypes), requires_grad=False) for f in encoder.fields
        }
        self.centers, self._next = nn.ParameterDict(centers), {}

    def features(self, batch: Batch) -> Features:
        columns = dict(self.encoder.features(batch).columns)
        large = [s for f in self.encoder.fields for s in views_of(f, LARGE)]
        with torch.no_grad():
            taught = self.teacher.features(batch.only(*large))
        return Features(columns | {f"teacher/{s}": taught[s] for s in large}, batch.size)

    def losses(self, features: Features) -> dict[str, torch.Tensor]:
        terms = {}
        for f in self.encoder.fields:
            sources, center = views_of(f, len(self.views)), self.centers[f]
            student = torch.stack([self.heads[f](features[s].values) for s in sources])
            with torch.no_grad():
                seen = [features[f"teacher/{s}"].values for s in sources[:LARGE]]
                teacher = torch.stack([self.teacher_heads[f](z) for z in seen])
            terms[f"dino/{f}"] = dino_loss(student, teacher, **self.heat, center_K=center)
            self._next[f] = update_center(center.detach(), teacher, momentum=self.center_momentum)
        return share(terms)

    def on_step_end(self, clock: Clock) -> None:
        super().on_step_end(clock)
        ema_update(self.teacher_heads, self.heads, self.momentum_at(clock))
        for f, center in self._next.items():
            self.centers[f].data.copy_(center)
        self._next = {}
