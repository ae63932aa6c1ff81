"""Fine-tuning that also works with other fields than those the labels came with: what is told of
all fields is told of any of them. McKinzie, Cheng, Shankar, Yang, Shlens and Toshev, ICML 2023,
arXiv:2304.04385 (On Robustness in Multimodal Learning): modality-augmented self-distillation
(MASD). Row 120 of the catalogue. Their second remedy, weights between the probe and the fine-tuned
network (WiSE-FT), is `amodal.nn.adapters.wise.between`; their matrix of fields in training and at
test is the protocol `modality_subsets` of `amodal evaluate`.

The encoder is trained beforehand (`mae`, `clip`, …); `amodal adapt --tuning mm_robustness` goes on
with such a run. Reconstructed, as no code was published: the teacher is the network itself as it
is, without a gradient, and reads all fields of a record unless others are named; the student reads
any of its non-empty subsets. Any fields and labels; what is not a class follows by squared error.
Records without a label take part in the distillation, where they are among those that are trained
on."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Embeddings, unknown
from amodal.masking.modality_dropout import any_sources
from amodal.methods.contract import Features, Method
from amodal.methods.shared.shapes import share
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.modality_subsets import reader
from amodal.nn.heads.supervised import SupervisedHead, supervised_head

ENCODER = {"trunk": "joint"}


def mm_robustness(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple = (),
    task: str = "auto",
    learn: str = "",
    teacher: str = "",
    weight: float = 1.0,
    temperature: float = 1.0,
    hidden: int = 0,
    view: str = "weak",
) -> SelfDistilled:
    """label: what is to be told, a label of the data, or several with commas between; targets: what
    the labels hold (read from the data unless given); task: "auto", by the kind of each label, or
    "survival", label being TIME,EVENT; learn: the fields that labels are learnt from, with commas
    (all unless given); teacher: the fields that the teacher reads (all unless given); weight: of
    the distillation; temperature: of it; hidden: width of the head's hidden layer (0: a linear
    map); view: how values are augmented, such as "plain" or "weak"."""
    if weight < 0 or temperature <= 0:
        raise AmodalError(
            f"weight = {weight} must be 0 or more, and temperature = {temperature} above 0"
        )
    method = SelfDistilled(encoder, supervised_head(encoder, targets, hidden), view)
    method.learn, method.teacher = (named(encoder, fields) for fields in (learn, teacher))
    method.weight, method.temperature = weight, temperature
    return method


def named(encoder: Encoder, fields: str) -> tuple[str, ...]:
    """The fields of a list with commas; of an empty one all."""
    chosen = tuple(f.strip() for f in fields.split(",")) if fields else tuple(encoder.fields)
    for name in chosen:
        if name not in encoder.fields:
            raise unknown("field", name, encoder.fields)
    return chosen


class SelfDistilled(Method):
    """Features: `told`, the head's outputs from the fields that labels are learnt from, `teacher`
    and `student`, and the labels."""

    def __init__(self, encoder: Encoder, head: SupervisedHead, view: str):
        super().__init__()
        self.encoder, self.head, self.views, self.labels = encoder, head, (view,), head.labels
        if encoder.heads is not None:  # fields are not compared here
            encoder.heads.requires_grad_(False)

    def features(self, batch: Batch) -> Features:
        read, present = (
            reader(self.encoder, batch),
            {s: c.present(batch.size) for s, c in batch.columns.items()},
        )
        columns = {"told": self.head(read({s: present[s] for s in self.learn}))}
        if self.weight:
            with torch.no_grad():
                columns["teacher"] = self.head(read({s: present[s] for s in self.teacher}))
            columns["student"] = self.head(read(any_sources(present, batch.seeds)))
        return Features(columns | self.head.known(batch), batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        terms = share(self.head.losses(features["told"], features))
        if self.weight:
            follow = self.head.follow(features["student"], features["teacher"], self.temperature)
            terms["distill"] = self.weight * follow
        return terms

    def seen(self, batch: Batch) -> Embeddings:
        """What the head reads of a batch: all that its rows have."""
        return reader(self.encoder, batch)(
            {s: c.present(batch.size) for s, c in batch.columns.items()}
        )

    @property
    def label_head(self) -> SupervisedHead:
        return self.head
