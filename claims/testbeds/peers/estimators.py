"""Peers that predict a label: logistic and ridge regression, boosted trees, linear SVM, MiniRocket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from sklearn.svm import LinearSVC

from testbeds.peers.features import Features, Matrix, gradient_features, raw_features
from testbeds.testbed import Fit, Peer, Predict, Records, Task

STRENGTHS = ({"C": 0.01}, {"C": 0.1}, {"C": 1.0}, {"C": 10.0}, {"C": 100.0})
PENALTIES = ({"alpha": 0.1}, {"alpha": 1.0}, {"alpha": 10.0}, {"alpha": 100.0}, {"alpha": 1000.0})
TREES: tuple[Mapping[str, Any], ...] = (
    {"learning_rate": 0.05, "max_leaf_nodes": 8, "max_iter": 200},
    {"l2_regularization": 1.0, "min_samples_leaf": 10},
)
DENSE = 128
"""Directions that trees read of a sparse matrix."""

Make = Callable[..., Any]
"""(x, **options) -> an estimator that is not fitted yet; x says whether it is sparse."""


def predictor(features: Features, make: Make) -> Fit:
    """A `Fit` of features and an estimator.

    Args:
        features: of the task's fields.
        make: the estimator.
    """

    def fit(train: Records, task: Task, **options: Any) -> Predict:
        describe = features(train, task.fields or tuple(train.dataset.fields))
        x, y = describe(train), train.label(str(task.label))
        target = y if task.is_number else y.astype(str)
        model = make(x, **options).fit(x, target)
        return lambda records: np.asarray(model.predict(describe(records)), dtype=y.dtype)

    return fit


def _scaled(x: Matrix) -> list[Any]:
    if sparse.issparse(x):
        return [MaxAbsScaler()]
    return [SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler()]


def _logistic(x: Matrix, **options: Any) -> Pipeline:
    return make_pipeline(*_scaled(x), LogisticRegression(max_iter=300, **options))


def _svm(x: Matrix, **options: Any) -> Pipeline:
    return make_pipeline(*_scaled(x), LinearSVC(**options))


def _ridge(x: Matrix, **options: Any) -> Pipeline:
    return make_pipeline(*_scaled(x), Ridge(**options))


def _trees(kind: Any) -> Make:
    def make(x: Matrix, **options: Any) -> Any:
        model = kind(random_state=0, **options)
        if sparse.issparse(x):
            width = min(DENSE, min(x.shape) - 1)
            return make_pipeline(TruncatedSVD(width, random_state=0), model)
        return model

    return make


def logistic(
    *tasks: str,
    features: Features = raw_features,
    grid: tuple[Mapping[str, Any], ...] = STRENGTHS,
) -> Peer:
    """Logistic regression, on raw features unless others are named."""
    return Peer("logistic regression", "scikit-learn", predictor(features, _logistic), tasks, grid)


def hog_svm(*tasks: str) -> Peer:
    """A linear SVM on histograms of gradients (Dalal and Triggs 2005)."""

    def fit(train: Records, task: Task, **options: Any) -> Predict:
        return predictor(gradient_features, _svm)(train, task, **options)

    return Peer("HOG and linear SVM", "scikit-image", fit, tasks, STRENGTHS[:4])


def svm(*tasks: str) -> Peer:
    """A linear SVM on raw features: the usual one for texts of many classes."""
    fit = predictor(raw_features, _svm)
    return Peer("linear SVM", "scikit-learn", fit, tasks, STRENGTHS[:4])


def ridge(*tasks: str) -> Peer:
    """Ridge regression on raw features."""
    fit = predictor(raw_features, _ridge)
    return Peer("ridge regression", "scikit-learn", fit, tasks, PENALTIES)


def boosting(*tasks: str) -> Peer:
    """Gradient boosting of trees, for classes."""
    fit = predictor(raw_features, _trees(HistGradientBoostingClassifier))
    return Peer("gradient boosting", "scikit-learn", fit, tasks, TREES)


def boosting_numbers(*tasks: str) -> Peer:
    """Gradient boosting of trees, for numbers."""
    fit = predictor(raw_features, _trees(HistGradientBoostingRegressor))
    return Peer("gradient boosting", "scikit-learn", fit, tasks, TREES)


def minirocket(*tasks: str) -> Peer:
    """MiniRocket (Dempster et al. 2021) on all channels of all fields, of one length and rate."""

    def fit(train: Records, task: Task, n_kernels: int = 10_000) -> Predict:
        from aeon.classification.convolution_based import MiniRocketClassifier

        fields = task.fields or tuple(train.dataset.fields)

        def channels(records: Records) -> np.ndarray:
            blocks = [np.stack([np.asarray(v) for v in records.values(f)]) for f in fields]
            return np.concatenate(blocks, axis=2).transpose(0, 2, 1).astype(np.float32)

        model = MiniRocketClassifier(n_kernels=n_kernels, random_state=0)
        model.fit(channels(train), train.label(str(task.label)).astype(str))
        return lambda records: np.asarray(model.predict(channels(records)), dtype=object)

    return Peer("MiniRocket", "aeon", fit, tasks, ({"n_kernels": 2_000}, {"n_kernels": 20_000}))
