"""The form safetensors: a folder that amodal.load reads."""

import json

import pytest
import torch

import amodal
from amodal.core import AmodalError
from amodal.export import export
from tests.export.models import encoder, model, records


@pytest.mark.parametrize("shape", [dict(), dict(trunk="joint", pool="attention")])
def test_vectors_are_identical_after_a_round_trip(tmp_path, shape):
    made = encoder("photo", "caption", **shape).align(16)
    if shape:
        made.fuse(4, "pure")
    trained = model(made)
    trained.config |= CARD
    written = export(trained, "safetensors", tmp_path / "out")
    assert all(p.exists() for p in written)
    loaded = amodal.load(tmp_path / "out", device="cpu")
    a, b = trained.embed(records()).aligned, loaded.embed(records()).aligned
    assert list(a) == list(b)
    for source in a:
        assert torch.equal(a[source].values, b[source].values) and torch.equal(
            a[source].rows, b[source].rows
        )
    assert json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))["weights_sha256"]


CARD = {
    "method": "clip",
    "options": {},
    "data": {"name": "toys", "path": "", "records": 30, "train": 24, "fingerprint": "0"},
    "schedule": {"steps": 1, "lr": 0.1},
    "batch": 8,
    "seed": 0,
}


def test_another_form_is_an_error_with_the_nearest_name(tmp_path):
    with pytest.raises(AmodalError, match="Did you mean onnx"):
        export(model(encoder("facts")), "onx", tmp_path)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(AmodalError, match="could not write the export"):
        export(model(encoder("facts")), "safetensors", tmp_path / "file")
