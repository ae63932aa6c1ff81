"""Peers read raw values as a practitioner would, and find what is there to find."""

import numpy as np
import pytest
import testbeds
from testbeds import Records, Task
from testbeds.measures import Piece, eligible, score
from testbeds.peers.estimators import boosting, logistic, ridge
from testbeds.peers.features import _blocks, gradient_features, raw_features
from testbeds.peers.matching import canonical, ridge_matching

import amodal
from amodal.modalities import make


def made(n=300):
    """Records of two tables that share three causes, with a text that says the class."""
    rng = np.random.default_rng(0)
    cause = rng.normal(size=(n, 3))
    a = cause @ rng.normal(size=(3, 8)) + 0.05 * rng.normal(size=(n, 8))
    b = cause @ rng.normal(size=(3, 6)) + 0.05 * rng.normal(size=(n, 6))
    texts = ["warm and red" if c > 0 else "cold and blue" for c in cause[:, 0]]
    texts[5] = None
    data = amodal.open(
        {"a": a.tolist(), "b": b.tolist(), "text": texts},
        fields={
            "a": make("table", columns=[f"a{i}" for i in range(8)]),
            "b": make("table", columns=[f"b{i}" for i in range(6)]),
            "text": make("text"),
        },
    )
    return Records(data, np.arange(200)), Records(data, np.arange(200, n))


@pytest.mark.parametrize("peer", [ridge_matching(), canonical()], ids=lambda peer: peer.name)
def test_matching_finds_common_causes(peer):
    train, test = made()
    task = Task("b by a", "retrieval", "R@10", None, ("a", "b"))
    options = {"n_components": 3} if peer.name == "CCA" else {}
    similar = peer.fit(train, task, **options)(test)
    assert similar.shape == (100, 100)
    assert score(task, [Piece(test, similar)], draws=2).value > 0.9


def test_features_of_a_missing_value_are_zeros_and_a_flag():
    train, test = made()
    describe = raw_features(train, ("text", "a"))
    x = describe(train).toarray()
    assert x.shape == (200, describe(test).shape[1])
    assert x[5, -1] == 0 and x[5, :-9].sum() == 0
    assert (np.delete(x[:, -1], 5) == 1).all()


def test_cells_of_a_table_are_numbers_and_names():
    cells = zip([1.0, None, 3.0, 4.0], ["red", "blue", None, "red"])
    data = amodal.open(
        {"both": [{"size": size, "colour": colour} for size, colour in cells]},
        fields={"both": make("table", columns=["size", "colour"])},
    )
    every = Records(data, np.arange(4))
    x = raw_features(every, ("both",))(every)
    assert np.isnan(x[1, 0]) and x[3, 0] == 4
    assert x.shape == (4, 3), "one name of three is left out"
    assert (x[0, 1:] == x[3, 1:]).all() and len(np.unique(x[:3, 1:], axis=0)) == 3


@pytest.mark.parametrize("peer", [logistic(), boosting()], ids=lambda peer: peer.name)
def test_classes_of_digits(peer):
    data = testbeds.testbed("digits").open()
    task = Task("digit", "linear", "accuracy", "digit", ("mor",))
    train, test = (Records(data, data.split(part)[::3]) for part in ("train", "valid"))
    prediction = peer.fit(train, task)(test)
    assert prediction.dtype == object
    assert score(task, [Piece(test, prediction)], draws=2).value > 0.5


def test_numbers_of_the_globe():
    data = testbeds.testbed("globe").open()
    task = Task("sst", "linear", "Spearman", "sst", ("climate",))
    train, test = (
        eligible(Records(data, data.split(part)[::5]), task) for part in ("train", "valid")
    )
    assert score(task, [Piece(test, ridge().fit(train, task)(test))], draws=2).value > 0.9


def test_gradients_are_of_pictures_alone():
    pytest.importorskip("skimage")
    data = testbeds.testbed("globe").open()
    train = Records(data, np.arange(6))
    assert gradient_features(train, ("colour",))(train).shape == (6, 1764)


def test_survival_with_few_events_has_a_risk_for_everybody():
    pytest.importorskip("sksurv")
    from testbeds.peers.times import cox

    bed = testbeds.testbed("flchain")
    if not bed.is_here:
        pytest.skip("flchain is not in the cache: amodal data flchain gets it")
    data, task = bed.open(), bed.primary
    train, test = (
        eligible(Records(data, data.split(part)[::5]), task) for part in ("train", "valid")
    )
    assert score(task, [Piece(test, cox().fit(train, task)(test))], draws=2).value > 0.65


def test_features_of_a_raster_are_means_of_its_blocks():
    value = np.full((2, 3, 8, 8), np.nan, np.float32)
    value[:, 1:] = np.arange(2 * 2 * 64).reshape(2, 2, 8, 8)
    value[0, 1, :2, :2] = np.nan
    found = _blocks(value)
    bands = value[:, 1:].reshape(4, 8, 8)
    assert len(found) == 4 * (1 + 16 + 1) and np.isfinite(found).all()
    assert found[4] == 0 and found[5] == bands[1, :2, :2].mean(), "the first block of two bands"
    assert np.allclose(found[:4], np.nanmean(bands, (1, 2)))
    assert np.allclose(found[-4:], np.nanstd(bands, (1, 2)))
