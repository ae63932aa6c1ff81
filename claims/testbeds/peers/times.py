"""Peers for a time until an event: Cox regression, its elastic net, and random survival forests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from testbeds.measures import outcomes
from testbeds.peers.features import raw_features
from testbeds.testbed import Fit, Peer, Predict, Records, Task


def cox(*tasks: str) -> Peer:
    """Cox's proportional hazards; by default without a penalty."""
    grid = tuple({"alpha": alpha} for alpha in (0.1, 1.0, 10.0, 100.0, 1000.0))
    return Peer("Cox regression", "scikit-survival", _risks("CoxPHSurvivalAnalysis"), tasks, grid)


def elastic_net(*tasks: str) -> Peer:
    """Cox's proportional hazards with an elastic net, for tables that are wide."""
    grid = tuple({"l1_ratio": share} for share in (0.01, 0.1, 0.5, 0.9))
    fit = _risks("CoxnetSurvivalAnalysis")
    return Peer("elastic-net Cox", "scikit-survival", fit, tasks, grid)


def forest(*tasks: str) -> Peer:
    """A random survival forest."""
    grid = ({"min_samples_leaf": 10}, {"min_samples_leaf": 30})
    fit = _risks("RandomSurvivalForest", random_state=0)
    return Peer("random survival forest", "scikit-survival", fit, tasks, grid)


def _risks(name: str, **fixed: Any) -> Fit:
    def fit(train: Records, task: Task, **options: Any) -> Predict:
        from sksurv.util import Surv

        describe = raw_features(train, task.fields or tuple(train.dataset.fields))
        time, event = outcomes(train, task)
        # A time of zero says nothing to these estimators, and some refuse it.
        truth = Surv.from_arrays(event, np.maximum(time, 1e-3))
        model = _pipeline(_estimator(name)(**fixed, **options)).fit(describe(train), truth)
        return lambda records: np.asarray(model.predict(describe(records)))

    return fit


def _estimator(name: str) -> Callable[..., Any]:
    from sksurv.ensemble import RandomSurvivalForest
    from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis

    known = (CoxPHSurvivalAnalysis, CoxnetSurvivalAnalysis, RandomSurvivalForest)
    found: Callable[..., Any] = {one.__name__: one for one in known}[name]
    return found


def _pipeline(model: Any) -> Pipeline:
    return make_pipeline(
        SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler(), model
    )
