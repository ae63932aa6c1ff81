"""7,200 tiles of the Earth, 3 x 3 degrees: colour, relief, climate of the sea, names of places.

Colour is a picture of 32 x 32 pixels without clouds, relief the height of the same pixels, climate
twelve months of seven quantities over the sea (half of the tiles), places the names of up to a few
towns (a quarter). Bundled. CC BY 4.0 (places), BSD-3-Clause (zones), public domain (all else).

**Split.** By blocks of 15 x 15 degrees (`block`), 80 / 10 / 10 % of the blocks.

**Known leaks.** Blocks touch: a tile at the edge of a block has a neighbour 3 degrees away in
another part. Names of countries and regions stand in both parts. Tiles near a pole are narrow, and
show the same ground as their neighbours.
"""

from __future__ import annotations

from testbeds.peers.estimators import hog_svm, logistic, ridge
from testbeds.peers.matching import canonical, ridge_matching
from testbeds.testbed import Task, Testbed

TESTBED = Testbed(
    name="globe",
    title="The Earth in four modalities",
    data="globe",
    fields=("colour", "relief", "climate", "places"),
    tasks=(
        Task("climate zone from all", "linear", "balanced accuracy", "zone"),
        Task("climate zone from colour", "linear", "balanced accuracy", "zone", ("colour",)),
        Task("relief by colour", "retrieval", "R@10", None, ("colour", "relief")),
        Task("latitude from colour", "linear", "Spearman", "latitude", ("colour",)),
    ),
    steps=400,
    batch_size=128,
    size="tiny",
    card=__doc__,
    peers=(
        logistic("climate zone from all", "climate zone from colour"),
        hog_svm("climate zone from colour"),
        ridge("latitude from colour"),
        ridge_matching("relief by colour"),
        canonical("relief by colour"),
    ),
)
