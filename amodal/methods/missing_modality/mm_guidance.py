"""Fields that are present only in training guide the one that is deployed, which then predicts
better at the same cost. Zhao, Palani, Liu, Evans and Toner, 2023, arXiv:2309.03452 (guidance for
content moderation): attention from the guide to the parts of the deployed field, a classifier of
both, and one of the deployed field that is distilled from it. Row 116 of the catalogue.

Differs:

- formula: no code was published, and the page follows a description of the paper. Reconstructed are
  where attention weighs (tokens of the deployed field, which are averaged and not mapped), what is
  distilled (the weighted vector, by cosine, and softened logits) and the weights of both.
- fields: the paper has one picture and one text. Here the deployed field may have any number of
  guides, whose unit vectors are averaged, each record those that it has. A record without a guide
  learns from its label alone.
- encoders: transformers trained from here on; the paper's towers are those of CLIP, and MobileOne
  for pictures: `--backbone FIELD=timm:NAME` with `--train-backbones` for the one, a frozen
  `--backbone FIELD=transformers:DIR` or `lock` for the other.
- recipe: the library's own, as that of the paper is not known.
- labels: any, not only one of two classes; what is not a class is distilled by squared error.
- views: `weak`.
- cost: predictions read the deployed field alone; the time of a picture, which the paper measures,
  is no report.
- open: for `loss`, public code or a text to hold the reconstruction against; for `system`, the
  recipe and a report of the time that a picture takes. Waits for the paper's text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.core.column import both
from amodal.methods.contract import Method
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import share, two_fields
from amodal.methods.shared.supervised import HeadFeatures, head_losses, label_columns
from amodal.methods.shared.typed_parts import field_pool
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.guided_pool import GuidedPool
from amodal.nn.heads.supervised import SupervisedHead, Target
from amodal.objectives.common import connected_zero
from amodal.objectives.negative_cosine import negative_cosine


def mm_guidance(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple[Target, ...] = (),
    task: str = "auto",
    deploy: str = "",
    match: str = "cosine",
    feature: float = 1.0,
    logit: float = 1.0,
    temperature: float = 4.0,
    hidden: int = 0,
    lock: bool = False,
    view: str = "weak",
) -> Guidance:
    """Build guidance.

    Args:
        encoder: Of at least two fields.
        label: What to predict: a label of the data, or more of them with commas between.
        targets: What the labels hold (by default read from the data).
        task: "auto", by the kind of each label, or "survival", label being TIME,EVENT.
        deploy: The field that predicts it, all others being guides (by default the first).
        match: The loss between its vector and the guided one, "cosine" or "l2".
        feature: Weight of that loss.
        logit: Weight of the distillation from the guided classifier.
        temperature: Of the distillation.
        hidden: Width of the classifiers' hidden layer (0: linear maps).
        lock: Guides stay as they are, pretrained.
        view: How values are augmented, such as "plain" or "weak".
    """
    fields = list(two_fields(encoder).fields)
    deploy = deploy or fields[0]
    if deploy not in fields:
        raise unknown("field to deploy", deploy, fields)
    if match not in MATCH:
        raise unknown("way to match vectors", match, MATCH)
    if feature < 0 or logit < 0 or temperature <= 0:
        raise AmodalError(
            f"feature = {feature} and logit = {logit} are 0 or more, temperature = {temperature} "
            "is above 0"
        )
    method = Guidance(
        encoder,
        deploy=deploy,
        targets=targets,
        hidden=hidden,
        match=MATCH[match],
        feature=feature,
        logit=logit,
        temperature=temperature,
        view=view,
    )
    for field in method.guides if lock else ():
        encoder.lock(field)
    return method


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error with a teacher that gets no gradient; 0 without a row."""
    return mse_loss(student, teacher.detach()) if len(student) else connected_zero(student)


MATCH: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": negative_cosine,
    "l2": squared_error,
}


@dataclass(frozen=True, kw_only=True)
class GuidanceFeatures(HeadFeatures):
    """Outputs and vectors of the deployed field, and of the rows that have a guide.

    Args:
        guided: (N, outputs) from both.
        student: (N, D) of the deployed field.
        teacher: (N, D) of the deployed field, weighted by the guide.
    """

    guided: Column
    student: Column
    teacher: Column


class Guidance(Method):
    """A classifier of one field, distilled from a classifier of it and its guides.

    Args:
        encoder: Reads each field alone.
        deploy: The field that predicts.
        targets: Of the labels.
        hidden: Width of the classifiers' hidden layer.
        match: (student, teacher) vectors -> a loss.
        feature: Weight of that loss.
        logit: Weight of the distillation.
        temperature: Of the distillation.
        view: How values are augmented.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        deploy: str,
        targets: Sequence[Target],
        hidden: int,
        match: Callable[[Tensor, Tensor], Tensor],
        feature: float,
        logit: float,
        temperature: float,
        view: str,
    ):
        super().__init__()
        self.encoder, self.deploy = encoder, deploy
        self.guides, width = [f for f in encoder.fields if f != deploy], encoder.width
        parsed = [Target.read(t) for t in targets]
        self.head = SupervisedHead(parsed, (), width, hidden=hidden, joint=True)
        self.pool = GuidedPool(width)
        self.guided_head = SupervisedHead(parsed, (), 2 * width, hidden=hidden, joint=True)
        self.labels, self.views = self.head.labels, (view,)
        self.match, self.feature, self.logit = match, feature, logit
        self.temperature = temperature

    def features(self, batch: Batch) -> GuidanceFeatures:
        context = alone(self.encoder, batch)
        pool = field_pool(self.encoder, self.deploy)
        vector = pool(context[self.deploy])
        guides = Embeddings({g: self.encoder.pools[g](context[g]) for g in self.guides}, batch.size)
        guide = guides.fused(self.guides)
        teacher, guide = both(self.pool(pool.strip(context[self.deploy]), guide), guide)
        joined = Column(torch.cat([teacher.flat, guide.flat], 1), teacher.rows)
        return GuidanceFeatures(
            size=batch.size,
            outputs=self.head(vector),
            guided=self.guided_head(joined),
            student=both(vector, teacher)[0],
            teacher=teacher,
            label=label_columns(batch, self.labels),
        )

    def losses(self, features: GuidanceFeatures) -> dict[str, Tensor]:
        terms = share(head_losses(self.head, features.outputs, features))
        guided = share(head_losses(self.guided_head, features.guided, features))
        terms |= {f"guided/{name}": term for name, term in guided.items()}
        if self.feature:
            loss = self.match(features.student.flat, features.teacher.flat)
            terms["feature"] = self.feature * loss
        if self.logit:
            loss = self.head.distillation_loss(features.outputs, features.guided, self.temperature)
            terms["logit"] = self.logit * loss
        return terms

    def predict(self, batch: Batch) -> Column:
        """The outputs of the rows that have the deployed field; no other is read."""
        context = alone(self.encoder, batch.only(self.deploy))[self.deploy]
        outputs: Column = self.head(self.encoder.pools[self.deploy](context))
        return outputs
