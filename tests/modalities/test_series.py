"""Time series in every form, with holes."""

import io

import numpy as np
import pytest
import torch

from amodal.core import AmodalError, Column
from amodal.modalities import BadValue, kind, make

XY = make("series", channels=["x", "y"])
VALUES = np.array([[1, 2], [3, np.nan], [5, 6]], dtype=np.float32)


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_kinds_of_raw(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,\n5,6\n", encoding="utf-8")
    (tmp_path / "a.tsv").write_text("y\tnote\tx\n2\ta\t1\n\tb\t3\n6\tc\t5\n", encoding="utf-8")
    (tmp_path / "bare.csv").write_text("1;2\n3;nan\n5;6", encoding="utf-8")
    (tmp_path / "a.npz").write_bytes(npz(x=VALUES[:, 0], y=VALUES[:, 1]))
    records = np.array([tuple(v) for v in VALUES], dtype=[("x", "f4"), ("y", "f8")])
    raws = (
        tmp_path / "a.npy", tmp_path / "a.csv", str(tmp_path / "a.tsv"), tmp_path / "bare.csv", tmp_path / "a.npz",
        VALUES, VALUES.tolist(), [[1, 2], [3, None], [5, 6]], records, npz(only=VALUES),
        {"y": [2, None, 6], "x": [1, 3, 5], "z": [0, 0, 0]}, {"x": ["1", "3", "5"], "y": ["2", "", "6"]},
        b"\xef\xbb\xbfx,y\r\n1,2\r\n3,NA\r\n5,6\r\n",
    )  # fmt: skip
    for raw in raws:
        value = XY.decode(raw)
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, VALUES)
    one = make("series")
    np.testing.assert_array_equal(one.decode([1, 2, None])[:, 0], [1, 2, np.nan])
    np.testing.assert_array_equal(one.decode(np.array([1, 2])), [[1], [2]])


def test_missing_samples_and_channels():
    np.testing.assert_array_equal(
        XY.decode(np.array([[1, np.inf], [-np.inf, 2]])), [[1, np.nan], [np.nan, 2]]
    )
    np.testing.assert_array_equal(XY.decode({"y": [1, 2]}), [[np.nan, 1], [np.nan, 2]])


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\), expected \(steps, 2 channels\); transpose it"),
        (np.zeros((5, 3)), r"shape \(5, 3\), expected \(steps, 2 channels\)$"),
        (np.zeros(4), "shape"), (np.zeros((2, 2, 2)), "shape"),
        (np.full((3, 2), np.nan), "every sample is missing"), (np.zeros((0, 2)), "no samples"),
        ({"X": [1], "z": [2]}, "none of the channels x, y; it has X, z"), ({}, "it has nothing"),
        ({"x": [1, 2], "y": [1]}, "different length"), ({"x": [1], "y": ["abc"]}, "y: .*abc"),
        ([[1, 2], [3]], "different numbers"), (7, "a int is not a series"),
        (b"\xff\xfea", "neither a numpy file nor a table of text"), (np.array(7.0), "single number"),
        ([[1, "a"]], "array"),
        (b"x,y\n1,2,3\n", "not a table"), (b"some words", "not a table"),
        (b"some words\nin lines", "none of the channels"), (b"\x93NUMPY", "numpy"), (b"PK\x03\x04", "numpy"),
    ],
)  # fmt: skip
def test_bad_values(raw, reason):
    with pytest.raises(BadValue, match=reason):
        XY.decode(raw)


def test_a_pickle_is_not_opened():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadValue, match="numpy"):
        XY.decode(buffer.getvalue())


def test_long_series_are_cut():
    assert make("series", max_steps=10).decode(np.arange(50)).ravel().tolist() == list(range(10))


def test_tokens_know_what_is_missing():
    """Zero and missing differ; the filling of the last patch is as missing as a hole."""
    series = make("series", channels=["x", "y"], patch=2, mean=[1, 0], std=[2, 1])
    module = series.tokenizer(8)
    one, two = (
        module(
            Column(series.collate([np.array(v, np.float32)]), torch.zeros(1, dtype=torch.int64)),
            "s",
            1,
        ).x
        for v in ([[1, 0]], [[1, np.nan]])
    )
    assert not torch.allclose(one, two)
    targets = series.targets(series.collate([VALUES]))
    np.testing.assert_array_equal(targets, [[0, 2, 1, np.nan], [2, 6, np.nan, np.nan]])


def test_missing_samples_do_not_count():
    target = XY.targets(XY.collate([VALUES]))
    prediction = torch.randn(3, 2, requires_grad=True)
    loss = XY.token_loss(prediction, target)
    loss.sum().backward()
    assert prediction.grad[1, 1] == 0 and (prediction.grad != 0).sum() == 5
    torch.testing.assert_close(loss[1], (prediction[1, 0] - 3) ** 2)
    assert XY.token_loss(prediction, torch.full((3, 2), torch.nan)).tolist() == [0, 0, 0]


def test_views():
    series = make("series", channels=["x", "y"], patch=5, mean=[0, 0], std=[1, 1])
    value = np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32)
    value[::3, 1] = np.nan
    for seed in range(20):
        for view, low, high in (("weak", 79, 100), ("strong", 49, 100), ("local", 19, 51)):
            out = series.augment(value, view, np.random.default_rng(seed))
            assert low <= len(out) <= high and out.shape[1] == 2 and np.isfinite(out).any()
        single = series.augment(
            np.array([[np.nan, 1]] + [[np.nan, np.nan]] * 20, np.float32),
            "strong",
            np.random.default_rng(seed),
        )
        assert np.isfinite(single).any()


def test_a_view_draws_steps_that_have_no_order():
    value = np.arange(20, dtype=np.float32)[:, None]
    bag = make("series", draw=6)
    rng = np.random.default_rng(0)
    one, other = (bag.augment(value, view, rng).ravel().tolist() for view in ("weak", "strong"))
    assert len(one) == len(set(one)) == len(other) == 6 and one != other
    assert set(one) <= set(range(20)) and bag.augment(value, "plain", rng) is value
    few = bag.augment(value[:3], "weak", rng).ravel()
    assert len(few) == 6 and set(few) <= {0, 1, 2}
    with pytest.raises(AmodalError, match="draw"):
        make("series", draw=-1)


def test_infer():
    rng = np.random.default_rng(0)
    walk = {
        "time": np.arange(200) / 50,
        "x": rng.normal(5, 2, 200),
        "who": ["a"] * 200,
        "y": rng.normal(0, 9, 200),
    }
    series = kind("series").infer([walk, walk])
    assert (series.channels, series.rate, series.patch) == (("x", "y"), 50.0, 7)
    np.testing.assert_allclose(series.mean, (5, 0), atol=1.5)
    np.testing.assert_allclose(series.std, (2, 9), rtol=0.2)
    assert kind("series").infer([VALUES]).channels == ("c0", "c1")
    assert kind("series").infer([np.arange(5)]).channels == ("value",)
    constant = kind("series").infer([np.full((5, 2), (3.0, np.nan))])
    assert constant.std == (1.0, 1.0) and constant.mean == (3.0, 0.0)
    assert kind("series").infer([walk], channels=["y"]).channels == ("y",)


def test_parameters_are_checked():
    with pytest.raises(AmodalError, match="different names"):
        make("series", channels=["x", "x"])
    with pytest.raises(AmodalError, match="series.mean has 1 entries for 2 channels"):
        make("series", channels=["x", "y"], mean=[0])
