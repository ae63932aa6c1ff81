"""MiniRocket in the place of statistics of series, where a library has it."""

import sys
from types import ModuleType

import numpy as np
import pytest

import amodal
from amodal.evaluate import evaluate
from amodal.modalities import NoSimpleFeatures
from amodal.modalities.shared import rocket
from tests.evaluate.test_yardsticks import encoder_for, opened, shown


class StandIn:
    """Shares of positive values after three convolutions with fixed kernels, as the library's."""

    def __init__(self, n_kernels, random_state):
        assert n_kernels == rocket.KERNELS and random_state == 0
        self.steps = None

    def fit(self, x):
        assert x.dtype == np.float32 and x.ndim == 3 and np.isfinite(x).all()
        self.steps = x.shape[2]

    def transform(self, x):
        assert x.shape[2] == self.steps, "all series have the length that it was fitted to"
        kernels = ([1, -1, 0], [1, 0, -1], [1, -2, 1])
        rows = [[[np.mean(np.convolve(c, k) > 0) for k in kernels] for c in one] for one in x]
        return np.array(rows).reshape(len(x), -1)


@pytest.fixture
def library(monkeypatch):
    """A module of the library's name."""
    path, name, _ = rocket.LIBRARIES[0]
    module = ModuleType(path)
    setattr(module, name, StandIn)
    for number in range(1, path.count(".") + 1):
        package = ".".join(path.split(".")[:number])
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, path, module)


@pytest.fixture
def without(monkeypatch):
    """No library, whatever is installed."""
    for path, _, _ in rocket.LIBRARIES:
        monkeypatch.setitem(sys.modules, path, None)


def waves(n=120, steps=(30, 50)):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(rng.integers(*steps), 2)).astype(np.float32) for _ in range(n)]
    values[3][4:9, 0] = np.nan
    return values


def test_series_have_rocket_features_where_there_is_a_library(library):
    values = waves()
    series = amodal.modalities.kind("series").infer(values)
    transform = series.simple_features(values[:80])
    features = transform(values)
    assert transform.name == "MiniRocket" and features.shape == (120, 1 + 6)
    assert features.dtype == np.float32 and np.isfinite(features).all()
    assert transform([]).shape == (0, 7)
    both = np.concatenate([transform(values[:70]), transform(values[70:])])
    assert np.array_equal(both, features), "a row depends on its own value alone"
    restored = series.restored_simple_features(transform.state)
    assert restored.name == "MiniRocket" and np.array_equal(restored(values), features)
    with pytest.raises(NoSimpleFeatures):
        series.simple_features([])


def test_a_report_says_which_features_were_used(library):
    records = opened({"wave": waves(300), "kind": ["up", "down"] * 150}, "kind")
    report = evaluate(
        encoder_for(records), records, label="kind", protocols=["linear"], progress=False
    )
    assert report.about["simple"] == {"wave": "MiniRocket"}
    assert "simple: wave MiniRocket" in shown(report)


def test_without_a_library_statistics_are_used_and_said(without):
    assert rocket.transformer() is None
    records = opened({"wave": waves(300), "kind": ["up", "down"] * 150}, "kind")
    report = evaluate(
        encoder_for(records), records, label="kind", protocols=["linear"], progress=False
    )
    assert report.about["simple"] == {"wave": "statistics"}
    assert "simple: wave statistics" in shown(report)


def test_short_series_are_stretched_and_empty_ones_are_zero(library):
    values = [np.ones((t, 1), np.float32) for t in (0, 1, 2, 3, 4)] * 4
    model = rocket.transformer()
    transform = rocket.rocket(lambda values: values, values, model)
    assert model.steps == rocket.MIN_STEPS and np.isfinite(transform(values)).all()
