"""Absence as the normal case: learn from every record with what it has, rather than only from the
complete ones. No row of its own: a claim about the library.

Three tables of features of real handwritten digits, each through a perceptron of its own, trained
to agree by NT-Xent between every two tables that a record has. Of their values 30 % are missing at
random, so that a third of the records are complete; in a second comparison 60 %. Both arms have the
same encoders, steps, batch and rate. Tested is a linear probe on five labels a class, on records
that have everything. Simple features and the untrained encoder, the floors, have everything in
training too. A record left with one table has nothing to be compared with and is in no batch. The
settings are those of the page `_tables`, looked at with controls alone. An earlier form had three
modalities of the Earth, retrieval, no floors, and was inconclusive at 30 % (-.002).
"""

import numpy as np

from amodal import methods
from amodal.core import row_seeds
from amodal.data import Dataset
from amodal.data.readers import Reader
from amodal.masking.hashing import uniform
from amodal_claims import Comparison, _tables

CLAIM = (
    "With 30 % of the values of three modalities missing at random, training on all records with whatever modalities they have gives features "
    "from which five labels a class predict digits better than training, at the same steps, on the complete records alone."
)
DATA = _tables.DATA
STEPS = (200, 400)
FIELDS = _tables.TABLES
SHARE, MORE = 0.3, 0.6
PRIMARY = Comparison(
    "30% of values missing",
    _tables.ACCURACY,
    "all, 30%",
    "complete, 30%",
    # a fifth of the control's errors
    interest=0.02,
)
SECONDARY = (Comparison("60% of values missing", _tables.ACCURACY, "all, 60%", "complete, 60%"),)
FLOORS = ("chance", "untrained", "simple features")


class Hiding(Reader):
    """Records of which each value of `columns` is missing with probability `share`: a pure function
    of key, column and seed, so what is missing at 30 % is missing at 60 %."""

    def __init__(self, reader: Reader, columns, share: float, seed: int):
        self.reader, self.keys, self.columns = reader, reader.keys, reader.columns
        self.base, self.ignored = reader.base, reader.ignored
        self.hidden = {
            c: uniform(row_seeds([f"{k}/{c}" for k in self.keys], salt=seed)).numpy() < share
            for c in columns
        }

    def get(self, i, column):
        return (
            None if column in self.hidden and self.hidden[column][i] else self.reader.get(i, column)
        )

    def present(self, column):
        there = self.reader.present(column)
        return there & ~self.hidden[column] if column in self.hidden else there

    def check(self, column):
        return self.reader.check(column)

    def stamp(self):
        return self.reader.stamp()


def make(encoder):
    method = methods.build("mv_dhel", encoder, loss="pairwise", views=1)
    method.views = ("strong",)
    return method


def of_arm(arm, share, seed, dataset, steps):
    """Accuracy of the probe, and how many records were learnt from. arm: "all" or "complete"."""
    digits = _tables.tables(dataset)
    parts = _tables.division(digits, seed, 0)
    hiding = Hiding(digits.reader, FIELDS, share, seed)
    left = Dataset(hiding, digits.schema, digits.path, digits.name)
    number = np.sum([left.present(f) for f in FIELDS], axis=0)[parts.train]
    rows = parts.train[number >= (2 if arm == "all" else len(FIELDS))]
    encoder, name = _tables.learnt(make, left, rows, seed, steps), f"{arm}, {share:.0%}"
    return {name: _tables.probed(encoder, digits, parts), f"records: {name}": len(rows)}


def floors(seed, dataset):
    return _tables.floors(make, _tables.tables(dataset), seed, 0)


def control(seed, dataset, steps):
    return of_arm("complete", SHARE, seed, dataset, steps)


def measure(seed, dataset, steps):
    found = {}
    for share in (SHARE, MORE):
        for arm in ("all", "complete"):
            found |= of_arm(arm, share, seed, dataset, steps)
    return found
