"""Hard negatives (row 49): stress the negatives that look like the anchor, though not too much.
Choi, Beedu & Essa, 2023, arXiv:2309.01262.

Sensors are three tables of features of real handwritten digits, each through a perceptron of its
own, and every two are contrasted without labels; digits are then told by a linear probe on five
labels a class. The arms differ in how much hard negatives weigh (beta) and in the share of false
ones that is assumed (prior). The settings are those of the page `_tables`, looked at with plain
InfoNCE on seeds of the pilot. On the paper's own kind of data, accelerometer and gyroscope of a
smartwatch, seven exercises of unseen people from five labels each, the pilot ended as no power:
plain InfoNCE had .666 and .648 after 150 steps, .731 and .646 after 300, simple statistics of the
same windows .762 and .791; no other arm was measured there. So it is asked here, of the loss alone,
and says nothing of activities.
"""

from functools import partial

from amodal import methods
from amodal_claims import Comparison, _tables

CLAIM = (
    "Contrast between three tables of a record with hard negatives (beta 1, prior .1) gives features from which five labels a class predict digits "
    "better than with plain InfoNCE."
)
DATA = _tables.DATA
STEPS = (200, 400)
ROW = 49
ARMS = {
    "hard": {"beta": 1.0, "prior": 0.1},
    "too hard": {"beta": 10.0, "prior": 0.1},
    "plain": {"beta": 0.0, "prior": 0.0},
}
PRIMARY = Comparison(
    "hard negatives against plain InfoNCE",
    _tables.ACCURACY,
    "hard",
    "plain",
    # a quarter of the errors that the control makes here
    interest=0.015,
)
SECONDARY = (Comparison("beta 1 against beta 10", _tables.ACCURACY, "hard", "too hard"),)
FLOORS = ("chance", "untrained", "simple features")


def make(arm, encoder):
    method = methods.build("hardneg_har", encoder, **ARMS[arm])
    method.views = ("strong",)
    return method


def of_arm(arm, seed, digits, steps):
    """Accuracy of the probe on five labels a class."""
    return {arm: _tables.accuracy(partial(make, arm), digits, seed, ROW, steps)}


def floors(seed, dataset):
    return _tables.floors(partial(make, "plain"), _tables.tables(dataset), seed, ROW)


def control(seed, dataset, steps):
    return of_arm("plain", seed, _tables.tables(dataset), steps)


def measure(seed, dataset, steps):
    digits, found = _tables.tables(dataset), {}
    for arm in ARMS:
        found |= of_arm(arm, seed, digits, steps)
    return found
