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
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    how: dict[str, Any] = {"max_iter": ROUNDS, "max_leaf_nodes": LEAVES, "random_state": seed}
    x, y = x_ND.numpy(), y_N.numpy()
    if not classes:
        regressor = HistGradientBoostingRegressor(**how).fit(x, y)
        return lambda other: torch.from_numpy(regressor.predict(other.numpy()))
    known = np.unique(y)
    if len(known) == 1:
        return Trees(None, known, classes)
    return Trees(HistGradientBoostingClassifier(**how).fit(x, y), known, classes)


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
