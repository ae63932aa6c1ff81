"""Bounds of synergy without labelled pairs (row 10). Liang et al., ICLR 2024, arXiv:2306.04539.
Generated tables of two binary modalities and a binary label, 200 for each seed, uniform over all such
tables (the truth must be known exactly); and real ones: handwritten digits, of which each two of
six tables of features are the modalities, cut into five clusters, for three labels: the digit, whether
it is even, and whether the numbers of both clusters add up to an even one, which no modality predicts
alone. 1,600 of the 2,000 records for each seed. The truth is computed from labelled pairs, and the
tables of single modalities and of pairs are margins of the same records, so that what is tested is the
bounds and not how well tables are estimated."""

import itertools

import numpy as np
import torch
from scipy.stats import spearmanr

from amodal.diagnose.pid_semisup import pid_semisup, synergy
from amodal.stats.kmeans import kmeans
from amodal_claims import Comparison

CLAIM = (
    "The true synergy always lies between the larger of the lower bounds (or 0) and the upper bound, all without labelled pairs; the bound "
    "by redundancy follows the true synergy, and more closely than how much single-modality classifiers disagree."
)
DATA = "digits"
SEEDS = 5
TABLES, CLUSTERS, RECORDS, TOLERANCE = 200, 5, 1600, 1e-3
SETS = {"random": "random tables", "digits": "digits"}
COMPARISONS = tuple(
    comparison
    for key, words in SETS.items()
    for comparison in (
        Comparison(f"{words}: synergy inside its bounds", "share of tables, against all", f"{key}: inside", 1.0, within=0.002),
        Comparison(f"{words}: the redundancy bound follows synergy", "rank correlation over tables", f"{key}: redundancy", 0.0, margin=0.3),
        Comparison(f"{words}: redundancy against disagreement", "rank correlation", f"{key}: redundancy", f"{key}: disagreement"),
    )
)  # fmt: skip


def random_tables(seed):
    p = np.random.default_rng([seed, 10]).dirichlet(np.ones(8), TABLES)
    return [torch.from_numpy(p).view(TABLES, 2, 2, 2)]


def digit_tables(dataset, seed):
    """For each label the tables (15 pairs of modalities, clusters, clusters, classes)."""
    rows = np.sort(np.random.default_rng([seed, 10]).permutation(len(dataset))[:RECORDS])
    codes = []
    for name in dataset.fields:
        x = torch.from_numpy(np.stack([dataset.value(i, name) for i in rows])).double()
        codes.append(
            kmeans((x - x.mean(0)) / x.std(0).clamp(min=1e-9), CLUSTERS, seed=seed, tries=1)[0]
        )
    digit = torch.from_numpy(dataset.label("digit")[rows].astype(int))
    tasks = {
        10: lambda a, b: digit,
        2: lambda a, b: digit % 2,
        -2: lambda a, b: (a + b) % 2,
    }
    found = []
    for classes, task in tasks.items():
        shape = (CLUSTERS, CLUSTERS, abs(classes))
        flat = [
            (a * CLUSTERS + b) * shape[2] + task(a, b) for a, b in itertools.combinations(codes, 2)
        ]
        found.append(
            torch.stack(
                [torch.bincount(f, minlength=int(np.prod(shape))).view(shape) for f in flat]
            ).double()
        )
    return found


def measure(seed, dataset):
    found = {}
    for key, parts in (("random", random_tables(seed)), ("digits", digit_tables(dataset, seed))):
        bounds = [pid_semisup(p.sum(-2), p.sum(-3), p.sum(-1)) for p in parts]
        true = torch.cat([synergy(p) for p in parts])
        lower, upper, greedy, redundancy, disagreement = (
            torch.cat([getattr(b, name) for b in bounds])
            for name in ("lower", "upper", "upper_greedy", "by_redundancy", "by_disagreement")
        )
        inside = (lower <= true + TOLERANCE) & (true <= upper + TOLERANCE)
        found |= {
            f"{key}: inside": float(inside.double().mean()),
            f"{key}: greedy upper holds": float((true <= greedy + TOLERANCE).double().mean()),
            f"{key}: redundancy": float(spearmanr(redundancy, true).statistic),
            f"{key}: disagreement": float(spearmanr(disagreement, true).statistic),
            f"{key}: upper": float(spearmanr(upper, true).statistic),
            f"{key}: true synergy": float(true.mean()),
            f"{key}: lower bound": float(lower.mean()),
            f"{key}: upper bound": float(upper.mean()),
        }
    return found
