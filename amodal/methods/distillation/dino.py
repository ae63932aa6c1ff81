"""DINO: a student with small crops predicts its momentum teacher's prototypes of large ones, for
every field that can be cropped. Caron et al., ICCV 2021, arXiv:2104.14294, eq. 1-3 and algorithm 1.
The student is saved, as by every method; the paper evaluates the teacher, which a run with an
average of the weights (--ema) comes close to.

Differs: from the authors' code, for pictures of ImageNet:

- encoder: ViT-S/B or ResNet-50 there; a transformer over tokens here unless one says so:
  `--backbone image=timm:vit_base_patch16_224@scratch --resolution 224`. What is projected is the
  mean of the tokens unless `--pool cls`.
- head: `hidden`, `bottleneck` and `prototypes` are 2,048, 256 and 65,536 there. The direction of a
  prototype learns and its length is 1, as with their normed last layer.
- views: two of "strong" (crops of 20-100 %) and `local_views` of "local", of which they have 8
  (5-40 %, the large ones 40-100 %); theirs of the large crops differ in blur and solarisation.
- schedules: theirs of the teacher's temperature and of fixed prototypes are by the epoch, here by
  the step, as shares of the run: `teacher_warmup`, `fixed_prototypes`. By default both are 0.
- optimizer: `PAPER_RECIPE` has their numbers. Their cosine ends at 1e-6, ours at a hundredth of the
  rate; theirs decays no bias and no norm, as ours.
- product: the teacher there, the student here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Recipe, views_of
from amodal.methods.contract import Clock, Columns, FeatureRecord
from amodal.methods.shared.prototypes import rising_temperature, zero_centers
from amodal.methods.shared.shapes import StudentTeacher, ema_update, frozen_copy, share
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import PrototypeHead
from amodal.objectives.dino import dino_loss, update_center

LARGE = 2  # views that the teacher encodes

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=5e-4,
    lr_scaling="linear/256",
    weight_decay=0.04,
    weight_decay_end=0.4,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_epochs=10.0,
    clip=3.0,
    drop_path=0.1,
    batch_size=1024,
    epochs=100.0,
)
"""Of ViT, as their command for ViT-B has it."""


def dino(
    encoder: Encoder,
    *,
    prototypes: int = 1024,
    local_views: int = 4,
    temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    center_momentum: float = 0.9,
    momentum: float = 0.996,
    hidden: int = 256,
    bottleneck: int = 64,
    teacher_start: float = 0.04,
    teacher_warmup: float = 0.0,
    fixed_prototypes: float = 0.0,
) -> StudentTeacher:
    """Build DINO.

    Args:
        encoder: The student.
        prototypes: Outputs of the head (65,536 in the paper, for ImageNet).
        local_views: Small crops beside the two large ones.
        temperature: Of the student's softmax.
        teacher_temperature: Of the teacher's softmax (0.07 in the paper after its warm-up).
        center_momentum: Of the teacher's centre.
        momentum: Of the teacher at the start, rising to 1.
        hidden: Width of the head's two hidden layers (2,048 in the paper).
        bottleneck: Width of the unit vectors that prototypes are compared with (256 in the paper).
        teacher_start: The teacher's temperature at the first step, if it has a warm-up.
        teacher_warmup: Share of the steps in which the teacher's temperature rises from
            `teacher_start` (30 of 300 epochs in the paper); 0: it does not change.
        fixed_prototypes: Share of the steps in which prototypes stay as they are (1 epoch in the
            authors' code).
    """
    for name, share_of_steps in (
        ("teacher_warmup", teacher_warmup),
        ("fixed_prototypes", fixed_prototypes),
    ):
        if not 0 <= share_of_steps <= 1:
            raise AmodalError(f"{name} is a share of the steps, from 0 to 1, not {share_of_steps}")
    heads = {
        f: PrototypeHead(encoder.width, prototypes, hidden=hidden, bottleneck=bottleneck)
        for f in encoder.fields
    }
    return Dino(
        encoder,
        heads,
        views=("strong",) * LARGE + ("local",) * local_views,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        center_momentum=center_momentum,
        momentum=momentum,
        teacher_start=teacher_start,
        teacher_warmup=teacher_warmup,
        fixed_prototypes=fixed_prototypes,
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
        heads: Field -> its head.
        views: How they are augmented, the large ones first.
        temperature: Of the student's softmax.
        teacher_temperature: Of the teacher's softmax.
        center_momentum: Of the teacher's centre.
        momentum: Of the teacher at the start.
        teacher_start: The teacher's temperature at the first step, if it has a warm-up.
        teacher_warmup: Share of the steps in which it rises.
        fixed_prototypes: Share of the steps in which prototypes stay as they are.
    """

    progress: Tensor

    def __init__(
        self,
        encoder: Encoder,
        heads: Mapping[str, PrototypeHead],
        *,
        views: tuple[str, ...],
        temperature: float,
        teacher_temperature: float,
        center_momentum: float,
        momentum: float,
        teacher_start: float,
        teacher_warmup: float,
        fixed_prototypes: float,
    ):
        super().__init__(encoder, momentum=momentum, final_momentum=1.0, views=views)
        self.heads = nn.ModuleDict(heads)
        self.teacher_heads = frozen_copy(self.heads)
        self.centers = zero_centers(heads)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.center_momentum = center_momentum
        self._next_centers: dict[str, Tensor] = {}
        self.teacher_start, self.teacher_warmup = teacher_start, teacher_warmup
        self.fixed_prototypes = fixed_prototypes
        if teacher_warmup or fixed_prototypes:  # else there is nothing to remember in a checkpoint
            self.register_buffer("progress", torch.zeros(()))

    def teacher_temperature_now(self) -> float:
        """The teacher's temperature of this step."""
        if not self.teacher_warmup:  # then there is no `progress`
            return self.teacher_temperature
        return rising_temperature(
            self.teacher_start,
            self.teacher_temperature,
            self.teacher_warmup,
            float(self.progress),
        )

    def features(self, batch: Batch) -> DinoFeatures:
        student = self.encoder.features(batch).columns
        large = [s for f in self.encoder.fields for s in views_of(f, LARGE)]
        with torch.no_grad():
            z = self.teacher.features(batch.only(*large))
        return DinoFeatures(size=batch.size, student=student, teacher={s: z[s] for s in large})

    def losses(self, features: DinoFeatures) -> dict[str, Tensor]:
        terms, temperature = {}, self.teacher_temperature_now()
        fixed = bool(self.fixed_prototypes) and float(self.progress) < self.fixed_prototypes
        for f in self.encoder.fields:
            sources, center = views_of(f, len(self.views)), self.centers[f]
            head = self.heads[f]
            vectors = [features.student[s].values for s in sources]
            student = torch.stack([head(z, fixed=fixed) for z in vectors])
            with torch.no_grad():
                vectors = [features.teacher[s].values for s in sources[:LARGE]]
                teacher = torch.stack([self.teacher_heads[f](z) for z in vectors])
            terms[f"dino/{f}"] = dino_loss(
                student,
                teacher,
                student_temperature=self.temperature,
                teacher_temperature=temperature,
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
        if self.teacher_warmup or self.fixed_prototypes:
            self.progress.fill_(clock.progress)
