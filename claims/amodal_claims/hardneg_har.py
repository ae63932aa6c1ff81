"""Hard negatives for activity recognition (row 49): stress the negatives that look like the anchor,
though not too much. Choi, Beedu & Essa, 2023, arXiv:2309.01262.

Accelerometer and gyroscope of a smartwatch, seven exercises. Each seed holds other three of the ten
people out; nothing of them is seen in pre-training. Probes read the encoders' features and get five
labelled windows of each exercise, drawn five times.
"""

from dataclasses import replace

import numpy as np

from amodal import methods
from amodal.core import Embeddings
from amodal.evaluate import Embedded
from amodal.evaluate.protocols.linear import linear
from amodal_claims import Comparison
from amodal_claims._arms import Budget, features, side_by_side, trained

CLAIM = (
    "With five labels for each exercise, a linear probe on features learnt from both motion sensors with hard negatives (beta 1, prior .1) "
    "has a higher balanced accuracy on unseen people than with plain InfoNCE and than with far too hard ones (beta 10), and on one "
    "sensor alone a higher one than SimCLR on that sensor."
)
DATA = "watch"
SEEDS = 5
BUDGET = Budget(steps=150, batch=64, rates=(2e-3,))
FIELDS = ("accelerometer", "gyroscope")
HELD_OUT, FEW = 3, 5
BOTH = "balanced accuracy, exercise of unseen people, both sensors, 5 labels each"
ALONE = "balanced accuracy, exercise of unseen people, one sensor (mean of two), 5 labels each"
COMPARISONS = (
    Comparison("hard negatives against plain InfoNCE", BOTH, "hard, both", "plain, both"),
    Comparison("beta 1 against beta 10", BOTH, "hard, both", "too hard, both"),
    Comparison(
        "both sensors in pre-training against SimCLR", ALONE, "hard, alone", "simclr, alone"
    ),
)
ARMS = {
    "hard": ("hardneg_har", {"beta": 1.0, "prior": 0.1}),
    "too hard": ("hardneg_har", {"beta": 10.0, "prior": 0.1}),
    "plain": ("hardneg_har", {"beta": 0.0, "prior": 0.0}),
    "simclr": ("simclr", {}),
}


def probed(method, dataset, train, test, seed):
    """Balanced accuracy of probes on both sensors, and on one alone."""

    def embedded(rows):
        found = features(method.encoder, dataset, rows)
        both = side_by_side(found, FIELDS)
        columns = {s: found[s] for s in FIELDS} | {"both": both}
        labels = {"exercise": dataset.label("exercise")[rows]}
        return Embedded(
            [""] * len(rows),
            Embeddings({"both": both}, len(rows)),
            Embeddings(columns, len(rows)),
            labels,
        )

    options = {
        "label": "exercise",
        "few": FEW,
        "draws": 5,
        "seed": seed,
        "sources": ("both", *FIELDS),
    }
    found = linear(embedded(train), embedded(test), **options).rows
    value = {row["source"]: row["value"] for row in found if row["metric"] == "balanced accuracy"}
    return {"both": value["both"], "alone": float(np.mean([value[s] for s in FIELDS]))}


def measure(seed, dataset):
    watch = dataset.with_fields({s: replace(dataset.fields[s], patch=25) for s in FIELDS})
    people = watch.label("subject")
    held_out = np.random.default_rng(seed).permutation(np.unique(people.astype(str)))[:HELD_OUT]
    unseen = np.isin(people, held_out)
    train, test = np.flatnonzero(~unseen), np.flatnonzero(unseen)
    found = {}
    for arm, (name, options) in ARMS.items():
        make = lambda encoder, name=name, options=options: methods.build(name, encoder, **options)  # noqa: E731
        method = trained(watch, train, make, BUDGET, seed, *BUDGET.rates)
        found |= {
            f"{arm}, {what}": value
            for what, value in probed(method, watch, train, test, seed).items()
        }
    return found
