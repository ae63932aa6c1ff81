"""2,465 emoji drawn by one team in one style, with a short text each, seen by pretrained encoders.

OpenMoji 17 (CC BY-SA 4.0), rendered on white at 64 pixels; fetched from npm. Pictures
go through a frozen EfficientNet-lite0 (ImageNet), texts through a frozen MiniLM; heads are learnt.

**Split.** By hash of the key, 80 / 10 / 10 %.

**Known leaks.** Variants of one drawing (a man's, a woman's and a person's of one job; flags of a
family) are separate records and may be in different parts. So a score is of naming new drawings of
a known style, not of naming new things.
"""

from __future__ import annotations

from testbeds.peers.estimators import logistic
from testbeds.peers.frozen import frozen_features
from testbeds.peers.matching import canonical, ridge_matching
from testbeds.testbed import Task, Testbed

RETRIEVALS = ("text by picture", "picture by text")
BACKBONES = {"image": "package:efficientnet_lite0", "annotation": "package:minilm"}

TESTBED = Testbed(
    name="openmoji_frozen",
    title="Emoji and their names, on frozen encoders",
    data="openmoji",
    fields=("image", "annotation"),
    tasks=(
        Task("text by picture", "retrieval", "R@10", None, ("image", "annotation")),
        Task("picture by text", "retrieval", "R@10", None, ("annotation", "image")),
        Task("group from the picture", "linear", "balanced accuracy", "group", ("image",)),
    ),
    steps=400,
    batch_size=128,
    size="tiny",
    card=__doc__,
    peers=(
        ridge_matching(*RETRIEVALS, features=frozen_features),
        canonical(*RETRIEVALS, features=frozen_features),
        logistic("group from the picture", features=frozen_features),
    ),
    backbones=BACKBONES,
)
