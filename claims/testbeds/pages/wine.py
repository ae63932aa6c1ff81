"""178 Italian wines of three cultivars, 13 chemical measures in two tables.

UCI (CC BY 4.0), as scikit-learn has it. All but solved by a linear model; there to see whether
defaults fail on 106 records.

**Split.** By hash within each cultivar, 60 / 20 / 20 %.

**Known leaks.** Bottles of one producer may be in different parts; the source does not say.
"""

from __future__ import annotations

from testbeds.peers.estimators import boosting, logistic
from testbeds.testbed import Task, Testbed

TESTBED = Testbed(
    name="wine",
    title="Wines by their chemistry",
    data="wine",
    fields=("basic", "phenols"),
    tasks=(
        Task("cultivar from all tables", "linear", "balanced accuracy", "cultivar"),
        Task("cultivar from basic", "linear", "balanced accuracy", "cultivar", ("basic",)),
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
