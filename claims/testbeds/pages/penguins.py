"""344 penguins of three species: measures of the body, and where and when they were found.

Palmer penguins (CC0), fetched from PyPI. `place` gives much away: two species live on one island
each.

**Split.** By hash within each species, 60 / 20 / 20 %.

**Known leaks.** Birds of one nest are two records; the source's file with nests is not read.
"""

from __future__ import annotations

from testbeds.peers.estimators import boosting, logistic
from testbeds.testbed import Task, Testbed

TESTBED = Testbed(
    name="penguins",
    title="Penguins by body and place",
    data="penguins",
    fields=("body", "place"),
    tasks=(
        Task("species from all tables", "linear", "balanced accuracy", "species"),
        Task("species from body", "linear", "balanced accuracy", "species", ("body",)),
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
