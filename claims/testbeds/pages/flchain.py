"""7,874 people over 50: age, sex and proteins in the blood, and days until death.

FLCHAIN (public, in R's survival), as scikit-survival has it; fetched from PyPI.

**Split.** By hash of the key, 80 / 10 / 10 %.

**Known leaks.** None known. Age alone says most; what blood adds is what counts.
"""

from __future__ import annotations

from testbeds.peers.times import cox, elastic_net
from testbeds.testbed import Task, Testbed

TESTBED = Testbed(
    name="flchain",
    title="Blood, age and sex: time until death",
    data="flchain",
    fields=("person", "blood"),
    tasks=(
        Task("survival from both", "survival", "concordance", "time,event"),
        Task("survival from blood", "survival", "concordance", "time,event", ("blood",)),
    ),
    steps=400,
    batch_size=128,
    size="tiny",
    card=__doc__,
    peers=(
        cox(),
        elastic_net(),
    ),
)
