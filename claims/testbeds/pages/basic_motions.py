"""80 recordings of 10 s of a smartwatch: standing, walking, running, badminton.

Accelerometer and gyroscope, three axes at 10 samples a second (BasicMotions of the UEA archive, in
the package aeon), fetched from PyPI. A testbed of its own beside `watch`, as rates, people and
classes differ: records of the two cannot be mixed. It is small and all but solved by peers, and is
there to see whether defaults fail on 28 records.

**Split.** The source's 40 to test; of its 40 others three of ten in each class to validate.

**Known leaks.** Four students did everything five times, and the source does not say who is who: a
person is in all parts.
"""

from __future__ import annotations

from testbeds.peers.estimators import logistic, minirocket
from testbeds.testbed import Task, Testbed

TESTBED = Testbed(
    name="basic_motions",
    title="Four activities by two motion sensors",
    data="basic_motions",
    fields=("accelerometer", "gyroscope"),
    tasks=(
        Task("activity from both sensors", "linear", "balanced accuracy", "activity"),
        Task(
            "activity from the gyroscope", "linear", "balanced accuracy", "activity", ("gyroscope",)
        ),
    ),
    steps=400,
    batch_size=16,
    size="tiny",
    card=__doc__,
    peers=(
        logistic(),
        minirocket(),
    ),
    family="motion",
)
