"""Peers for retrieval: ridge regression into the other field, and canonical correlations."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from testbeds.peers.features import Features, Matrix, raw_features
from testbeds.testbed import Peer, Predict, Records, Task

WIDTH = 128
"""Directions of each field that are matched."""


def ridge_matching(*tasks: str, features: Features = raw_features) -> Peer:
    """Ridge regression from the directions of the one field to those of the other."""

    def fit(train: Records, task: Task, alpha: float = 1.0) -> Predict:
        sides = _Sides(train, task, WIDTH, features)
        model = Ridge(alpha=alpha).fit(sides.query(train), sides.target(train))
        return lambda records: _cosines(model.predict(sides.query(records)), sides.target(records))

    grid = tuple({"alpha": alpha} for alpha in (1.0, 10.0, 100.0, 1e3, 1e4))
    return Peer("ridge regression", "scikit-learn", fit, tasks, grid)


def canonical(*tasks: str, features: Features = raw_features) -> Peer:
    """Canonical correlation analysis of the directions of both fields."""

    def fit(train: Records, task: Task, n_components: int = 2, width: int = WIDTH) -> Predict:
        sides = _Sides(train, task, width, features)
        parts = min(n_components, sides.width)
        model = CCA(n_components=parts).fit(sides.query(train), sides.target(train))

        def predict(records: Records) -> np.ndarray:
            return _cosines(*model.transform(sides.query(records), sides.target(records)))

        return predict

    grid = tuple(
        {"n_components": c, "width": w} for c, w in ((8, 32), (16, 64), (32, 64), (32, 128))
    )
    return Peer("CCA", "scikit-learn", fit, tasks, grid)


class _Sides:
    """Both fields of a retrieval as dense matrices, fitted on training records."""

    def __init__(self, train: Records, task: Task, width: int, features: Features):
        self._describe = [features(train, (field,)) for field in task.fields]
        found = [describe(train) for describe in self._describe]
        least = min(min(x.shape) for x in found)
        self.width = max(1, min(width, least - 1))
        self._reduce = [_reducer(x, self.width).fit(x) for x in found]

    def query(self, records: Records) -> Any:
        return self._reduce[0].transform(self._describe[0](records))

    def target(self, records: Records) -> Any:
        return self._reduce[1].transform(self._describe[1](records))


def _reducer(x: Matrix, width: int) -> Pipeline:
    if sparse.issparse(x):
        return make_pipeline(TruncatedSVD(width, random_state=0), Normalizer(), StandardScaler())
    return make_pipeline(
        SimpleImputer(keep_empty_features=True), StandardScaler(), PCA(width, random_state=0)
    )


def _cosines(query: np.ndarray, target: np.ndarray) -> np.ndarray:
    a, b = (np.atleast_2d(x) for x in (query, target))
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    return np.asarray(a @ b.T)
