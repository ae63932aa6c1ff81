"""Absence as the normal case, with labels: fine-tuning learns from every labelled record with what
it has, or from the complete ones alone. A claim about the library, of no row; the method is
`finetune` from a fresh encoder. Real handwritten digits, three of the six descriptions that come
with them (Fourier, Zernike, morphology); values are hidden at random by the seed, what is hidden at
30 % also at 60 %."""

import numpy as np
import torch

from amodal import methods
from amodal.data import Dataset
from amodal.evaluate import embed_records
from amodal.nn.heads.supervised import targets_of
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best
from amodal_claims.presence import Hiding

CLAIM = (
    "With 30, 60 and 90 % of the values of three modalities missing in training, learning from all records predicts held-out digits at least as "
    "well as learning, at the same steps, from the complete records alone: of complete records, and of records that lack as much."
)
DATA = "digits"
SEEDS = 5
BUDGET = Budget(steps=150, batch=128, rates=(2e-3, 8e-3))
FIELDS = ("fou", "zer", "mor")
SHARES = (0.3, 0.6, 0.9)
METRIC = "accuracy, 600 held-out digits"
TESTS = {"": "complete records", ", lacking": "records that lack as much"}
COMPARISONS = tuple(
    Comparison(
        f"{p:.0%} of values missing: tested on {words}",
        METRIC,
        f"all, {p:.0%}{end}",
        f"complete, {p:.0%}{end}",
    )
    for p in SHARES
    for end, words in TESTS.items()
)


@torch.no_grad()
def accuracy(method, dataset, rows):
    """A record that is left with nothing counts as wrong."""
    seen = embed_records(method.encoder, dataset, rows)
    predicted = method.head(seen.features)
    names = np.array(method.head.targets[0].classes)
    right = names[predicted.values.argmax(1).numpy()] == seen.label("digit")[predicted.rows.numpy()]
    return float(right.sum() / len(rows))


def measure(seed, dataset):
    digits = dataset.select(FIELDS)
    order = np.random.default_rng(seed).permutation(len(digits))
    train, valid, test = np.sort(order[:1200]), np.sort(order[1200:1400]), np.sort(order[1400:])
    targets = targets_of(digits, train, "digit")

    def make(encoder):
        return methods.build("finetune", encoder, label="digit", targets=targets, view="plain")

    found = {}
    for share in SHARES:
        left = Dataset(
            Hiding(digits.reader, FIELDS, share, seed), digits.schema, digits.path, digits.name
        )
        fields = np.sum([left.present(s) for s in FIELDS], axis=0)[train]
        for arm, least in (("all", 1), ("complete", 3)):
            rows, name = train[fields >= least], f"{arm}, {share:.0%}"
            found[f"records: {name}"] = len(rows)
            if len(rows) < 10:  # cannot hold every digit; all are taken for the commonest
                commonest = np.unique(digits.label("digit")[train].astype(str), return_counts=True)[
                    1
                ].max() / len(train)
                found[name] = found[f"{name}, lacking"] = commonest
                continue
            method = best(left, rows, make, BUDGET, seed, lambda m: accuracy(m, digits, valid))
            found[name], found[f"{name}, lacking"] = (
                accuracy(method, digits, test),
                accuracy(method, left, test),
            )
    return found
