"""Absence as the normal case: learn from every record with what it has, rather than only from the
complete ones. The method is CLIP between every two modalities; no row of its own: a claim about the
library."""

from statistics import mean

import numpy as np

from amodal import methods
from amodal.core import row_seeds
from amodal.data import Dataset
from amodal.data.readers import Reader
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.masking.hashing import uniform
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best, untrained

CLAIM = (
    "With 30, 60 and 90 % of the values of three modalities missing at random, training on all records with whatever modalities they have "
    "finds held-out complete records better than training, at the same steps, on the complete records alone."
)
DATA = "globe"
SEEDS = 5
BUDGET = Budget(steps=80, batch=128)
FIELDS = ("colour", "relief", "climate")
SHARES = (0.3, 0.6, 0.9)
METRIC = "Recall@10, mean of six directions, held-out tiles that have all modalities"
COMPARISONS = tuple(
    Comparison(f"{p:.0%} of values missing", METRIC, f"all, {p:.0%}", f"complete, {p:.0%}")
    for p in SHARES
)


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


def measure(seed, dataset):
    """Both arms see tiles that had all three modalities before values were hidden. A record left with
    one modality has nothing to be compared with and is in no batch; an arm with fewer records than a
    batch has takes them all at each step, one with fewer than two stays untrained."""
    globe = dataset.select(FIELDS)
    whole = np.logical_and.reduce([globe.present(s) for s in FIELDS])
    held = {part: (rows := globe.split(part))[whole[rows]] for part in ("train", "valid", "test")}

    def recall(method, part):
        found = retrieval(
            None, embed_records(method.encoder, globe, held[part]), recall_at=(10,)
        ).rows
        return mean(row["value"] for row in found if row["metric"] == "recall@10")

    def make(encoder):
        return methods.build("clip", encoder)

    found = {"untrained": recall(untrained(globe, make, BUDGET, seed), "test")}
    for share in SHARES:
        left = Dataset(
            Hiding(globe.reader, FIELDS, share, seed), globe.schema, globe.path, globe.name
        )
        fields = np.sum([left.present(s) for s in FIELDS], axis=0)[held["train"]]
        for arm, least in (("all", 2), ("complete", 3)):
            rows = held["train"][fields >= least]
            name = f"{arm}, {share:.0%}"
            found[f"records: {name}"] = len(rows)
            if len(rows) < 2:
                found[name] = found["untrained"]
                continue
            found[name] = recall(
                best(left, rows, make, BUDGET, seed, lambda m: recall(m, "valid")), "test"
            )
    return found
