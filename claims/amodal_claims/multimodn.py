"""MultiModN (row 147): what is missing depends on the class in training, and at test on the other
class. Swamy et al., NeurIPS 2023, arXiv:2309.14118.

Two real sets, split anew for each seed. Handwritten digits, the pixels of whose left and right
halves are the modalities: is it at least five (the task that is judged), and is it even, predicted
by one network. Wisconsin's breast tumours (scikit-learn): means, errors and worst values of ten
measurements of cells, 10 columns each, are the modalities: is it malignant. In training four of
five records of the class lack one modality (the right half, the worst values), all others are
complete; at test four of five of the other class lack it, and none of this one. This is after the
paper's experiment and not the same: a modality is skipped record by record, as its text has it, and
not for a whole batch in which one record lacks it, as its code has it; the update of the state is
linear and the decoder shared, where the authors have perceptrons with dropout and a decoder a task;
some hundred steps for their 100 epochs. Changes of the state have no weight, as in that experiment.

Arms, both with the same encoders (a perceptron a modality), steps and learning rate: `modular`;
`learned`, all vectors side by side into a perceptron with 32 hidden units, and a learned vector for
what is missing. That the classes can be learnt is asked of `learned` when it is trained and tested
on complete digits: what it does once the missing modality has changed sides may be below chance,
which is what the paper says of it. Left out for time, and in the earlier claim: the mean of the
training records' values filled in, and `modular` on complete records. Known before: at 70 steps, in
that claim, with transformers on pictures of the halves, the arms were alike on digits; one training
of each at 300, on seed 0, had the order that the paper has. Perceptrons took the transformers'
place because they are far cheaper and, complete, above logistic regression of the pixels after 40
steps; that was looked at on a seed of the pilot, with both arms on complete records alone. A try of
two steps, to see that the page runs, preceded the claim.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer

from amodal import data, methods
from amodal.core import row_seeds
from amodal.data import Loader
from amodal.masking.hashing import uniform
from amodal.modalities.table import Table
from amodal.nn.heads.supervised import targets_of
from amodal.stats.auroc import auroc
from amodal.stats.logistic import logistic
from amodal_claims import Comparison, _tables
from amodal_claims._arms import Budget, side_by_side, trained, untrained
from amodal_claims._floors import simple_pair

CLAIM = (
    "If a modality is missing from four of five training records of one class, and at test from four of five of the other, sequential fusion "
    "that skips it predicts the classes better than parallel fusion with a learned vector for what is missing."
)
DATA = "digits"
STEPS = (300, 600)
BATCH, RATE = 32, 2e-3
SHARE, HIDDEN = 0.8, 32
ARMS = {
    "modular": ("multimodn", {"change": 0.0, "hidden": HIDDEN, "view": "plain"}),
    "learned": ("finetune", {"hidden": HIDDEN, "view": "plain"}),
}
SETS = {
    "digits": ("right", "large,even"),
    "tumours": ("worst", "malignant"),
}  # what is missing, and what is predicted
AUC = "AUC of the first task"
TURNED = "missing from the other class at test: against"
# The paper's parallel fusion falls from well above chance to below it, by some .3 or more; .15 is
# half of that.
PRIMARY = Comparison(
    f"digits, {TURNED} parallel, a learned vector",
    AUC,
    "digits, turned: modular",
    "digits, turned: learned",
    interest=0.15,
)
SECONDARY = (
    Comparison(
        f"tumours, {TURNED} parallel, a learned vector",
        AUC,
        "tumours, turned: modular",
        "tumours, turned: learned",
    ),
)
CONTROL = "digits, complete: learned"
FLOORS = ("chance", "untrained", "simple features")


def digits(dataset):
    pixels = [dataset.value(i, "pix").reshape(16, 15) for i in range(len(dataset))]
    digit = dataset.label("digit").astype(int)
    parts = {"left": [p[:, :8] for p in pixels], "right": [p[:, 8:] for p in pixels]}
    raw = {side: [half.ravel() for half in halves] for side, halves in parts.items()}
    labels = {"large": yes_no(digit >= 5), "even": yes_no(digit % 2 == 0)}
    return data.open(raw | labels, name="halves of digits")


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
    """Takes a modality away from four of five records that are of a class."""

    def __init__(self, dataset, field, label, wanted, seed):
        values = dataset.label(label)
        self.of = {key: value == wanted for key, value in zip(dataset.reader.keys, values)}
        self.field, self.seed = field, seed

    def __call__(self, batch):
        mine = torch.tensor([self.of[key] for key in batch.keys])
        lacks = mine & (uniform(row_seeds(batch.keys, salt=self.seed)) < SHARE)
        column = batch[self.field]
        return replace(batch, columns=batch.columns | {self.field: column.at(~lacks[column.rows])})


@torch.no_grad()
def auc(method, dataset, rows, label, change):
    scores = []
    for batch in map(change, Loader(dataset, rows, batch=256, shuffle=False)):
        predicted = method.head.predictions(method.predict(batch))
        scores.append(predicted[label][:, 1])
    return auroc(torch.cat(scores).numpy(), dataset.label(label)[rows] == "yes")


def as_it_is(batch):
    return batch


def maker(arm, targets):
    name, options = ARMS[arm]
    return partial(methods.build, name, targets=targets, **options)


def of_set(where, dataset, seed, steps, wanted):
    """AUC of test records. wanted: pairs of an arm and "complete" or "turned"."""
    (field, labels), parts = SETS[where], split(dataset, seed)
    label, budget = labels.split(",")[0], Budget(steps, BATCH, (RATE,))
    targets = targets_of(dataset, parts["train"], labels)
    hide = partial(Lacking, dataset, field, label, seed=seed)
    found = {}
    for arm, what in wanted:
        shown, at_test = (as_it_is, as_it_is) if what == "complete" else (hide("yes"), hide("no"))
        method = trained(
            dataset,
            parts["train"],
            maker(arm, targets),
            budget,
            seed,
            RATE,
            choose=lambda m, batch, step, shown=shown: shown(batch),
            backbones=_tables.perceptrons(dataset, seed),
        )
        tests = {what: at_test} | ({"as in training": shown} if what == "turned" else {})
        found |= {
            f"{where}, {t}: {arm}": auc(method, dataset, parts["test"], label, c)
            for t, c in tests.items()
        }
    return found


def simple_auc(dataset, parts, label):
    """Of a logistic regression of simple features of both modalities, complete as the control is."""
    both = simple_pair(dataset, parts["train"], parts["test"])
    train, test = (side_by_side(part.features, list(dataset.fields)).values for part in both)
    truth = torch.from_numpy((dataset.label(label)[parts["train"]] == "yes").astype(np.int64))
    weights, _, _ = logistic(train, truth, 2)
    scores = test @ (weights[:, 1] - weights[:, 0])
    return auroc(scores.numpy(), dataset.label(label)[parts["test"]] == "yes")


def floors(seed, dataset):
    halves = digits(dataset)
    parts, labels = split(halves, seed), SETS["digits"][1]
    label, targets = labels.split(",")[0], targets_of(halves, parts["train"], labels)
    budget = Budget(1, BATCH)
    begun = _tables.perceptrons(halves, seed)
    fresh = untrained(halves, maker("learned", targets), budget, seed, backbones=begun).eval()
    return {
        "chance": 0.5,
        "untrained": auc(fresh, halves, parts["test"], label, as_it_is),
        "simple features": simple_auc(halves, parts, label),
    }


def control(seed, dataset, steps):
    return of_set("digits", digits(dataset), seed, steps, [("learned", "complete")])


def measure(seed, dataset, steps):
    turned = [(arm, "turned") for arm in ARMS]
    found = of_set("digits", digits(dataset), seed, steps, [*turned, ("learned", "complete")])
    return found | of_set("tumours", tumours(), seed, steps, turned)
