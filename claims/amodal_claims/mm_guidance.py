"""Guidance (row 116): a modality that is there only while training makes the one that is deployed predict
more, at the same cost. Zhao et al., 2023, arXiv:2309.03452.

Two real sets, split anew for each seed. Emoji: the picture is deployed, its English text guides,
the target is the group. Handwritten digits: the left half is deployed, the right half guides, the target is the
digit. All networks begin fresh. Arms, all with the same trunk for the deployed modality, a linear
classifier, the same steps and two learning rates, of which the better is taken, by the macro-F1 of
validation records predicted from the deployed modality alone: `guided`; `alone`, which never sees the
guide; `logits`, guided without following the vector, which is distillation from the classifier of
both; `imagined`, which predicts from both, and at test from a perceptron's guess of the guide's vector
(in training it learns to predict from the guess, too). What a record costs at test is counted in
operations (multiply and add) of its products, which are the same whatever the machine does beside.
"""

from functools import partial

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from amodal import data, methods
from amodal.core import Column
from amodal.core.column import both
from amodal.data import Loader
from amodal.data.loader import class_numbers
from amodal.methods.contract import Features, Method
from amodal.methods.shared.shapes import share
from amodal.nn.heads.supervised import SupervisedHead, targets_of
from amodal_claims import Comparison, _digits
from amodal_claims._arms import Budget, trained
from amodal_claims.missing_aware_prompts import LABEL, prepared
from amodal_claims.missing_aware_prompts import split as split_emoji

CLAIM = (
    "A network that predicts classes from one modality has a higher macro-F1 if a second modality guided it in training than without, and than if "
    "it only followed the logits of both, at the same cost at test; guessing what the second modality would be costs more."
)
DATA = "openmoji"
SEEDS = 5
BUDGET = Budget(steps=70, batch=64, rates=(1e-3, 4e-3))
SETS = {
    "emoji": ("image", "annotation"),
    "digits": ("left", "right"),
}  # what is deployed, and its guide
F1, COST = "macro-F1, predicted from the deployed modality", "thousand operations a record"
COMPARISONS = (
    *(Comparison(f"{s}: guided against alone", F1, f"{s}: guided", f"{s}: alone") for s in SETS),
    *(Comparison(f"{s}: guided against logits only", F1, f"{s}: guided", f"{s}: logits") for s in SETS),
    *(Comparison(f"{s}: guided costs what alone does", COST, f"{s}, cost: guided", f"{s}, cost: alone", within=0.001) for s in SETS),
    *(Comparison(f"{s}: guessing the guide costs more than guided", COST, f"{s}, cost: imagined", f"{s}, cost: guided") for s in SETS),
)  # fmt: skip


class Imagined(Method):
    """Predicts from the deployed modality and its guide, or a guess of the guide's vector."""

    views = ("weak",)

    def __init__(self, encoder, deploy, guide, targets):
        super().__init__()
        d = encoder.width
        self.encoder, self.deploy, self.guide = encoder, deploy, guide
        self.guess = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.head = SupervisedHead(targets, (), 2 * d, joint=True)
        self.labels = self.head.labels

    def logits(self, u, v):
        return self.head(Column(torch.cat([u.values, v.values], 1), u.rows))

    def features(self, batch):
        z = self.encoder.features(batch)
        u, v = both(z[self.deploy], z[self.guide])
        guess = Column(self.guess(u.values), u.rows)
        terms = {
            "predicted": self.logits(u, v),
            "imagined": self.logits(u, guess),
            "guess": guess,
            "true": v,
        }
        return Features(terms | self.head.known(batch), batch.size)

    def losses(self, features):
        terms = {k: self.head.losses(features[k], features) for k in ("predicted", "imagined")}
        found = share({f"{k}/{n}": t for k, each in terms.items() for n, t in each.items()})
        return found | {
            "guess": mse_loss(features["guess"].values, features["true"].values.detach())
        }

    def predict(self, batch):
        u = self.encoder.features(batch.only(self.deploy))[self.deploy]
        return self.logits(u, Column(self.guess(u.values), u.rows))


def predicted(method, batch):
    """Target -> predictions from the deployed modality, by the page and by fine-tuning."""
    with torch.no_grad():
        return method.head.predictions(method.predict(batch))


def arms(deploy, guide, targets):
    """Arm -> the fields that it has in training, and encoder -> method."""
    guided = partial(methods.build, "mm_guidance", deploy=deploy, targets=targets)
    return {
        "guided": ([deploy, guide], guided),
        "logits": ([deploy, guide], partial(guided, feature=0.0)),
        "alone": ([deploy], partial(methods.build, "finetune", targets=targets)),
        "imagined": ([deploy, guide], lambda encoder: Imagined(encoder, deploy, guide, targets)),
    }


def f1(method, dataset, rows, label, numbers):
    guesses = [
        predicted(method, b)[label].argmax(1)
        for b in Loader(dataset, rows, batch=256, shuffle=False)
    ]
    return float(f1_score(numbers[rows], torch.cat(guesses).numpy(), average="macro"))


def cost(method, dataset, rows):
    batch = next(iter(Loader(dataset, rows[:64], batch=64, shuffle=False)))
    with FlopCounterMode(display=False) as counter:
        predicted(method, batch)
    return counter.get_total_flops() / 1000 / batch.size


def of_set(where, dataset, parts, label, seed):
    (deploy, guide), numbers = SETS[where], class_numbers(dataset.label(label))[0]
    targets, found = targets_of(dataset, parts["train"], label), {}
    seen = dataset.select([deploy])
    for arm, (fields, make) in arms(deploy, guide, targets).items():
        some = dataset.select(fields)
        each = {r: trained(some, parts["train"], make, BUDGET, seed, r) for r in BUDGET.rates}
        rate = max(each, key=lambda r: f1(each[r], seen, parts["valid"], label, numbers))  # noqa: B023
        found[f"{where}: {arm}"] = f1(each[rate], seen, parts["test"], label, numbers)
        found |= {
            f"{where}, learning rate: {arm}": rate,
            f"{where}, cost: {arm}": cost(each[rate], seen, parts["test"]),
        }
    return found


def digits(seed):
    source = data.open(_digits.DATA)
    dataset = _digits.halves(source, {"digit": list(source.label("digit"))})
    order = np.random.default_rng([seed, 116]).permutation(len(dataset))
    return dataset, dict(zip(("train", "valid", "test"), map(np.sort, np.split(order, [600, 800]))))


def measure(seed, dataset):
    emoji = prepared(dataset)
    found = of_set("emoji", emoji, split_emoji(emoji, seed), LABEL, seed)
    return found | of_set("digits", *digits(seed), "digit", seed)
