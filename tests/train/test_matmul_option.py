"""The library of float32 products is chosen once for a run, and a resumed run goes on with it."""

import json

import pytest

from amodal import data, pretrain
from amodal.core import AmodalError, matmul
from tests.methods.bench import FIELDS, fields, raw


def records():
    import numpy as np

    rng = np.random.default_rng(0)
    return data.open({s: [raw(s, rng) for _ in range(24)] for s in FIELDS[:2]}).with_fields(
        fields(FIELDS[:2])
    )


def test_the_choice_is_stored_and_used_on_resume(tmp_path, monkeypatch):
    used, choose = [], matmul.choose
    monkeypatch.setattr(
        matmul, "choose", lambda option="auto": used.append(option) or choose(option)
    )
    run, options = tmp_path / "run", {"size": "nano", "steps": 2, "batch": 8, "progress": False}
    pretrain("clip", records(), run, matmul="torch", **options)
    config = run / "config.json"
    assert json.loads(config.read_text(encoding="utf-8"))["matmul"] == "torch"
    config.write_text(
        config.read_text(encoding="utf-8").replace('"done"', '"running"'), encoding="utf-8"
    )
    used.clear()
    pretrain("clip", records(), run, resume=True, **options)
    assert (
        json.loads(config.read_text(encoding="utf-8"))["matmul"] == "torch" and used[0] == "torch"
    )
    with pytest.raises(AmodalError, match="began with matmul = torch"):
        pretrain("clip", records(), run, resume=True, matmul="onednn", **options)
    with pytest.raises(AmodalError, match="Did you mean auto"):
        pretrain("clip", records(), tmp_path / "other", matmul="auot", **options)
