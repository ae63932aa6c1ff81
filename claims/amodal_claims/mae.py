"""MAE: what an encoder learns by filling in hidden patches can be read off linearly. He et al.,
CVPR 2022, arXiv:2111.06377, over two modalities as in MultiMAE. No row of its own: a claim about the
library."""

from functools import partial

from amodal import methods
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best, features, labelled, probe, raw, untrained

CLAIM = (
    "A linear probe on frozen MAE features predicts the climate zone of land from its colour, and the temperature of the sea from colour "
    "and relief, better than the same probe on the untrained encoder's features and on the pixels themselves."
)
DATA = "globe"
SEEDS = 5
BUDGET = Budget(steps=200, batch=256)
FIELDS = ("colour", "relief")
ZONE, SST = "accuracy, climate zone from colour", "R2, sea temperature from colour and relief"
COMPARISONS = (
    Comparison(
        "MAE features against the untrained encoder's", ZONE, "zone, mae", "zone, untrained"
    ),
    Comparison("MAE features against pixels", ZONE, "zone, mae", "zone, pixels"),
    Comparison("MAE features against the untrained encoder's", SST, "sst, mae", "sst, untrained"),
    Comparison("MAE features against pixels", SST, "sst, mae", "sst, pixels"),
)
PROBES = (("zone", "colour", ("colour",)), ("sst", "fused", FIELDS))  # label, features, pixels


def measure(seed, dataset):
    globe = dataset.select(FIELDS)
    encoder = methods.encoder_options("mae")

    def probed(label, vectors, part):
        """vectors: records -> Column."""
        train, test = labelled(globe, "train", label), labelled(globe, part, label)
        labels = globe.label(label)
        return probe(vectors(train), labels[train], vectors(test), labels[test])

    def read(method, label, source, part):
        return probed(label, lambda rows: features(method.encoder, globe, rows)[source], part)

    def score(method):
        return sum(read(method, label, source, "valid") for label, source, _ in PROBES)

    def make(encoder):
        return methods.build("mae", encoder)

    arms = {
        "mae": best(globe, globe.split("train"), make, BUDGET, seed, score, **encoder),
        "untrained": untrained(globe, make, BUDGET, seed, **encoder),
    }
    found = {}
    for label, source, fields in PROBES:
        found |= {
            f"{label}, {name}": read(method, label, source, "test") for name, method in arms.items()
        }
        found[f"{label}, pixels"] = probed(label, partial(raw, globe, names=fields), "test")
    return found
