"""Fields that are there only while training guide the one that is deployed, which then tells more
at the same cost. Zhao, Palani, Liu, Evans and Toner, 2023, arXiv:2309.03452 (guidance for content
moderation): attention from the guide to the parts of the deployed field, a classifier of both, and
one of the deployed field that follows. Row 116 of the catalogue.

Reconstructed, as no code was published and the page follows a description of the paper: where
attention weighs (tokens), what is followed (the weighted vector, by cosine, and softened logits),
and the weights of both. What differs: the deployed field may have any number of guides, whose unit
vectors are averaged, each record those that it has; any labels; what is not a class is followed by
squared error."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.core.column import both
from amodal.methods.contract import Features, Method
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.guided_pool import GuidedPool
from amodal.nn.heads.supervised import SupervisedHead, Target
from amodal.objectives.common import connected_zero
from amodal.objectives.negative_cosine import negative_cosine


def mm_guidance(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple = (),
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
    """label: what is to be told, a label of the data, or several with commas between; targets: what
    the labels hold (read from the data unless given); task: "auto", by the kind of each label, or
    "survival", label being TIME,EVENT; deploy: the field that tells it, all others being guides
    (the first unless given); match: how its vector follows the guided one, "cosine" or "l2";
    feature: weight of that; logit: weight of following the guided classifier (distillation);
    temperature: of it; hidden: width of the classifiers' hidden layer (0: linear maps); lock:
    guides stay as they are, pretrained; view: how values are augmented, such as "plain" or "weak".
    """
    fields = list(two_fields(encoder).fields)
    deploy = deploy or fields[0]
    if deploy not in fields:
        raise unknown("field to deploy", deploy, fields)
    if match not in MATCH:
        raise unknown("way to match vectors", match, MATCH)
    if feature < 0 or logit < 0 or temperature <= 0:
        raise AmodalError(
            f"feature = {feature} and logit = {logit} are 0 or more, temperature = {temperature} is above 0"
        )
    method = Guidance(encoder, deploy, targets, hidden)
    method.match, method.feature, method.logit, method.temperature = (
        MATCH[match],
        feature,
        logit,
        temperature,
    )
    method.views = (view,)
    for field in method.guides if lock else ():
        encoder.lock(field)
    return method


def squared(own: Tensor, aim: Tensor) -> Tensor:
    return mse_loss(own, aim.detach()) if len(own) else connected_zero(own)


MATCH = {"cosine": negative_cosine, "l2": squared}


class Guidance(Method):
    """Features: `told` from the deployed field alone, and of the rows that have a guide: `guided`,
    told from both, `own` and `aim`, the deployed field's vector and the guided one; the labels."""

    def __init__(self, encoder: Encoder, deploy: str, targets: tuple, hidden: int):
        super().__init__()
        self.encoder, self.deploy = encoder, deploy
        self.guides, width = [f for f in encoder.fields if f != deploy], encoder.width
        made = [Target.read(t) for t in targets]
        self.head = SupervisedHead(made, (), width, hidden=hidden, joint=True)
        self.pool, self.both = (
            GuidedPool(width),
            SupervisedHead(made, (), 2 * width, hidden=hidden, joint=True),
        )
        self.labels = self.head.labels

    def features(self, batch: Batch) -> Features:
        context = alone(self.encoder, batch)
        own = self.encoder.pools[self.deploy](context[self.deploy])
        guides = Embeddings({g: self.encoder.pools[g](context[g]) for g in self.guides}, batch.size)
        guide = guides.fused(self.guides)
        aim, guide = both(
            self.pool(self.encoder.pools[self.deploy].strip(context[self.deploy]), guide), guide
        )
        joined = Column(torch.cat([aim.values, guide.values], 1), aim.rows)
        columns = {
            "told": self.head(own),
            "guided": self.both(joined),
            "own": both(own, aim)[0],
            "aim": aim,
        }
        return Features(columns | self.head.known(batch), batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        terms = share(self.head.losses(features["told"], features))
        terms |= {
            f"guided/{n}": t
            for n, t in share(self.both.losses(features["guided"], features)).items()
        }
        if self.feature:
            terms["feature"] = self.feature * self.match(
                features["own"].values, features["aim"].values
            )
        if self.logit:
            follow = self.head.distillation_loss(
                features["told"], features["guided"], self.temperature
            )
            terms["logit"] = self.logit * follow
        return terms

    def predict(self, batch: Batch) -> Column:
        """Of the rows that have the deployed field; no other is read."""
        seen = alone(self.encoder, batch.only(self.deploy))[self.deploy]
        return self.head(self.encoder.pools[self.deploy](seen))
