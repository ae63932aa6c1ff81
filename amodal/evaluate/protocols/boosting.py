"""Gradient boosting of trees on frozen features: what a label needs that no linear map reads off.

Scikit-learn's histogram trees (`HistGradientBoostingClassifier`, after LightGBM, Ke et al. 2017) as
they are by default, with early stopping where there are records enough. They cost far more than a
linear probe, so they are measured on request only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.evaluate.labels import Predict, measure_sources
from amodal.evaluate.needed_records import drawn, labelled
from amodal.evaluate.needs import LABEL
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded

ROUNDS = 100
LEAVES = 15
"""Of a tree: small data is overfitted by the 31 of the default."""


def boosting(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
    sources: Sequence[str] | None = None,
) -> Result:
    """Fit boosted trees on each field and on the fused vectors.

    Args:
        train: Training records.
        test: Test records.
        label: What is predicted.
        few: See `measure`.
        draws: See `measure`.
        seed: See `measure`.
        sources: All unless set.
    """
    spec, rows = measure_sources(
        lambda x, y, classes: fit(x, y, classes, seed),
        train,
        test,
        label,
        sources=sources,
        few=few,
        draws=draws,
        seed=seed,
        calibrated=True,
    )
    return Result("boosting", spec | {"rounds": ROUNDS, "leaves": LEAVES}, rows)


def fit(x_ND: Tensor, y_N: Tensor, classes: int, seed: int = 0) -> Predict:
    """Fit boosted trees.

    Args:
        x_ND: Features.
        y_N: Classes by number, or numbers.
        classes: How many, 0 where `y_N` are numbers.
        seed: Of the part that early stopping looks at.
    """
    if not classes:
        model = regressor(x_ND, y_N.numpy(), seed)
        return lambda other: torch.from_numpy(model.predict(other.numpy()))
    y = y_N.numpy()
    return Trees(classifier(x_ND, y, seed), np.unique(y), classes)


def classifier(x_ND: Tensor, y_N: np.ndarray, seed: int = 0) -> Any:
    """Scikit-learn's classifier, fitted; None where there is one class only.

    Args:
        x_ND: Features.
        y_N: Classes by number.
        seed: Of the part that early stopping looks at.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    counts = np.unique(y_N, return_counts=True)[1]
    if len(counts) == 1:
        return None
    # the part of early stopping has a record of each class, so it needs two of each
    stopping: dict[str, Any] = {} if counts.min() > 1 else {"early_stopping": False}
    model = HistGradientBoostingClassifier(**_options(seed), **stopping)
    return model.fit(x_ND.numpy(), y_N)


def regressor(x_ND: Tensor, y_N: np.ndarray, seed: int = 0) -> Any:
    """Scikit-learn's regressor, fitted; see `classifier`."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(**_options(seed)).fit(x_ND.numpy(), y_N)


def _options(seed: int) -> dict[str, Any]:
    return {"max_iter": ROUNDS, "max_leaf_nodes": LEAVES, "random_state": seed}


@dataclass(frozen=True)
class Trees:
    """A classifier of boosted trees.

    Args:
        model: Fitted on more than one class; None where there is one only.
        known: The classes that it was fitted on, ascending.
        classes: How many there are.
    """

    model: Any
    known: np.ndarray
    classes: int

    def __call__(self, x_MD: Tensor) -> Tensor:
        return self.probabilities(x_MD).argmax(1)

    def probabilities(self, x_MD: Tensor) -> Tensor:
        """(M, K), rows sum to one."""
        p = np.zeros((len(x_MD), self.classes))
        p[:, self.known] = 1.0 if self.model is None else self.model.predict_proba(x_MD.numpy())
        return torch.from_numpy(p)


class Boosting(Protocol):
    """Boosted trees."""

    name, needs, needed = "boosting", (LABEL,), (drawn, labelled)
    default = False
    yardstick = True
    measure = staticmethod(boosting)


PROTOCOL = Boosting()
