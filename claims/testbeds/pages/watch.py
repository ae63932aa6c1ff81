"""416 windows of 10 s of a smartwatch: 10 people doing 7 shoulder exercises.

Accelerometer and gyroscope, three axes at 50 samples a second. From seglearn (BSD-3-Clause);
fetched from PyPI.

**Split.** By person: six to learn from, two to validate, two to test on. (The public set `watch`
validates and tests on one person each, whose score says little of others.)

**Known leaks.** None between people. Windows of one recording are alike, so intervals over windows
are too narrow; those over two people cannot be had.
"""

from __future__ import annotations

from testbeds.peers.estimators import boosting, logistic, minirocket
from testbeds.peers.matching import canonical, ridge_matching
from testbeds.testbed import Task, Testbed

CLASSES = ("exercise from both sensors", "exercise from the accelerometer")

TESTBED = Testbed(
    name="watch",
    title="Exercises by two motion sensors, split by person",
    data="watch_people",
    fields=("accelerometer", "gyroscope"),
    tasks=(
        Task("exercise from both sensors", "linear", "balanced accuracy", "exercise"),
        Task(
            "exercise from the accelerometer",
            "linear",
            "balanced accuracy",
            "exercise",
            ("accelerometer",),
        ),
        Task(
            "gyroscope by accelerometer", "retrieval", "R@10", None, ("accelerometer", "gyroscope")
        ),
    ),
    steps=400,
    batch_size=64,
    size="tiny",
    card=__doc__,
    peers=(
        logistic(*CLASSES),
        boosting(*CLASSES),
        minirocket(*CLASSES),
        ridge_matching("gyroscope by accelerometer"),
        canonical("gyroscope by accelerometer"),
    ),
    family="motion",
)
