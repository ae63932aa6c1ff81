"""CTA: a supervised encoder is led into the space of a self-supervised one, so that learning
without labels at test time moves it well. Barbeau et al., 2025, arXiv:2507.05221. A self-supervised
encoder is trained alone (SimCLR, arXiv:2002.05709, eq. 1) and then frozen, and the supervised one
learns with its head and symmetric InfoNCE between both on the same values. At test time `at_test`
is the loss of views through the aligned path, for `amodal.train.test_time`. Row 80 of the
catalogue.

`joint` is the Y-shaped network it is compared with (TTT, arXiv:1909.13231, with SimCLR's task).

Differs:

- reconstructed from summaries of the paper, as there is no public code: which projectors the
  alignment has, that the second view is the frozen encoder's, the weights and temperatures, which
  layers adapt at test time, and for how many steps.
- fields: any. Each is aligned with itself, and the head reads all; the paper has pictures.
- encoders: transformers of the library by default; a ResNet-50 as the paper's can be had from
  scratch (`--backbone image=timm:resnet50@scratch`). Both encoders are of one architecture and
  begin with the same weights, theirs may be any two.
- self-supervision: SimCLR's, in the first stage of the run (`alone`); of an encoder trained
  elsewhere with `alone=0` and `--init-from`, of which its projector is not taken over.
- recipe: that of the encoder's size; the paper's could not be had, so there is no `PAPER_RECIPE`.
- views: `strong` of both, for labels too.
- product: at test time `at_test` with `amodal.train.test_time.TestTimeTraining`, in Python. The
  command line predicts without adapting.
- open: for `loss`, public code or a text to hold the reconstruction against; for `system`, two
  encoders of different kinds, and a verb that adapts at test time. Waits for the paper's text, and
  work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Embeddings
from amodal.core.column import Column
from amodal.methods.contract import Columns, FeatureRecord, StagedMethod
from amodal.methods.shared.shapes import frozen_copy, share
from amodal.methods.shared.supervised import HeadFeatures, head_losses, label_columns
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.nn.heads.supervised import SupervisedHead, Target, supervised_head
from amodal.objectives.info_nce import info_nce, nt_xent


def cta_ttt(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple[Target, ...] = (),
    alone: float = 0.5,
    weight: float = 1.0,
    anchor: float = 0.0,
    joint: bool = False,
    view: str = "strong",
    width: int = 128,
    temperature: float = 0.5,
    align_temperature: float = 0.1,
) -> CrossTask:
    """Build CTA.

    Args:
        encoder: With separate trunks or a shared one.
        label: What to predict: a label of the data, or more of them with commas between.
        targets: What the labels hold (by default read from the data).
        alone: Share of the steps, first, in which the self-supervised encoder learns alone. With 0
            the encoder comes from such a run; it is both the frozen one and the start of the other.
        weight: Lambda of the alignment, or of the views in a joint network.
        anchor: Weight of the alignment at test time.
        joint: One trunk for labels and views instead.
        view: How both views are augmented.
        width: Of the projectors.
        temperature: Of the views' loss.
        align_temperature: Of the alignment.
    """
    if encoder.trunk == "joint":
        raise AmodalError(
            'cta_ttt aligns fields one by one and needs trunk="separate" or "shared", not "joint"'
        )
    if not 0 <= alone < 1:
        raise AmodalError(f"alone is a share of the steps from 0 to below 1, not {alone}")
    return CrossTask(
        encoder,
        supervised_head(encoder, targets),
        joint=joint,
        width=width,
        stages=(alone, 1.0) if alone and not joint else (1.0,),
        weight=weight,
        anchor=anchor,
        view=view,
        temperature=temperature,
        align_temperature=align_temperature,
    )


@dataclass(frozen=True, kw_only=True)
class ViewFeatures(FeatureRecord):
    """Features of the first stage, and of test time.

    Args:
        student: source -> (N, D), two views of each field.
        frozen: field -> (N, D), the second view by the frozen encoder; empty without alignment.
    """

    student: Columns
    frozen: Columns


@dataclass(frozen=True, kw_only=True)
class CrossTaskFeatures(HeadFeatures, ViewFeatures):
    """Features of the last stage."""


class CrossTask(StagedMethod):
    """A supervised encoder aligned with a frozen self-supervised one.

    Args:
        encoder: The supervised one.
        head: Of the labels.
        joint: One trunk for labels and views.
        width: Of the projectors.
        stages: Where they end, as shares of the steps.
        weight: Of the alignment, or of the views in a joint network.
        anchor: Of the alignment at test time.
        view: How both views are augmented.
        temperature: Of the views' loss.
        align_temperature: Of the alignment.
    """

    min_batch_size = 2
    refresh_first = False

    def __init__(
        self,
        encoder: Encoder,
        head: SupervisedHead,
        *,
        joint: bool,
        width: int,
        stages: tuple[float, ...],
        weight: float,
        anchor: float,
        view: str,
        temperature: float,
        align_temperature: float,
    ):
        super().__init__()
        self.encoder, self.head, self.joint, self.labels = encoder, head, joint, head.labels
        projector = partial(Projector, encoder.width, width, hidden=encoder.width)
        self.view_heads, self.student_heads, self.frozen_heads = (
            nn.ModuleDict({f: projector() for f in encoder.fields}) for _ in range(3)
        )
        # in the first stage it holds the start of the supervised encoder, see `refresh`
        self.frozen = frozen_copy(encoder)
        self.stages, self.weight, self.anchor, self.views = stages, weight, anchor, (view, view)
        self.temperature, self.align_temperature = temperature, align_temperature
        self.on_stage_start(0)

    def refresh(self, stage: int, embed_all: Callable[[], Embeddings] | None) -> None:
        """Freeze what has learnt alone; the supervised encoder begins anew."""
        # cloned, since `state_dict` shares memory with what the next line overwrites
        fresh = {k: v.clone() for k, v in self.frozen.state_dict().items()}
        self.frozen.load_state_dict(self.encoder.state_dict())
        self.encoder.load_state_dict(fresh)

    def on_stage_start(self, stage: int) -> None:
        self.last = stage == len(self.stages) - 1

    def features(self, batch: Batch) -> ViewFeatures:
        if not self.last:
            z = self.encoder.features(batch)
            return ViewFeatures(size=batch.size, student=z.columns, frozen={})
        views = batch if self.joint else batch.only(*(f"{f}:1" for f in self.encoder.fields))
        z = self.encoder.features(views)
        first = Embeddings({f: z[f"{f}:1"] for f in self.encoder.fields}, batch.size)
        return CrossTaskFeatures(
            size=batch.size,
            student=z.columns,
            outputs=self.head(first),
            label=label_columns(batch, self.labels),
            frozen={} if self.joint else self.encode_frozen(batch),
        )

    @torch.no_grad()
    def encode_frozen(self, batch: Batch) -> dict[str, Column]:
        """field -> its second view by the frozen encoder."""
        z = self.frozen.features(batch.only(*(f"{f}:2" for f in self.encoder.fields)))
        return {f: z[f"{f}:2"] for f in self.encoder.fields}

    def losses(self, features: ViewFeatures) -> dict[str, Tensor]:
        if not isinstance(features, CrossTaskFeatures):
            return self.view_loss(features, self.view_heads)
        second = (
            self.view_loss(features, self.student_heads) if self.joint else self.alignment(features)
        )
        weighted = {name: self.weight * loss for name, loss in second.items()}
        return share(head_losses(self.head, features.outputs, features)) | weighted

    def view_loss(self, features: ViewFeatures, heads: nn.ModuleDict) -> dict[str, Tensor]:
        """NT-Xent between the two views of each field."""
        z = Embeddings(dict(features.student), features.size)
        pairs = {f: z.pair(f"{f}:1", f"{f}:2") for f in heads}
        loss = partial(nt_xent, temperature=self.temperature)
        return share(
            {f"nt_xent/{f}": loss(heads[f](a), heads[f](b)) for f, (a, b) in pairs.items()}
        )

    def alignment(self, features: ViewFeatures) -> dict[str, Tensor]:
        """InfoNCE between the supervised encoder and the frozen one."""
        terms = {}
        for f in self.encoder.fields:
            both = {"student": features.student[f"{f}:1"], "frozen": features.frozen[f]}
            a, b = Embeddings(both, features.size).pair("student", "frozen")
            terms[f"align/{f}"] = info_nce(
                self.student_heads[f](a),
                self.frozen_heads[f](b),
                temperature=self.align_temperature,
            )
        return share(terms)

    def at_test(self, batch: Batch) -> Tensor:
        """The loss that test-time training minimises, without labels.

        The method must be in evaluation mode.

        Args:
            batch: Two views of each field.
        """
        aligned = bool(self.anchor) and not self.joint
        features = ViewFeatures(
            size=batch.size,
            student=self.encoder.features(batch).columns,
            frozen=self.encode_frozen(batch) if aligned else {},
        )
        loss = total(self.view_loss(features, self.student_heads))
        return loss + self.anchor * total(self.alignment(features)) if aligned else loss

    @property
    def label_head(self) -> SupervisedHead:
        """Predicts the labels from the encoder's features."""
        return self.head


def total(terms: Mapping[str, Tensor]) -> Tensor:
    return reduce(torch.add, terms.values())
