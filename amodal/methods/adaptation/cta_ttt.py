"""CTA: a supervised encoder is led to the space of a self-supervised one, so that learning without
labels at test time moves it well. Barbeau et al., 2025, arXiv:2507.05221. A self-supervised encoder
is trained alone (SimCLR, arXiv:2002.05709, eq. 1) and then frozen, and the supervised one learns
with its head and symmetric InfoNCE between both on the same values. At test time `at_test` is the
loss of views through the aligned path, for `amodal.train.test_time`. Row 80 of the catalogue.

Any fields: each is aligned with itself, and the head reads all. `joint` is the Y-shaped network it
is compared with (TTT, arXiv:1909.13231, with SimCLR's task). Which layers adapt, for how many
steps, and the weights are reconstructed from summaries of the paper.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings
from amodal.methods.contract import Features, StagedMethod
from amodal.methods.shared.shapes import frozen_copy, share
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.nn.heads.supervised import SupervisedHead, supervised_head
from amodal.objectives.info_nce import info_nce, nt_xent


def cta_ttt(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple = (),
    alone: float = 0.5,
    weight: float = 1.0,
    anchor: float = 0.0,
    joint: bool = False,
    view: str = "strong",
    width: int = 128,
    temperature: float = 0.5,
    align_temperature: float = 0.1,
) -> CrossTask:
    """label: what is to be told, a label of the data, or several with commas between; targets: what
    the labels hold (read from the data unless given); alone: share of the steps, first, in which
    the self-supervised encoder learns alone (0: the encoder comes from such a run and is both the
    frozen one and where the other begins); weight: lambda of the alignment, or of the views in a
    joint network; anchor: weight of the alignment at test time; joint: one trunk for labels and
    views instead; view: how both are augmented; width: of the projectors; temperature: of the
    views' loss; align_temperature: of the alignment."""
    if encoder.trunk == "joint":
        raise AmodalError(
            'cta_ttt aligns fields one by one and needs trunk="separate" or "shared", not "joint"'
        )
    if not 0 <= alone < 1:
        raise AmodalError(f"alone is a share of the steps from 0 to below 1, not {alone}")
    method = CrossTask(encoder, supervised_head(encoder, targets), joint, width)
    method.stages = (alone, 1.0) if alone and not joint else (1.0,)
    method.weight, method.anchor, method.views = weight, anchor, (view, view)
    method.temperature, method.align_temperature = temperature, align_temperature
    method.on_stage_start(0)
    return method


class CrossTask(StagedMethod):
    """Features: views of each field; in the last stage also `told`, the labels, and `frozen/FIELD`,
    what the frozen encoder sees."""

    min_batch_size = 2

    refresh_first = False

    def __init__(self, encoder: Encoder, head: SupervisedHead, joint: bool, width: int):
        super().__init__()
        self.encoder, self.head, self.joint, self.labels = encoder, head, joint, head.labels
        projector = partial(Projector, encoder.width, width, hidden=encoder.width)
        self.alone, self.own, self.other = (
            nn.ModuleDict({f: projector() for f in encoder.fields}) for _ in range(3)
        )
        self.frozen = frozen_copy(
            encoder
        )  # before the survey, in stages, where the supervised encoder begins

    def refresh(self, stage: int, see) -> None:
        """What has learnt alone is frozen, and the supervised encoder begins anew."""
        fresh = {k: v.clone() for k, v in self.frozen.state_dict().items()}
        self.frozen.load_state_dict(self.encoder.state_dict())
        self.encoder.load_state_dict(fresh)

    def on_stage_start(self, stage: int) -> None:
        self.last = stage == len(self.stages) - 1

    def features(self, batch: Batch) -> Features:
        if not self.last:
            return self.encoder.features(batch)
        z = self.encoder.features(
            batch if self.joint else batch.only(*(f"{f}:1" for f in self.own))
        ).columns
        first = Embeddings({f: z[f"{f}:1"] for f in self.own}, batch.size)
        z |= (
            {"told": self.head(first)}
            | self.head.known(batch)
            | ({} if self.joint else self.seen(batch))
        )
        return Features(z, batch.size)

    @torch.no_grad()
    def seen(self, batch: Batch) -> dict[str, Column]:
        """`frozen/FIELD` -> the second view as the frozen encoder sees it."""
        z = self.frozen.features(batch.only(*(f"{f}:2" for f in self.own)))
        return {f"frozen/{f}": z[f"{f}:2"] for f in self.own}

    def losses(self, features: Features) -> dict[str, Tensor]:
        if not self.last:
            return self.of_views(features, self.alone)
        second = self.of_views(features, self.own) if self.joint else self.aligned(features)
        weighed = {name: self.weight * loss for name, loss in second.items()}
        return share(self.head.losses(features["told"], features)) | weighed

    def of_views(self, features: Features, heads: nn.ModuleDict) -> dict[str, Tensor]:
        loss = partial(nt_xent, temperature=self.temperature)
        z = {f: features.pair(f"{f}:1", f"{f}:2") for f in heads}
        return share({f"nt_xent/{f}": loss(heads[f](a), heads[f](b)) for f, (a, b) in z.items()})

    def aligned(self, features: Features) -> dict[str, Tensor]:
        loss = partial(info_nce, temperature=self.align_temperature)
        z = {f: features.pair(f"{f}:1", f"frozen/{f}") for f in self.own}
        return share(
            {f"align/{f}": loss(self.own[f](a), self.other[f](b)) for f, (a, b) in z.items()}
        )

    def at_test(self, batch: Batch) -> Tensor:
        """Of a batch of two views, without labels: what the encoder is to make small. The method
        must be in evaluation mode."""
        z = self.encoder.features(batch)
        loss = sum(self.of_views(z, self.own).values())
        if not self.anchor or self.joint:
            return loss
        return loss + self.anchor * sum(
            self.aligned(Features(z.columns | self.seen(batch), batch.size)).values()
        )

    @property
    def label_head(self) -> SupervisedHead:
        return self.head
