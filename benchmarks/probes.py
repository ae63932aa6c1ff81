"""The linear probe and the neighbours' vote against scikit-learn: time, and accuracy on the same
held-out records.

The features are scikit-learn's digits as pixels, and made ones that are correlated as those of
networks are (a spectrum that falls like 1/rank, in a random rotation). Our linear probe includes
the choice of the penalty; scikit-learn's is one fit on standardised features at its default
penalty, once with its default 100 iterations (where it warns) and once with 1,000; and, on digits,
the choice among the same penalties by five folds. The memory columns say nothing here: torch does
not see what scikit-learn allocates.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from amodal.evaluate.protocols.knn import neighbours
from amodal.evaluate.protocols.linear import fit
from amodal.stats.logistic import PENALTIES
from benchmarks._timing import Row, compare

GOAL = 10.0
"""Of speed at equal accuracy, on the large set."""
Split = tuple[Tensor, Tensor, Tensor, Tensor]


def digits(seed: int = 0) -> Split:
    """1,297 to train on, 500 to test on, 64 pixels, 10 classes."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = torch.from_numpy(x[order].astype(np.float32)), torch.from_numpy(y[order])
    return x[500:], y[500:], x[:500], y[:500]


def correlated(
    train: int = 50_000, test: int = 2_000, width: int = 384, classes: int = 10
) -> Split:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(classes, (train + test,), generator=g)
    own = torch.randn(classes, width, generator=g)[y] * 0.25 + torch.randn(
        len(y), width, generator=g
    )
    turn = torch.linalg.qr(torch.randn(width, width, generator=g))[0]
    x = (own / torch.arange(1, width + 1)) @ turn + torch.randn(width, generator=g) * 0.05
    return x[:train], y[:train], x[train:], y[train:]


def run() -> list[Row]:
    rows = []
    small = digits()
    tuned = "sklearn LogisticRegressionCV, 6 penalties, 5 folds"
    rows.append(
        judged(
            "linear probe, digits 1297x64", linear_pair(small, 1000, tuned=True), tuned, small, 5
        )
    )
    for name, data, turns in (
        ("digits 1297x64", small, 5),
        ("features 50000x384", correlated(), 1),
    ):
        for iterations in (100, 1000):
            against = f"sklearn LogisticRegression, max_iter {iterations}"
            rows.append(
                judged(f"linear probe, {name}", linear_pair(data, iterations), against, data, turns)
            )
        for prefilter in (False, True):
            what = f"20-NN {'bf16 first' if prefilter else 'exact'}, {name}"
            rows.append(
                judged(
                    what,
                    knn_pair(data, prefilter),
                    "sklearn KNeighborsClassifier",
                    data,
                    min(turns, 3),
                )
            )
    return [replace(row, goal=GOAL) if "50000x384" in row.what else row for row in rows]


def judged(what: str, pair: tuple[Callable, Callable], peer: str, data: Split, turns: int) -> Row:
    """The comparison of two predictors of data's test classes, with the accuracy of both in its
    name."""
    predictions: dict[int, object] = {}

    def recorded(number: int) -> Callable[[], object]:
        def call() -> object:
            predictions[number] = pair[number]()
            return predictions[number]

        return call

    row = compare(what, recorded(0), peer, recorded(1), repeat=turns)
    ours, theirs = (
        float((torch.as_tensor(predictions[i]) == data[3]).float().mean()) for i in (0, 1)
    )
    unseen = math.nan  # what numpy holds, torch's allocator does not see
    return replace(row, what=f"{what}, accuracy {ours:.3f}, peer {theirs:.3f}", peer_mib=unseen)


def linear_pair(data: Split, iterations: int, tuned: bool = False) -> tuple[Callable, Callable]:
    x, y, q, _ = data

    def peer():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scale = StandardScaler().fit(x.numpy())
            kind = LogisticRegressionCV(
                Cs=[1 / p for p in PENALTIES], cv=5, scoring="neg_log_loss", max_iter=iterations
            )
            model = (kind if tuned else LogisticRegression(max_iter=iterations)).fit(
                scale.transform(x.numpy()), y.numpy()
            )
            return model.predict(scale.transform(q.numpy()))

    return lambda: fit(x, y, 10)(q), peer


def knn_pair(data: Split, prefilter: bool) -> tuple[Callable, Callable]:
    x, y, q, _ = data
    unit = torch.nn.functional.normalize

    def weigh(distances):
        return np.exp(
            (1 - np.square(distances) / 2 - 1) / 0.07
        )  # cosine from the distance of unit vectors

    def peer():
        model = KNeighborsClassifier(20, weights=weigh, algorithm="brute").fit(
            unit(x, dim=1).numpy(), y.numpy()
        )
        return model.predict(unit(q, dim=1).numpy())

    return lambda: neighbours(x, y, 10, prefilter=prefilter)(q), peer
