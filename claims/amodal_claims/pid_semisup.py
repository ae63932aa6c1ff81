"""Bounds of synergy without labelled pairs (row 10). Liang et al., ICLR 2024, arXiv:2306.04539.

Handwritten digits, of which each two of six tables of features are the modalities, cut into five
clusters, for three labels: the digit, whether it is even, and whether the numbers of both clusters
add up to an even one, which no modality predicts alone. 1,600 of the 2,000 records for each seed.
The truth is computed from labelled pairs, and the tables of single modalities and of pairs are
margins of the same records, so that what is tested is the bounds and not how well tables are
estimated. Beside them 200 GENERATED tables of binary variables, uniform over all such tables.

Two estimates of the synergy without labelled pairs are compared by the rank of the truth over all
tables of a seed: the paper's bound by redundancy, and its bound by the disagreement of classifiers
of single modalities. What the better modality leaves of the label's entropy is the simple way to
guess. Nothing is trained, so there is no length to choose. That the synergy lies between its bounds
is a theorem and stands in the tests of `amodal.diagnose.pid_semisup`. Known before: an earlier form
of this claim measured the same tables on five seeds, without floors and with other parts, and had
.33 for redundancy and .67 for disagreement on digits, .48 and .26 on random tables.
"""

import itertools

import numpy as np
import torch
from scipy.stats import spearmanr

from amodal.diagnose.pid_semisup import pid_semisup, synergy
from amodal.stats.kmeans import kmeans
from amodal_claims import Comparison

CLAIM = (
    "On real tables the lower bound of synergy by redundancy orders pairs of modalities and labels by their true synergy better than the "
    "bound by disagreement does, both without labelled pairs."
)
DATA = "digits"
STEPS = (1,)
TABLES, CLUSTERS, RECORDS = 200, 5, 1600
RANK = "rank correlation with the true synergy"
PRIMARY = Comparison(
    "digits: redundancy against disagreement",
    f"{RANK}, 45 tables of digits",
    "digits: redundancy",
    "digits: disagreement",
    # Of a correlation, less than a tenth would not change which pairs one collects labels for.
    interest=0.1,
)
SECONDARY = (
    Comparison(
        "random tables: redundancy against disagreement",
        f"{RANK}, 200 random tables",
        "random: redundancy",
        "random: disagreement",
    ),
    Comparison(
        "digits: redundancy against what the better modality leaves",
        f"{RANK}, 45 tables of digits",
        "digits: redundancy",
        "simple features",
    ),
)
FLOORS = ("chance", "simple features")


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


def entropy(p):
    return -(p * p.clamp(min=1e-300).log()).flatten(1).sum(1)


def unexplained(tables):
    """(N,) the entropy of the label less its information with the better modality."""
    p = tables / tables.sum((1, 2, 3), keepdim=True)
    label = entropy(p.sum((1, 2)))
    with_one = [
        entropy(p.sum(axis)) - entropy(p.sum((axis, 3))) for axis in (1, 2)
    ]  # of the label, where the modality is known
    return torch.minimum(*with_one).minimum(label)


def ranks(tables, estimates):
    """Rank correlation of each estimate with the true synergy of all tables."""
    true = torch.cat([synergy(p) for p in tables])
    return {name: float(spearmanr(x, true).statistic) for name, x in estimates.items()}


def bounds(tables, *names):
    each = [pid_semisup(p.sum(-2), p.sum(-3), p.sum(-1)) for p in tables]
    return {n: torch.cat([getattr(b, f"by_{n}") for b in each]) for n in names}


def floors(seed, dataset):
    tables = digit_tables(dataset, seed)
    simple = torch.cat([unexplained(p) for p in tables])
    return {"chance": 0.0} | ranks(tables, {"simple features": simple})


def control(seed, dataset, steps):
    tables = digit_tables(dataset, seed)
    [value] = ranks(tables, bounds(tables, "disagreement")).values()
    return {"digits: disagreement": value}


def measure(seed, dataset, steps):
    found = {}
    for key, tables in (("digits", digit_tables(dataset, seed)), ("random", random_tables(seed))):
        correlations = ranks(tables, bounds(tables, "redundancy", "disagreement"))
        found |= {f"{key}: {name}": value for name, value in correlations.items()}
    return found
