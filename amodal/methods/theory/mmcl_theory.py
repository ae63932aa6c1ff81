"""CLIP-guided resampling: the similarities of a multimodal teacher repair the pairs of a
contrastive learner of one field. Zhang, Wang and Wang, ICML 2023, arXiv:2306.04272: their four
rules inside SimCLR. Row 75 of the catalogue. Their theory as diagnostics (labelling error,
connectivity, bound, the graph that texts induce) is `amodal.diagnose.positives`, their loss on a
table `amodal.objectives.spectral`.

The teacher is part of the method and of its run, so a run opens without the teacher's folder. With
the paper's networks, a CLIP (ViT-B/32) in DIR, which a rate of 0 makes a run, and a ResNet-18:

    amodal pretrain clip --data PAIRS --size base --method.width 512 --steps 1 --lr 0 --out CLIP
        --backbone image=transformers:DIR@projected text=transformers:DIR@projected
    amodal pretrain mmcl_theory --data PICTURES --fields image --recipe paper --out RUN
        --backbone image=timm:resnet18@scratch --method.teacher CLIP --method.rule new_positive

Differs:

- teacher: the paper's is the image tower of OpenAI's CLIP, given all views as they are. Here it is
  the encoder of another run, as above or of any method; without one, CLIP on the records' own
  fields, which the first part of the steps trains; then the encoder starts again from where it
  began.
- rules: the authors' code computes drop_false_positive and does not use it, and takes the share of
  negatives from all 2N similarities of a row, itself and its positive among them; here they are as
  in the paper.
- fields: each learns from its own two views, and the loss is the mean over fields.
- temperature: the paper's; the authors' configuration has .1.
- projector: statistics of batches are those of each view, theirs of both views together.
- encoder: the paper's ResNet-18 begins with other weights here; without `--backbone` it is one of
  the sizes.
- recipe: the authors' file is named after a batch of 512 and has 256, which is what `--recipe
  paper` takes; their classes are 100 of ImageNet's.
- views: `strong` unless `--recipe paper`, which has SimCLR's, those of the authors.
- theory: labelling error, connectivity and the bound of a data set are Python alone
  (`amodal.diagnose.positives`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import (
    AmodalError,
    Batch,
    Column,
    Embeddings,
    Recipe,
    field_of,
    unknown,
    view_of,
)
from amodal.methods.contract import Columns, FeatureRecord, StagedMethod
from amodal.methods.saved import frozen
from amodal.methods.shared.shapes import field_pairs, frozen_copy, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.nn.scale import Scale
from amodal.objectives.guided_nt_xent import SHARES, guided_nt_xent
from amodal.objectives.info_nce import info_nce

PAPER_RECIPE = Recipe(
    optimizer="lars",
    lr=1.2,
    weight_decay=1e-6,
    schedule="cosine",
    warmup=0.1,
    clip=0.0,
    views={"image": ("simclr", "simclr")},
    batch_size=256,
    epochs=100.0,
    resolution=224,
)


def mmcl_theory(
    encoder: Encoder,
    *,
    rule: str = "new_positive",
    teacher: str | Encoder = "",
    first: float = 0.5,
    temperature: float = 0.5,
    width: int = 128,
) -> Guided:
    """Build CLIP-guided resampling.

    Args:
        encoder: The learner.
        rule: "new_positive", "drop_false_positive", "drop_false_negative", "drop_easy_negative", or
            "none" (SimCLR).
        teacher: Folder of a run whose encoder is the teacher, or that encoder; "" to train one on
            the records' fields.
        first: Share of the steps in which it is trained.
        temperature: Of NT-Xent.
        width: Of the projector's output, and of the space in which a teacher trained here compares
            fields.
    """
    if rule not in SHARES:
        raise unknown("rule of resampling", rule, SHARES)
    if isinstance(teacher, str):
        pretrained = frozen(teacher) if teacher else None
    else:
        pretrained = teacher.requires_grad_(False)
    for field in encoder.fields:
        if pretrained is not None and field not in pretrained.fields:
            raise unknown("field of the teacher", field, pretrained.fields)
    if pretrained is None and rule != "none" and len(encoder.fields) < 2:
        raise AmodalError(
            "a teacher is trained on two fields of a record, and there is only "
            f"{', '.join(encoder.fields)}. Name the folder of a run that knows this field and "
            "another: --method.teacher"
        )
    return Guided(encoder, pretrained, rule=rule, temperature=temperature, width=width, first=first)


@dataclass(frozen=True, kw_only=True)
class GuidedFeatures(FeatureRecord):
    """Vectors of the learner and of the teacher.

    Args:
        student: source -> (N, D) before the heads.
        teacher: source -> (N, E) in the teacher's common space; empty while a teacher is trained,
            and without a rule.
    """

    student: Columns
    teacher: Columns


class Guided(StagedMethod):
    """SimCLR whose pairs are resampled by a teacher.

    Args:
        encoder: The learner.
        teacher: An encoder that never learns, or None to train one first, with heads `towers` into
            a common space.
        rule: Of resampling.
        temperature: Of NT-Xent.
        width: Of the projector's output, and of that common space.
        first: Share of the steps in which a teacher is trained.
    """

    min_batch_size, views = 2, ("strong", "strong")
    refresh_first = False

    def __init__(
        self,
        encoder: Encoder,
        teacher: Encoder | None,
        *,
        rule: str,
        temperature: float,
        width: int,
        first: float = 0.5,
    ):
        super().__init__()
        self.encoder, self.rule, self.temperature = encoder, rule, temperature
        self.heads = nn.ModuleDict(
            {f: Projector(encoder.width, width, hidden=encoder.width) for f in encoder.fields}
        )
        trains = teacher is None and rule != "none"
        self.towers = nn.ModuleDict(
            {f: nn.Linear(encoder.width, width, bias=False) for f in encoder.fields if trains}
        )
        self.scale = Scale(1 / 0.07, most=100.0) if trains else None
        # one that is trained here begins as the encoder, see `refresh`
        self.teacher = frozen_copy(encoder) if trains else teacher
        self.stages = (first, 1.0) if trains else (1.0,)
        self.on_stage_start(0)

    @property
    def spec_options(self) -> Mapping[str, object]:
        """The encoder of a teacher in place of the folder that it came from."""
        trains = self.scale is not None
        return {} if trains or self.teacher is None else {"teacher": self.teacher}

    def on_stage_start(self, stage: int) -> None:
        self.teaches = self.scale is not None and stage == 0
        self.heads.requires_grad_(not self.teaches)
        self.towers.requires_grad_(self.teaches)
        if self.scale is not None:
            self.scale.requires_grad_(self.teaches)

    @torch.no_grad()
    def refresh(self, stage: int, embed_all: Callable[[], Embeddings] | None) -> None:
        """The encoder becomes the teacher, and begins again where it began."""
        assert self.teacher is not None  # only one that is trained here has a second stage
        for student, teacher in zip(
            self.encoder.state_dict().values(), self.teacher.state_dict().values()
        ):
            # values change places, not modules, so that tensors keep their names in checkpoints
            learnt = student.clone()
            student.copy_(teacher)
            teacher.copy_(learnt)

    def features(self, batch: Batch) -> GuidedFeatures:
        if self.teaches:  # which compares fields in one view of each
            batch = batch.only(*(s for s in batch.sources if view_of(s) <= 1))
        z = self.encoder.features(batch)
        teacher: Columns = {}
        if self.teacher is not None and self.rule != "none" and not self.teaches:
            with torch.no_grad():
                t = self.teacher.features(batch)
                t = through(self.towers, t) if len(self.towers) else self.teacher.project(t)
            teacher = {s: t[s] for s in t.sources}
        student = {s: z[s] for s in z.sources}
        return GuidedFeatures(size=batch.size, student=student, teacher=teacher)

    def losses(self, features: GuidedFeatures) -> dict[str, Tensor]:
        student = Embeddings(dict(features.student), features.size)
        if self.scale is not None and self.teaches:
            z = through(self.towers, student)
            return share(
                {
                    f"teacher/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / self.scale())
                    for a, b in field_pairs(z)
                }
            )
        z, terms = through(self.heads, student), {}
        teacher = Embeddings(dict(features.teacher), features.size)
        for a, b in view_pairs(z):
            judged = (z if self.rule == "none" else teacher).pair(a, b)
            terms[f"guided/{a}~{b}"] = guided_nt_xent(
                *z.pair(a, b), *judged, rule=self.rule, temperature=self.temperature
            )
        return share(terms)


def through(heads: nn.ModuleDict, z: Embeddings) -> Embeddings:
    """The vectors of sources by the heads of their fields."""
    return Embeddings(
        {s: Column(heads[field_of(s)](z[s].values), z[s].rows) for s in z.sources}, z.size
    )
