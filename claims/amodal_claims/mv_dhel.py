"""MV-DHEL (row 89): all views in one term against the mean of pairwise NT-Xent. Koromilas et al.
2025, arXiv:2507.06979.

Views are three tables of features of real handwritten digits, pixels, Fourier and Karhunen-Loeve
coefficients, each through a perceptron of its own; no label is used. Digits are then told by a
linear probe on five labels a class. Arms have the same encoders, steps, batch and rate, and each
loss its temperature as published. Chosen beforehand on the control alone and on seeds of the pilot:
the tables, "strong" augmentation, 200 steps (the page `_tables` says why). An earlier form of this
claim had pictures of digits with crops for views, where simple features do better than either arm,
and was inconclusive (+.001) at 3 views.
"""

from functools import partial

import numpy as np

from amodal import methods
from amodal.diagnose.spectrum import effective_rank
from amodal_claims import Comparison, _tables
from amodal_claims._arms import features

CLAIM = (
    "With three tables of a record as views MV-DHEL gives features from which five labels a class "
    "predict digits better than the mean of NT-Xent over pairs of views does, at the same batch and "
    "steps."
)
DATA = _tables.DATA
STEPS = (200, 400)
ROW = 89
LOSSES = ("mv_dhel", "mv_info_nce", "pairwise")
RANK = "effective rank of centred features, mean of three tables, held-out digits"
PRIMARY = Comparison(
    "MV-DHEL against the mean over pairs",
    _tables.ACCURACY,
    "probe: mv_dhel",
    "probe: pairwise",
    # a quarter of the errors that the control makes here
    interest=0.02,
)
SECONDARY = (
    Comparison(
        "MV-InfoNCE against the mean over pairs",
        _tables.ACCURACY,
        "probe: mv_info_nce",
        "probe: pairwise",
    ),
    Comparison("MV-DHEL against the mean over pairs", RANK, "rank: mv_dhel", "rank: pairwise"),
)
FLOORS = ("chance", "untrained", "simple features")


def make(loss, encoder):
    method = methods.build("mv_dhel", encoder, loss=loss, views=1)
    method.views = ("strong",)
    return method


def of_loss(loss, seed, digits, steps):
    """Accuracy of the probe, and the rank of features."""
    parts = _tables.division(digits, seed, ROW)
    encoder = _tables.learnt(partial(make, loss), digits, parts.train, seed, steps)
    held = features(encoder, digits, parts.test)
    ranks = [float(effective_rank(c.values - c.values.mean(0))) for c in held.columns.values()]
    return {
        f"probe: {loss}": _tables.probed(encoder, digits, parts),
        f"rank: {loss}": float(np.mean(ranks)),
    }


def floors(seed, dataset):
    return _tables.floors(partial(make, "pairwise"), _tables.tables(dataset), seed, ROW)


def control(seed, dataset, steps):
    return of_loss("pairwise", seed, _tables.tables(dataset), steps)


def measure(seed, dataset, steps):
    digits, found = _tables.tables(dataset), {}
    for loss in LOSSES:
        found |= of_loss(loss, seed, digits, steps)
    return found
