"""1,600 tiles of one scene of Sentinel-2, 480 m on a side, in 13 bands at three resolutions.

Four bands of 10 m, six of 20 m and three of 60 m, each a field. Fetched, never stored in this
repository. Contains modified Copernicus Sentinel data, free and open.

**Split.** By blocks of 8 x 8 tiles, 60 / 20 / 20 %.

**Known leaks.** One scene at one date: what is learnt is of this place. Blocks touch, and tiles on
two sides of a border are alike. `vegetation` is made of two bands of 10 m, so these are never read
where it is predicted; bands of 20 m see the same spectrum beside them, and have most of it. Means of
blocks, shifted into each other by CCA, find nearly every tile at 20 m by that at 10 m.
"""

from __future__ import annotations

from testbeds.peers.estimators import boosting_numbers, ridge
from testbeds.peers.matching import canonical, ridge_matching
from testbeds.testbed import Task, Testbed

FINE, COARSE, AIR = "s2_10m", "s2_20m", "s2_60m"
PAIRS = ("60 m by 10 m", "10 m by 60 m", "20 m by 10 m")
NUMBERS = ("vegetation from 20 m", "vegetation from 60 m")

TESTBED = Testbed(
    name="sentinel2",
    title="Tiles of a Sentinel-2 scene at three resolutions",
    data="sentinel2",
    fields=(FINE, COARSE, AIR),
    tasks=(
        Task("60 m by 10 m", "retrieval", "R@10", None, (FINE, AIR)),
        Task("10 m by 60 m", "retrieval", "R@10", None, (AIR, FINE)),
        Task("20 m by 10 m", "retrieval", "R@10", None, (FINE, COARSE)),
        Task("vegetation from 20 m", "linear", "Spearman", "vegetation", (COARSE,)),
        Task("vegetation from 60 m", "linear", "Spearman", "vegetation", (AIR,)),
    ),
    steps=400,
    batch_size=128,
    size="tiny",
    card=__doc__,
    peers=(
        ridge(*NUMBERS),
        boosting_numbers(*NUMBERS),
        ridge_matching(*PAIRS),
        canonical(*PAIRS),
    ),
)
