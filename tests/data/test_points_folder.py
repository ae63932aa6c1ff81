"""A folder of clouds and meshes, from `init` to training."""

import json

import numpy as np
import pytest

import amodal
from amodal import data

pytest.importorskip("trimesh")
pytest.importorskip("laspy")

from tests.modalities.cloud_files import FILES, MESHES, QUAD  # noqa: E402


def folder(root):
    """Each of the formats twice, a header that promises too much, an empty and a cut file."""
    for copy in ("a", "b"):
        for name, content in FILES.items():
            if name != "csv":
                stem = f"{copy} {name.replace(' ', '-')}"
                (root / f"{stem}.{name.split()[0]}").write_bytes(content)
    (root / "huge.ply").write_bytes(QUAD.replace(b"vertex 4", b"vertex 1000000000"))
    (root / "none.xyz").write_bytes(b"")
    (root / "cut.las").write_bytes(FILES["las"][:500])
    return root


def test_init_prints_what_the_files_hold_and_training_sets_bad_ones_aside(tmp_path):
    root = folder(tmp_path)
    report = data.init(root)
    (field,) = report.fields
    count = 2 * (len(FILES) - 1)
    assert field.modality == "points" and 0 < field.unreadable < 0.2
    share = 2 * len(MESHES) / count
    assert f"{share:.0%} meshes" in field.summary and "m long" in field.summary
    assert "4 … 600 points or corners" in field.summary or "2 … 600" in field.summary
    text = (root / "dataset.toml").read_text(encoding="utf-8")
    assert 'modality = "points"' in text and "see a picture of one" in text
    run = root.parent / f"{root.name} run"
    amodal.pretrain(
        "mae", data=root, out=run, steps=2, batch_size=count, size="nano", progress=False, seed=0
    )
    lines = (run / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = {entry["key"]: entry["reason"] for entry in map(json.loads, lines)}
    assert set(reasons) <= {"huge", "none", "cut"} and reasons
    embedded = amodal.load(run).embed(root, progress=False)
    vectors = embedded.features["points"]
    assert len(vectors.rows) == count and vectors.values.isfinite().all()
    assert {bad.key for bad in embedded.bad} == {"huge", "none", "cut"}


def test_a_folder_of_numpy_arrays_says_how_they_become_points(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(30):
        np.save(tmp_path / f"{i:02}.npy", rng.normal(size=(50, 3)))
    printed = str(data.init(tmp_path))
    path = tmp_path / "dataset.toml"
    text = path.read_text(encoding="utf-8")
    assert 'modality = "series"' in text
    assert 'if points x, y, z, modality = "points" and that suffix, in dataset.toml' in " ".join(
        printed.split()
    )
    path.write_text('[fields.points]\nmodality = "points"\nsuffix = [".npy"]\n', encoding="utf-8")
    dataset = data.open(tmp_path)
    value = dataset.value(0, "points")
    assert value.shape == (50, 3) and dataset.fields["points"].radius > 0
