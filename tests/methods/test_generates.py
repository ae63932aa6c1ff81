"""Methods that generate a field, through `Model.predict` and `amodal predict`."""

import numpy as np
import pytest

import amodal
from amodal.adapt import write_predictions
from amodal.core import AmodalError
from amodal.core.protocols import Generates

QUICK = {"size": "nano", "steps": 3, "batch_size": 8, "progress": False, "device": "cpu"}
TEXTS = [f"a{i % 2}" for i in range(24)]
CASES = {
    "coca": (
        {"text_field": "text", "depth": 1, "queries": 4},
        ("series", list(np.random.default_rng(0).normal(size=(24, 9, 3)).astype(np.float32))),
    ),
    "cuni_mmt": (
        {"target": "text", "source": "other", "depth": 1},
        ("text", [f"number {i}" for i in range(24)]),
    ),
    "deepvs": (
        {"text_field": "text", "captions": 0.5},
        ("series", list(np.random.default_rng(0).normal(size=(24, 9, 3)).astype(np.float32))),
    ),
}


@pytest.mark.parametrize("method", sorted(CASES))
def test_a_run_generates_its_field(method, tmp_path):
    options, (kind, others) = CASES[method]
    both = {"text": TEXTS, "other": others}
    data = amodal.open(both, fields={"text": "text", "other": kind})
    model = amodal.pretrain(method, data, tmp_path / "run", options=options, **QUICK)
    assert isinstance(model.method, Generates) and model.method.generated_field == "text"
    table = model.predict(data)
    assert table.column_names == ["key", "text"] and len(table) == 24
    assert all(isinstance(text, str) for text in table["text"].to_pylist())
    assert write_predictions(model, data, tmp_path / "out.csv") == 24
    without = amodal.open({"other": others}, fields={"other": kind})
    with pytest.warns(UserWarning, match="no text"):
        assert model.predict(without)["text"].to_pylist() == table["text"].to_pylist()


def test_a_run_that_generates_nothing_says_so(tmp_path):
    fields = {"text": "text", "other": "text"}
    data = amodal.open({"text": TEXTS, "other": TEXTS}, fields=fields)
    words = {"text_field": "text"}
    model = amodal.pretrain("deepvs", data, tmp_path / "run", options=words, **QUICK)
    with pytest.raises(AmodalError, match="no captioner: train it with captions above 0"):
        model.predict(data)
    clip = amodal.pretrain("clip", data, tmp_path / "clip", **QUICK)
    with pytest.raises(AmodalError, match="predicts no label"):
        clip.predict(data)
