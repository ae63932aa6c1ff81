"""MIRROR (row 62): keeping what each modality alone holds makes aligned embeddings better at survival
and at what is private. Wang et al., arXiv:2503.00374. Real data: 76 genes and four clinical
findings of 198 women with breast cancer, in place of slides and genes (there are no slides here,
and no subtypes, so survival alone is tested). Each seed divides the patients anew into three folds;
two thirds are learnt from, without labels, and the last third is looked at once; a seed's numbers
are means of its folds. The arms are one page with other weights, so the encoders, steps, batch and
rate are the same.

Survival: concordance of a ridge-penalised Cox regression on both modalities' features side by side.
Private: what a ridge regression from the other modality cannot predict of a column (a gene, age, …),
predicted from the modality's own features; R2 on held-out patients, mean of columns, then of both
modalities."""

from functools import partial
from statistics import mean

import numpy as np
import torch

from amodal import methods
from amodal.evaluate.protocols.linear import ridge
from amodal.stats.survival import survival
from amodal_claims import Comparison
from amodal_claims._arms import Budget, features, raw, trained, untrained

CLAIM = (
    "Alignment with retention and style clustering gives features of genes and clinical findings from which survival is predicted with a higher "
    "concordance, and what is private to each modality with a higher R2, than from those of alignment alone."
)
DATA = "gse7390"
SEEDS = 5
BUDGET = Budget(steps=60, batch=64, rates=(2e-3,))
FOLDS = 3
FIELDS = ("genes", "clinical")
SMALL = {"width": 64, "hidden": 64, "latent": 16, "prototypes": 100}
ARMS = {
    "mirror": SMALL,
    "alignment": SMALL | {"retain": 0.0, "style": 0.0, "cluster": 0.0},
    "retention": SMALL | {"align": 0.0, "style": 0.0, "cluster": 0.0},
}
COMPARISONS = (
    Comparison(
        "survival: MIRROR against alignment alone", "concordance index", "C: mirror", "C: alignment"
    ),
    Comparison(
        "private: MIRROR against alignment alone",
        "R2, mean of modalities",
        "private: mirror",
        "private: alignment",
    ),
)


def columns_of(dataset, field):
    """(N, C) float32, standardised; a missing cell is the mean."""
    values = raw(dataset, range(len(dataset)), [field]).values
    known = values.isfinite()
    filled = torch.where(known, values, 0)
    middle = filled.sum(0) / known.sum(0)
    filled = torch.where(known, values, middle)
    return (filled - filled.mean(0)) / filled.std(0)


def r2(truth, guess):
    return float(1 - (truth - guess).square().sum() / (truth - truth.mean()).square().sum())


def private(values, field, vectors, train, test):
    """Mean R2 over the columns of modality `field`, of what the other modality's values leave over."""
    [other] = [s for s in FIELDS if s != field]
    found = []
    for column in values[field].T:
        w, b = ridge(values[other][train], column[train])
        rest = column - values[other] @ w - b
        w, b = ridge(vectors[field][train], rest[train])
        found.append(r2(rest[test], vectors[field][test] @ w + b))
    return mean(found)


def judged(vectors, values, patients, train, test):
    """vectors: modality -> (N, D) of all patients."""
    both = torch.cat([vectors[s] for s in FIELDS], 1)
    concordance = survival(*((both[rows], *(y[rows] for y in patients)) for rows in (train, test)))
    return concordance, mean(private(values, s, vectors, train, test) for s in FIELDS)


def measure(seed, dataset):
    values = {s: columns_of(dataset, s) for s in FIELDS}
    patients = dataset.label("time"), dataset.label("event") == "1"
    folds = np.array_split(np.random.default_rng([seed, 1]).permutation(len(dataset)), FOLDS)
    found = {}
    for test in map(np.sort, folds):
        train = np.setdiff1d(np.arange(len(dataset)), test)
        encoders = {
            "untrained": untrained(
                dataset, partial(methods.build, "mirror", **SMALL), BUDGET, seed
            ).encoder
        }
        for arm, options in ARMS.items():
            make = partial(methods.build, "mirror", **options)
            encoders[arm] = trained(dataset, train, make, BUDGET, seed, BUDGET.rates[0]).encoder
        embedded = {
            arm: features(e.eval(), dataset, range(len(dataset))) for arm, e in encoders.items()
        }
        vectors = {arm: {s: z[s].values for s in FIELDS} for arm, z in embedded.items()} | {
            "values": values
        }
        for arm, each in vectors.items():
            concordance, r_squared = judged(each, values, patients, train, test)
            found.setdefault(f"C: {arm}", []).append(concordance)
            found.setdefault(f"private: {arm}", []).append(r_squared)
    return {name: mean(each) for name, each in found.items()}
