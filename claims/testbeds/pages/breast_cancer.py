"""569 tumours: ten measures of cell nuclei, as mean, error and worst, in three tables.

UCI Wisconsin diagnostic (CC BY 4.0), as scikit-learn has it.

**Split.** By hash within each diagnosis, 60 / 20 / 20 %.

**Known leaks.** None known. The three tables are of one picture, and overlap by construction.
"""

from __future__ import annotations

from testbeds.peers.estimators import boosting, logistic
from testbeds.testbed import Task, Testbed

TESTBED = Testbed(
    name="breast_cancer",
    title="Tumours by their cell nuclei",
    data="breast_cancer",
    fields=("mean", "error", "worst"),
    tasks=(
        Task("diagnosis from all tables", "linear", "balanced accuracy", "diagnosis"),
        Task("diagnosis from error", "linear", "balanced accuracy", "diagnosis", ("error",)),
    ),
    steps=400,
    batch_size=64,
    size="tiny",
    card=__doc__,
    peers=(
        logistic(),
        boosting(),
    ),
    family="small_tables",
)
