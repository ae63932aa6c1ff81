"""Gradient boosting of trees on frozen features: what a label needs that no linear map reads off.

Scikit-learn's histogram trees (`HistGradientBoostingClassifier`, after LightGBM, Ke et al. 2017),
with early stopping where there are records enough, and for classes the penalty of XGBoost. They
cost far more than a linear probe, so they are measured on request only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
    class_weight: Literal["none", "balanced"] = "none",
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
        class_weight: "balanced" for classes that weigh the same, however many records they have.
    """
    spec, rows = measure_sources(
        lambda x, y, classes: fit(x, y, classes, seed, balanced=class_weight == "balanced"),
        train,
        test,
        label,
        sources=sources,
        few=few,
        draws=draws,
        seed=seed,
        calibrated=True,
    )
    settings = {"rounds": ROUNDS, "leaves": LEAVES, "class_weight": class_weight}
    return Result("boosting", spec | settings, rows)


def fit(
    x_ND: Tensor, y_N: Tensor, classes: int, seed: int = 0, *, balanced: bool = False
) -> Predict:
    """Fit boosted trees.

    Args:
        x_ND: Features.
        y_N: Classes by number, or numbers.
        classes: How many, 0 where `y_N` are numbers.
        seed: Of the part that early stopping looks at.
        balanced: Whether classes weigh the same.
    """
    if not classes:
        model = regressor(x_ND, y_N.numpy(), seed)
        return lambda other: torch.from_numpy(model.predict(other.numpy()))
    y = y_N.numpy()
    return Trees(classifier(x_ND, y, seed, balanced=balanced), np.unique(y), classes)


def classifier(x_ND: Tensor, y_N: np.ndarray, seed: int = 0, *, balanced: bool = False) -> Any:
    """Scikit-learn's classifier, fitted; None where there is one class only.

    Args:
        x_ND: Features.
        y_N: Classes by number.
        seed: Of the part that early stopping looks at.
        balanced: Whether classes weigh the same.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    counts = np.unique(y_N, return_counts=True)[1]
    if len(counts) == 1:
        return None
    # the part of early stopping has a record of each class, so it needs two of each
    chosen: dict[str, Any] = {} if counts.min() > 1 else {"early_stopping": False}
    # as in XGBoost: without it the leaves of a class with a handful of records grow without bound,
    # and take all records
    chosen["l2_regularization"] = 1.0
    chosen |= {"class_weight": "balanced"} if balanced else {}
    model = HistGradientBoostingClassifier(**_options(seed), **chosen)
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
