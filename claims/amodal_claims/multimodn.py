"""MultiModN (row 147): what is missing depends on the class in training, and at test on the other
class. Swamy et al., NeurIPS 2023, arXiv:2309.14118.

Two real sets, split anew for each seed. Handwritten digits, whose left and right halves are the
modalities: is it at least five (the task that is judged), and is it even, predicted by one network.
Wisconsin's breast tumours (scikit-learn): means, errors and worst values of ten measurements of
cells, 10 columns each, are the modalities: is it malignant. In training four of five records of the
class lack one modality (the right half, the worst values), all others are complete; at test four of
five of the other class lack it, and none of this one. This is after the paper's experiment and
not the same: a modality is skipped record by record, as its text has it, and not for a whole batch
in which one record lacks it, as its code has it; the update of the state is linear and the decoder
shared, where the authors have perceptrons with dropout and a decoder a task; 70 steps for their 100
epochs. Changes of the state have no weight, as in that experiment.

Arms, all with the same trunks, steps and two learning rates, of which the better is taken, by the
AUC of validation records that lack what the training records do: `modular`; `learned`, all vectors
side by side into a perceptron with 32 hidden units, and a learned vector for what is missing;
`mean`, the same, but the mean of the training records' values is filled in. `modular` and `learned`
are also trained on complete records.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer

from amodal import data, methods
from amodal.core import Column, row_seeds
from amodal.data import Loader
from amodal.masking.hashing import uniform
from amodal.modalities.table import Table
from amodal.nn.heads.supervised import targets_of
from amodal.stats.auroc import auroc
from amodal_claims import Comparison, _digits
from amodal_claims._arms import Budget, trained

CLAIM = (
    "If a modality is missing from four of five training records of one class, and at test from four of five of the other, sequential fusion "
    "that skips it keeps its AUC within .05 of that with nothing missing, and predicts the classes better than parallel fusion, be it with a "
    "learned vector for what is missing or the mean filled in; with nothing missing the two fusions differ by less than .02."
)
DATA = _digits.DATA
SEEDS = 5
BUDGET = Budget(steps=70, batch=64, rates=(1e-3, 4e-3))
SHARE, HIDDEN = 0.8, 32
ARMS = {
    "modular": ("multimodn", {"change": 0.0, "hidden": HIDDEN, "view": "plain"}),
    "learned": ("finetune", {"hidden": HIDDEN, "view": "plain"}),
    "mean": ("finetune", {"hidden": HIDDEN, "view": "plain"}),
}
SETS = {
    "digits": ("right", "large,even"),
    "tumours": ("worst", "malignant"),
}  # what is missing, and what is predicted
AUC = "AUC of the first task"
TURNED = "missing from the other class at test: against"
COMPARISONS = (
    *(
        Comparison(
            f"{where}, {TURNED} parallel, {words}",
            AUC,
            f"{where}, turned: modular",
            f"{where}, turned: {arm}",
        )
        for where in SETS
        for arm, words in (("learned", "a learned vector"), ("mean", "the mean"))
    ),
    *(
        Comparison(
            f"{where}, {TURNED} complete",
            AUC,
            f"{where}, turned: modular",
            f"{where}, complete: modular",
            -0.05,
        )
        for where in SETS
    ),
    *(
        Comparison(
            f"{where}, never missing: against parallel",
            AUC,
            f"{where}, complete: modular",
            f"{where}, complete: learned",
            within=0.02,
        )
        for where in SETS
    ),
)


def digits(dataset):
    digit = dataset.label("digit").astype(int)
    labels = {"large": yes_no(digit >= 5), "even": yes_no(digit % 2 == 0)}
    return _digits.halves(dataset, labels)


def tumours():
    found = load_breast_cancer()
    names, labels = ("mean", "error", "worst"), {"malignant": yes_no(found.target == 0)}
    x = {s: found.data[:, 10 * k : 10 * k + 10] for k, s in enumerate(names)}
    raw = {
        s: [{f"{s} {c}": float(v) for c, v in enumerate(row)} for row in part]
        for s, part in x.items()
    }
    fields = {s: Table.infer(values) for s, values in raw.items()}
    return data.open(raw | labels, name="breast tumours").with_fields(fields)


def yes_no(truth):
    return ["yes" if t else "no" for t in truth]


def split(dataset, seed):
    order = np.random.default_rng([seed, 147]).permutation(len(dataset))
    bounds = [round(0.6 * len(order)), round(0.7 * len(order))]
    return dict(zip(("train", "valid", "test"), (np.sort(p) for p in np.split(order, bounds))))


class Lacking:
    """Takes a modality away from four of five records that are of a class, or puts a value (*,) in its
    place."""

    def __init__(self, dataset, field, label, wanted, seed, filling=None):
        values = dataset.label(label)
        self.of = {key: value == wanted for key, value in zip(dataset.reader.keys, values)}
        self.field, self.seed, self.filling = field, seed, filling

    def __call__(self, batch):
        mine = torch.tensor([self.of[key] for key in batch.keys])
        lacks = mine & (uniform(row_seeds(batch.keys, salt=self.seed)) < SHARE)
        column = batch[self.field]
        if self.filling is None:
            return replace(
                batch, columns=batch.columns | {self.field: column.at(~lacks[column.rows])}
            )
        values = column.values.clone()
        values[lacks[column.rows]] = self.filling
        return replace(batch, columns=batch.columns | {self.field: Column(values, column.rows)})


def mean_of(dataset, rows, field, lacking):
    """The mean of the values that training records have."""
    parts = [lacking(b)[field].values for b in Loader(dataset, rows, batch=256, shuffle=False)]
    return torch.cat(parts).mean(0)


@torch.no_grad()
def auc(method, dataset, rows, label, change):
    scores = []
    for batch in map(change, Loader(dataset, rows, batch=256, shuffle=False)):
        predicted = method.head.predictions(method.predict(batch))
        scores.append(predicted[label][:, 1])
    return auroc(torch.cat(scores).numpy(), dataset.label(label)[rows] == "yes")


def as_it_is(batch):
    return batch


def of_set(where, dataset, seed):
    (field, labels), parts = SETS[where], split(dataset, seed)
    label = labels.split(",")[0]
    targets, found = targets_of(dataset, parts["train"], labels), {}
    drop = partial(Lacking, dataset, field, label, seed=seed)
    fill = partial(drop, filling=mean_of(dataset, parts["train"], field, drop("yes")))
    for arm, (name, options) in ARMS.items():
        make = partial(methods.build, name, targets=targets, **options)
        hide = fill if arm == "mean" else drop
        for what, change in (("complete", as_it_is), ("depends", hide("yes"))):
            if what == "complete" and arm == "mean":
                continue
            choose = lambda m, batch, step, change=change: change(batch)  # noqa: E731
            each = {
                r: trained(dataset, parts["train"], make, BUDGET, seed, r, choose=choose)
                for r in BUDGET.rates
            }
            rate = max(each, key=lambda r: auc(each[r], dataset, parts["valid"], label, change))  # noqa: B023
            tests = {"complete": as_it_is}
            if what == "depends":
                tests = {
                    "turned": hide("no"),
                    "as in training": change,
                    "complete at test": as_it_is,
                }
            found |= {
                f"{where}, {t}: {arm}": auc(each[rate], dataset, parts["test"], label, c)
                for t, c in tests.items()
            }
            found[f"{where}, {what}, learning rate: {arm}"] = rate
    return found


def measure(seed, dataset):
    return of_set("digits", digits(dataset), seed) | of_set("tumours", tumours(), seed)
