"""Action-aware learning: relating pairs of views to the action between them, beside view
invariance. Aubret et al. 2024, arXiv:2407.06704: their comparison with SimCLR-TT. On generated
objects, whose pose is known."""

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import methods
from amodal.core import Column
from amodal.data import Dataset
from amodal.data.readers.base import Reader
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best, features, probe

CLAIM = (
    "On generated objects that were never seen, adding the action loss to views in time raises the accuracy of a linear probe for the "
    "kind of object, and how often the nearest picture of another object of the kind shows it from the same side (within 30 degrees); "
    "actions of other records, shuffled, do not."
)
DATA = "turntable"
SEEDS = 5
BUDGET = Budget(steps=150, batch=128)
ACCURACY, POSE = (
    "linear probe, kind of unseen objects",
    "nearest other object of the kind within 30 degrees",
)
COMPARISONS = (
    Comparison("kind, against views in time alone", ACCURACY, "aa_ssl", "views in time"),
    Comparison("kind, against shuffled actions", ACCURACY, "aa_ssl", "shuffled actions"),
    Comparison("side, against views in time alone", POSE, "aa_ssl, side", "views in time, side"),
)


class Shuffled(Reader):
    """Every record has the action of another one."""

    def __init__(self, reader, seed):
        self.reader, self.keys, self.columns = reader, reader.keys, reader.columns
        self.base, self.ignored = reader.base, reader.ignored
        self.other = np.random.default_rng(seed).permutation(len(self.keys))

    def get(self, i, column):
        return self.reader.get(int(self.other[i]) if column == "action" else i, column)

    def present(self, column):
        return self.reader.present(column)

    def check(self, column):
        return self.reader.check(column)

    def stamp(self):
        return self.reader.stamp()


def measure(seed, dataset):
    train, valid, test = (dataset.split(part) for part in ("train", "valid", "test"))
    kind, thing, yaw = dataset.label("kind"), dataset.label("object"), dataset.label("yaw")
    seen = dataset.select(["first"])

    def accuracy(method, part):
        return probe(
            features(method.encoder, seen, train)["first"],
            kind[train],
            features(method.encoder, seen, part)["first"],
            kind[part],
        )

    def same_side(method):
        vectors: Column = features(method.encoder, seen, test)["first"]
        similarity = normalize(vectors.values, dim=1) @ normalize(vectors.values, dim=1).T
        own, kinds = thing[test], kind[test]
        allowed = torch.from_numpy((own[:, None] != own) & (kinds[:, None] == kinds))
        nearest = similarity.masked_fill(~allowed, -2).argmax(1).numpy()
        apart = np.abs((yaw[test] - yaw[test][nearest] + 180) % 360 - 180)
        return float((apart <= 30).mean())

    def arm(weight, data):
        def make(encoder):
            return methods.build("aa_ssl", encoder, first="first", second="second", weight=weight)

        return best(data, train, make, BUDGET, seed, lambda m: accuracy(m, valid))

    shuffled = Dataset(Shuffled(dataset.reader, seed), dataset.schema, dataset.path, dataset.name)
    found = {}
    for name, weight, data in (
        ("aa_ssl", 1.0, dataset),
        ("views in time", 0.0, dataset),
        ("shuffled actions", 1.0, shuffled),
    ):
        method = arm(weight, data)
        found |= {name: accuracy(method, test), f"{name}, side": same_side(method)}
    return found
