"""2,465 emoji drawn by one team in one style, with a short text each, tags, and names in German and Hindi.

OpenMoji 17 (CC BY-SA 4.0), rendered on white at 64 pixels; fetched from npm. Names in
languages are missing for a fifth of the records. Nothing pretrained is used.

**Split.** By hash of the key, 80 / 10 / 10 %.

**Known leaks.** Variants of one drawing (a man's, a woman's and a person's of one job; flags of a
family) are separate records and may be in different parts. So a score is of naming new drawings of
a known style, not of naming new things.
"""

from __future__ import annotations

from testbeds.peers.estimators import hog_svm, logistic
from testbeds.peers.matching import canonical, ridge_matching
from testbeds.testbed import Task, Testbed

RETRIEVALS = ("text by picture", "picture by text", "Hindi by German")

TESTBED = Testbed(
    name="openmoji",
    title="Emoji and their names, from scratch",
    data="openmoji",
    fields=("image", "annotation", "tags", "name_de", "name_hi"),
    tasks=(
        Task("text by picture", "retrieval", "R@10", None, ("image", "annotation")),
        Task("picture by text", "retrieval", "R@10", None, ("annotation", "image")),
        Task("Hindi by German", "retrieval", "R@10", None, ("name_de", "name_hi")),
        Task("group from the picture", "linear", "balanced accuracy", "group", ("image",)),
    ),
    steps=400,
    batch_size=128,
    size="tiny",
    card=__doc__,
    peers=(
        ridge_matching(*RETRIEVALS),
        canonical(*RETRIEVALS),
        logistic("group from the picture"),
        hog_svm("group from the picture"),
    ),
)
