"""Fine-tuning that also works with other fields than those the labels came with: predictions from
all fields are distilled into those from any of them. McKinzie, Cheng, Shankar, Yang, Shlens and
Toshev, ICML 2023, arXiv:2304.04385 (On Robustness in Multimodal Learning): modality-augmented
self-distillation (MASD). Row 120 of the catalogue. Their second remedy, weights between the probe
and the fine-tuned network (WiSE-FT), is `amodal.nn.adapters.wise.interpolate`; their matrix of
fields in training and at test is the protocol `modality_subsets` of `amodal evaluate`.

The encoder is trained beforehand (`mae`, `clip`, …); `amodal adapt --tuning mm_robustness` goes on
with such a run. Records without a label take part in the distillation, where they are among those
that are trained on.

Differs:

- reconstructed, as no code was published: the teacher is the network itself as it is, without a
  gradient, and reads all fields of a record unless others are named; the student reads any of its
  non-empty subsets, all equally likely; the weight of the distillation and its temperature are 1.
- WiSE-FT is a function of Python alone: no command interpolates weights, or chooses between the two
  networks on the validation part.
- labels: classes that exclude each other, amounts and survival; AudioSet's sounds are several at a
  time, and its measure is their mean average precision.
- encoder: a joint transformer of the library, of any size; video is no kind of data yet.
- pre-training: one run of one method, where the paper compares contrast, masked reconstruction and
  labels.
- recipe: the library's own, as that of the paper is not known here.
- views: `weak`.
- open: for `loss`, public code or a text to hold the reconstruction against; for `system`, video
  with sound, several labels a record (mean average precision), and weights between two networks by
  a verb. Waits for video.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.masking.modality_dropout import random_subsets
from amodal.methods.contract import Method
from amodal.methods.shared.shapes import share
from amodal.methods.shared.supervised import HeadFeatures, head_losses, label_columns
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.modality_subsets import subset_features
from amodal.nn.heads.supervised import SupervisedHead, Target, supervised_head

ENCODER = {"trunk": "joint"}


def mm_robustness(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple[Target, ...] = (),
    task: str = "auto",
    learn: str = "",
    teacher: str = "",
    weight: float = 1.0,
    temperature: float = 1.0,
    hidden: int = 0,
    view: str = "weak",
) -> SelfDistilled:
    """Build modality-augmented self-distillation.

    Args:
        encoder: Pretrained, with a joint trunk.
        label: What to predict: a label of the data, or more of them with commas between.
        targets: What the labels hold (by default read from the data).
        task: "auto", by the kind of each label, or "survival", label being TIME,EVENT.
        learn: The fields that labels are learnt from, with commas (by default all).
        teacher: The fields that the teacher reads (by default all).
        weight: Of the distillation.
        temperature: Of the distillation.
        hidden: Width of the head's hidden layer (0: a linear map).
        view: How values are augmented, such as "plain" or "weak".
    """
    if weight < 0 or temperature <= 0:
        raise AmodalError(
            f"weight = {weight} must be 0 or more, and temperature = {temperature} above 0"
        )
    return SelfDistilled(
        encoder,
        supervised_head(encoder, targets, hidden),
        view=view,
        learn_fields=named(encoder, learn),
        teacher_fields=named(encoder, teacher),
        weight=weight,
        temperature=temperature,
    )


def named(encoder: Encoder, fields: str) -> tuple[str, ...]:
    """The fields of a list with commas; all of them for an empty list."""
    chosen = tuple(f.strip() for f in fields.split(",")) if fields else tuple(encoder.fields)
    for name in chosen:
        if name not in encoder.fields:
            raise unknown("field", name, encoder.fields)
    return chosen


@dataclass(frozen=True, kw_only=True)
class DistilledFeatures(HeadFeatures):
    """Outputs of the head from three sets of fields, and the labels.

    `outputs` are from the fields that labels are learnt from.

    Args:
        teacher: (N, outputs) without a gradient; None without distillation.
        student: (N, outputs) from a random subset of each row's fields; None without distillation.
    """

    teacher: Column | None = None
    student: Column | None = None


class SelfDistilled(Method):
    """A supervised network that distils itself into its own predictions from fewer fields.

    Args:
        encoder: With a joint trunk.
        head: Of the labels.
        view: How values are augmented.
        learn_fields: The fields that labels are learnt from.
        teacher_fields: The fields that the teacher reads.
        weight: Of the distillation.
        temperature: Of the distillation.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: SupervisedHead,
        *,
        view: str,
        learn_fields: tuple[str, ...],
        teacher_fields: tuple[str, ...],
        weight: float,
        temperature: float,
    ):
        super().__init__()
        self.encoder, self.head, self.views, self.labels = encoder, head, (view,), head.labels
        self.learn_fields, self.teacher_fields = learn_fields, teacher_fields
        self.weight, self.temperature = weight, temperature
        if encoder.heads is not None:  # fields are not compared here
            encoder.heads.requires_grad_(False)

    def features(self, batch: Batch) -> DistilledFeatures:
        read = subset_features(self.encoder, batch)
        present = {s: c.present(batch.size) for s, c in batch.columns.items()}
        outputs = self.head(read({s: present[s] for s in self.learn_fields}))
        teacher = student = None
        if self.weight:
            with torch.no_grad():
                teacher = self.head(read({s: present[s] for s in self.teacher_fields}))
            student = self.head(read(random_subsets(present, batch.seeds)))
        return DistilledFeatures(
            size=batch.size,
            outputs=outputs,
            teacher=teacher,
            student=student,
            label=label_columns(batch, self.labels),
        )

    def losses(self, features: DistilledFeatures) -> dict[str, Tensor]:
        terms = share(head_losses(self.head, features.outputs, features))
        if features.student is not None and features.teacher is not None:
            loss = self.head.distillation_loss(features.student, features.teacher, self.temperature)
            terms["distill"] = self.weight * loss
        return terms

    def head_inputs(self, batch: Batch) -> Embeddings:
        """What the head reads of a batch: all that its rows have."""
        present = {s: c.present(batch.size) for s, c in batch.columns.items()}
        return subset_features(self.encoder, batch)(present)

    @property
    def label_head(self) -> SupervisedHead:
        """Predicts the labels from the encoder's features."""
        return self.head
