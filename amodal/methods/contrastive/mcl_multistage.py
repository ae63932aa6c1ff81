"""MCL: contrast in stages, each among records that the stages before could not tell apart, so that
it must learn something else. Zhang, Lan, Qu, Cheng, Feng and Hooi, ECCV 2024, arXiv:2402.11816:
feature-aware negative sampling and cross-stage integration. Row 128 of the catalogue. Of one field
two augmented views are compared as in SimCLR; of several, every two fields of a record as in CLIP.

After each stage the records fall into k-means clusters of its vectors; a record's group is the
tuple of its clusters so far, and later batches are of one group. (The authors' released script
reads the current stage's clusters once for every past stage; the tuple is what they describe.)
Small groups meet in batches with their neighbours instead of being skipped. Each stage trains an
encoder of its own, and what survives has them all: vectors are the unit vectors of all stages end
to end, whose cosine is the mean over stages. The paper's CLIP variant differs: it goes on from a
trained CLIP, its text tower locked and the last blocks of its image tower unlocked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column, Embeddings, field_of, unknown
from amodal.methods.contract import Features, StagedMethod
from amodal.methods.shared.shapes import field_pairs, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.ensemble import Ensemble
from amodal.nn.heads.projectors import Projector
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce, nt_xent
from amodal.stats.kmeans import kmeans


def mcl_multistage(
    encoder: Encoder,
    *,
    parts: int = 3,
    clusters: int = 10,
    by: str = "",
    carry_on: bool = False,
    temperature: float = 0.0,
    width: int = 128,
) -> Multistage:
    """parts: stages, of equal length, and encoders; clusters: that a stage divides all records
    into; by: the field whose vectors are clustered (the paper's picture), empty for the mean of all
    that a record has; carry_on: a stage begins with the weights of the one before, not with those
    at the start; temperature: of one field's NT-Xent, or where CLIP's learned one starts, 0 for .5
    and .07; width: of the projector's output, or of each stage's common space."""
    if parts < 1 or clusters < 1:
        raise AmodalError(
            f"mcl_multistage needs a stage and a cluster at least, not {parts} and {clusters}"
        )
    if by and by not in encoder.fields:
        raise unknown("field to cluster by", by, encoder.fields)
    alone = len(encoder.fields) == 1
    whole = Ensemble.of(encoder if alone else encoder.align(width), parts)
    method = Multistage(whole, clusters, by, carry_on)
    method.views = ("strong", "strong") if alone else ("weak",)
    method.stages = tuple((i + 1) / parts for i in range(parts))
    method.temperature = temperature or 0.5
    size, scale = encoder.width, 1 / (temperature or 0.07)
    each = [
        Projector(size, width, hidden=size) if alone else Scale(scale, most=100.0)
        for _ in range(parts)
    ]
    method.each = nn.ModuleList(each)
    method.on_stage_start(0)
    return method


class Multistage(StagedMethod):
    """each: the projector of each stage, or its scale where fields are compared."""

    min_batch_size = 2

    refresh_first = False

    def __init__(self, encoder: Ensemble, clusters: int, by: str, carry_on: bool):
        super().__init__()
        self.encoder, self.clusters, self.by, self.carry_on = encoder, clusters, by, carry_on
        own = dict(encoder.first.named_parameters())
        self.learns = {n for n, p in own.items() if p.requires_grad}  # all but a frozen backbone

    def on_stage_start(self, stage: int) -> None:
        self.stage = stage
        self.requires_grad_(False)
        for name, p in self.encoder.members[stage].named_parameters():
            p.requires_grad_(name in self.learns)
        self.each[stage].requires_grad_(True)

    @torch.no_grad()
    def refresh(self, stage: int, see: Callable[[], Embeddings]) -> Tensor:
        """Frozen stages give the same vectors, and so the same clusters, whenever they are asked:
        nothing need be kept."""
        if self.carry_on:
            learnt, new = (self.encoder.members[i].state_dict() for i in (stage - 1, stage))
            for name, value in new.items():
                value.copy_(learnt[name])
        seen = see()
        group = torch.zeros(seen.size, dtype=torch.int64)
        for past in range(stage):
            group = group * (self.clusters + 1) + self.clustered(past, seen).cpu()
        return torch.unique(group, return_inverse=True)[1]

    def clustered(self, stage: int, seen: Embeddings) -> Tensor:
        """(n,) int64 the cluster of each record by one stage's vectors; a record without any is in
        one more."""
        part, device = self.encoder.members[stage], next(self.parameters()).device
        own = {s: c.to(device) for s, c in self.encoder.part(seen, stage).columns.items()}
        z = part.project(Embeddings(own, seen.size))
        column = z.fused([self.by] if self.by else z.sources)
        found = torch.full((seen.size,), self.clusters, device=column.rows.device)
        if len(column):
            found[column.rows] = kmeans(normalize(column.values.float(), dim=1), self.clusters)[0]
        return found

    def features(self, batch: Batch) -> Features:
        part = self.encoder.members[self.stage]
        z = part(batch)
        return Features({s: z[s] for s in z.sources}, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        one = self.each[self.stage]
        if isinstance(one, Scale):
            pairs, t = field_pairs(features), 1 / one()
            return share(
                {
                    f"info_nce/{a}~{b}": info_nce(*features.pair(a, b), temperature=t)
                    for a, b in pairs
                }
            )
        z = Embeddings(
            {s: Column(one(features[s].values), features[s].rows) for s in features}, features.size
        )
        pairs, t = view_pairs(z), self.temperature
        return share(
            {f"nt_xent/{field_of(a)}": nt_xent(*z.pair(a, b), temperature=t) for a, b in pairs}
        )
