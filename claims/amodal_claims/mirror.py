"""MIRROR (row 62): keeping what each modality alone holds makes aligned features better. Wang et al.,
2025, arXiv:2503.00374.

Three tables of features of real handwritten digits, each through a perceptron of its own, in place of
slides and genes; "strong" augmentation, the same steps, batch and rate. The arms are one page with
other weights: all of MIRROR, and alignment alone.
Features of all tables side by side are probed with five labels a class. Beside it, what is private to
a table: what a ridge regression from the cells of the other two cannot predict of a cell, predicted
from the table's own features; R2 on held-out records, mean of cells, then of tables.

The control is alignment alone, which has to do better than chance, than itself before the first step
and than simple features. An earlier form of this claim had genes and clinical findings of 198 women
and no floors: concordance of survival .635 with MIRROR, .653 with alignment alone, .669 by the values
themselves; private .744 and .667, and .761 before training.
"""

from functools import partial
from statistics import mean

import numpy as np
import torch
from sklearn.linear_model import RidgeCV

from amodal import methods
from amodal_claims import Comparison, _tables
from amodal_claims._arms import features, raw

CLAIM = "Alignment with retention and style clustering gives features from which five labels a class predict digits better than those of alignment alone."
DATA = _tables.DATA
STEPS = (200, 400)
ROW = 62
SMALL = {"width": 64, "hidden": 64, "latent": 16, "prototypes": 100}
ARMS = {
    "mirror": SMALL,
    "alignment": SMALL | {"retain": 0.0, "style": 0.0, "cluster": 0.0},
}
PENALTIES = np.logspace(-1, 3, 9)
PRIVATE = "R2 of what the other tables leave over, mean of cells and tables"
PRIMARY = Comparison(
    "MIRROR against alignment alone",
    _tables.ACCURACY,
    "probe: mirror",
    "probe: alignment",
    # Of practice: two records of a hundred, as in `decur`.
    interest=0.02,
)
SECONDARY = (
    Comparison(
        "private: MIRROR against alignment alone", PRIVATE, "private: mirror", "private: alignment"
    ),
)
FLOORS = ("chance", "untrained", "simple features")


def made(arm, encoder):
    method = methods.build("mirror", encoder, **ARMS[arm])
    method.views = ("strong",)
    return method


def predicted(inputs, outputs, rows):
    """Of all records by the ridge regression of some."""
    model = RidgeCV(PENALTIES).fit(inputs[rows].numpy(), outputs[rows].numpy())
    return torch.from_numpy(model.predict(inputs.numpy()))


def private(encoder, digits, parts):
    """Mean R2, over tables and their cells that vary, of what the other tables leave over."""
    every = np.arange(len(digits))
    seen = features(encoder, digits, every)
    values = {f: raw(digits, every, [f]).values.float() for f in digits.fields}
    values = {f: (x - x.mean(0)) / x.std(0).clamp(min=1e-3) for f, x in values.items()}
    found = []
    for field, own in values.items():
        others = torch.cat([x for f, x in values.items() if f != field], 1)
        rest = own - predicted(others, own, parts.train)
        guess = predicted(seen[field].values.float(), rest, parts.train)
        truth, guess = rest[parts.test], guess[parts.test]
        spread = (truth - truth.mean(0)).square().sum(0)
        r2 = 1 - (truth - guess).square().sum(0) / spread.clamp(min=1e-6)
        found.append(float(r2[spread > 1].mean()))
    return mean(found)


def floors(seed, dataset):
    return _tables.floors(partial(made, "alignment"), _tables.tables(dataset), seed, ROW)


def of_arm(arm, seed, dataset, steps):
    digits = _tables.tables(dataset)
    parts = _tables.division(digits, seed, ROW)
    encoder = _tables.learnt(partial(made, arm), digits, parts.train, seed, steps)
    return {
        f"probe: {arm}": _tables.probed(encoder, digits, parts),
        f"private: {arm}": private(encoder, digits, parts),
    }


def control(seed, dataset, steps):
    return of_arm("alignment", seed, dataset, steps)


def measure(seed, dataset, steps):
    return {k: value for arm in ARMS for k, value in of_arm(arm, seed, dataset, steps).items()}
