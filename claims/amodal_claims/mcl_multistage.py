"""MCL (row 128): stages learn what the stages before leave out. Zhang et al., ECCV 2024,
arXiv:2402.11816.

Three tables of features of real handwritten digits, each through a perceptron of its own, compared
in pairs as in CLIP; the mean of what a record has is clustered after each stage, and negatives of
the next come from the same clusters. All arms take the same steps in all: three stages of a third
each; one encoder for all of them; three encoders of a third each from different starts, put side by
side at unit length, as wide as MCL's vectors, which is the control, since wide vectors alone may do
better. Digits are told by a linear probe on five labels a class. Chosen beforehand, with one
encoder alone on seeds of the pilot: "strong" augmentation (the page `_tables`), 128 records a step.
An earlier form of this claim had GENERATED composites of colours and digits, no floors, and was
inconclusive (second stage against one encoder +.016).
"""

import torch
from torch.nn.functional import normalize

from amodal import methods
from amodal_claims import Comparison, _tables
from amodal_claims._arms import features, side_by_side

CLAIM = (
    "The vectors of three contrastive stages side by side, each with negatives from the clusters of those before, predict digits from five labels "
    "a class better than those of three encoders of equal width that were trained apart, at the same steps in all."
)
DATA = _tables.DATA
STEPS = (300, 600)
ROW, STAGES, CLUSTERS, WIDTH = 128, 3, 10, 64
PRIMARY = Comparison(
    "three stages against three encoders trained apart",
    _tables.ACCURACY,
    "stages",
    "apart",
    # a fifth of the errors of one encoder
    interest=0.02,
)
SECONDARY = (
    Comparison("three stages against one encoder", _tables.ACCURACY, "stages", "one"),
    Comparison("the second stage against one encoder", _tables.ACCURACY, "stage 2", "one"),
)
FLOORS = ("chance", "untrained", "simple features")


def make(encoder):
    return of_parts(1, encoder)


def of_parts(parts, encoder):
    options = {"parts": parts, "width": WIDTH, "clusters": CLUSTERS}
    method = methods.build("mcl_multistage", encoder, **options)
    method.views = ("strong",)
    return method


def vectors(encoder, digits):
    """(N, D) of all records, its tables side by side."""
    whole = features(encoder, digits, range(len(digits)))
    return side_by_side(whole, list(digits.fields)).values


def stages(seed, digits, parts, steps):
    """Accuracy of all stages together and of each."""

    def staged(encoder):
        return of_parts(STAGES, encoder)

    encoder = _tables.learnt(staged, digits, parts.train, seed, steps)
    whole = features(encoder, digits, range(len(digits)))
    width = encoder.width
    found = {"stages": _tables.probed(encoder, digits, parts)}
    for stage in range(STAGES):
        own = [whole[f].values.split(width, 1)[stage] for f in digits.fields]
        found[f"stage {stage + 1}"] = _tables.of_vectors(
            torch.cat(own, 1), digits, parts, parts.test
        )
    return found


def apart(seed, digits, parts, steps):
    """Accuracy of encoders of a third of the steps each, from starts of their own."""
    each = [
        _tables.learnt(make, digits, parts.train, 1000 * (i + 1) + seed, steps // STAGES)
        for i in range(STAGES)
    ]
    unit = [normalize(vectors(encoder, digits), dim=1) for encoder in each]
    return {"apart": _tables.of_vectors(torch.cat(unit, 1), digits, parts, parts.test)}


def floors(seed, dataset):
    return _tables.floors(make, _tables.tables(dataset), seed, ROW)


def control(seed, dataset, steps):
    digits = _tables.tables(dataset)
    return apart(seed, digits, _tables.division(digits, seed, ROW), steps)


def measure(seed, dataset, steps):
    digits = _tables.tables(dataset)
    parts = _tables.division(digits, seed, ROW)
    one = _tables.learnt(make, digits, parts.train, seed, steps)
    found = {"one": _tables.probed(one, digits, parts)}
    return found | stages(seed, digits, parts, steps) | apart(seed, digits, parts, steps)
