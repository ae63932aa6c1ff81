"""CLIP-guided resampling: what a multimodal teacher finds alike repairs the pairs of a contrastive
learner of one field. Zhang, Wang and Wang, ICML 2023, arXiv:2306.04272: their four rules inside
SimCLR. Row 75 of the catalogue. Their theory as diagnostics (labelling error, connectivity, bound,
the graph that texts induce) is `amodal.diagnose.positives`, their loss on a table
`amodal.objectives.spectral`.

The paper's teacher is OpenAI's CLIP. Here it is the encoder of another run or, without one, CLIP on
the records' own fields, which the first part of the steps trains; then the encoder starts again
from where it began. The authors' code computes drop_false_positive and then does without it; here
it is as the paper says."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, field_of, unknown, view_of
from amodal.methods.contract import Features, StagedMethod
from amodal.methods.saved import frozen
from amodal.methods.shared.shapes import field_pairs, frozen_copy, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.nn.scale import Scale
from amodal.objectives.guided_nt_xent import SHARES, guided_nt_xent
from amodal.objectives.info_nce import info_nce


def mmcl_theory(
    encoder: Encoder,
    *,
    rule: str = "new_positive",
    teacher: str = "",
    first: float = 0.5,
    temperature: float = 0.5,
    width: int = 128,
) -> Guided:
    """rule: "new_positive", "drop_false_positive", "drop_false_negative", "drop_easy_negative", or
    "none" (SimCLR); teacher: folder of a run whose encoder judges what is alike, empty to train one
    on the records' fields; first: the share of the steps for that; temperature: of NT-Xent; width:
    of the projector's output, and of the space in which a teacher trained here compares fields."""
    if rule not in SHARES:
        raise unknown("rule of resampling", rule, SHARES)
    judge = frozen(teacher) if teacher else None
    for field in encoder.fields:
        if judge is not None and field not in judge.fields:
            raise unknown("field of the teacher", field, judge.fields)
    own = judge is None and rule != "none"
    if own and len(encoder.fields) < 2:
        raise AmodalError(
            f"a teacher is trained on two fields of a record, and there is only {', '.join(encoder.fields)}. Name the folder of a run that "
            "knows this field and another: --method.teacher"
        )
    method = Guided(encoder, judge, rule, temperature, width)
    method.stages = (first, 1.0) if own else (1.0,)
    method.on_stage_start(0)
    return method


class Guided(StagedMethod):
    """teacher: an encoder that never learns, or None to train one first, with heads `towers` into a
    common space."""

    min_batch_size, views = 2, ("strong", "strong")

    refresh_first = False

    def __init__(
        self, encoder: Encoder, teacher: Encoder | None, rule: str, temperature: float, width: int
    ):
        super().__init__()
        self.encoder, self.rule, self.temperature = encoder, rule, temperature
        self.heads = nn.ModuleDict(
            {f: Projector(encoder.width, width, hidden=encoder.width) for f in encoder.fields}
        )
        own = teacher is None and rule != "none"
        self.towers = nn.ModuleDict(
            {f: nn.Linear(encoder.width, width, bias=False) for f in encoder.fields if own}
        )
        self.scale = Scale(1 / 0.07, most=100.0) if own else None
        self.teacher = (
            frozen_copy(encoder) if own else teacher
        )  # its own: the encoder at its start, later what that learnt first

    def on_stage_start(self, stage: int) -> None:
        self.teaches = self.scale is not None and stage == 0
        self.heads.requires_grad_(not self.teaches)
        self.towers.requires_grad_(self.teaches)
        if self.scale is not None:
            self.scale.requires_grad_(self.teaches)

    @torch.no_grad()
    def refresh(self, stage: int, see: Callable[[], Features]) -> None:
        for mine, its in zip(
            self.encoder.state_dict().values(), self.teacher.state_dict().values()
        ):
            learnt = mine.clone()
            mine.copy_(its)
            its.copy_(learnt)

    def features(self, batch: Batch) -> Features:
        if self.teaches:  # which compares fields in one view of each
            batch = batch.only(*(s for s in batch.sources if view_of(s) <= 1))
        z = self.encoder.features(batch)
        columns = {s: z[s] for s in z.sources}
        if not self.teaches and self.rule != "none":
            with torch.no_grad():
                seen = self.teacher.features(batch)
                seen = (
                    through(self.towers, seen) if len(self.towers) else self.teacher.project(seen)
                )
            columns |= {f"taught/{s}": seen[s] for s in seen.sources}
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        own = Embeddings({s: features[s] for s in features if "/" not in s}, features.size)
        if self.teaches:
            z = through(self.towers, own)
            return share(
                {
                    f"teacher/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / self.scale())
                    for a, b in field_pairs(z)
                }
            )
        z, found = through(self.heads, own), {}
        for a, b in view_pairs(z):
            taught = (
                z.pair(a, b) if self.rule == "none" else features.pair(f"taught/{a}", f"taught/{b}")
            )
            found[f"guided/{a}~{b}"] = guided_nt_xent(
                *z.pair(a, b), *taught, rule=self.rule, temperature=self.temperature
            )
        return share(found)


def through(heads: nn.ModuleDict, z: Embeddings) -> Embeddings:
    return Embeddings(
        {s: Column(heads[field_of(s)](z[s].values), z[s].rows) for s in z.sources}, z.size
    )
