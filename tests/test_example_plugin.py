"""The package in `examples/plugin`, installed on its own and used as anybody would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
HEAD = """
import base64, io, json, sys
from pathlib import Path
import numpy as np
from amodal.cli import main
folder, run, cloud = (Path(p) for p in sys.argv[1:])
data = "shapes"  # the set of the package
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package and its entry points."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    source = target.parent / "source"  # a build writes beside what it builds
    shutil.copytree(ROOT / "examples/plugin", source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        *options,
        "--target",
        str(target),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """24 records of a cloud and a caption, of two shapes, with a header and without."""
    root, rng = tmp_path_factory.mktemp("clouds"), np.random.default_rng(0)
    for i in range(24):
        shape = ("ball", "stick")[i % 2]
        points = rng.standard_normal((120 + i, 3)) * ((1, 1, 1) if i % 2 == 0 else (0.1, 0.1, 2))
        lines = "\n".join(" ".join(f"{x:.4f}" for x in p) for p in points) + "\n"
        header = f"# .PCD v0.7\nFIELDS x y z\nPOINTS {len(points)}\nDATA ascii\n"
        (root / shape).mkdir(exist_ok=True)
        file = root / shape / f"{i:02}"
        if i % 3:
            file.with_suffix(".pcd").write_text(lines, encoding="utf-8")
        else:
            file.with_suffix(".pcd").write_text(header + lines, encoding="utf-8")
        file.with_suffix(".txt").write_text(f"a {shape} of points, number {i}", encoding="utf-8")
    return root


def python(installed: Path, code: str, *arguments: Path) -> str:
    cache = str(installed.parent / "cache")
    paths = os.pathsep.join([str(installed), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "AMODAL_CACHE": cache, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


TRAIN = """
main(["data", data])
main(["data"])
main(["init", str(folder)])
text = (folder / "dataset.toml").read_text()
assert 'modality = "cloud"' in text and 'modality = "text"' in text, text
common = ["--data", data, "--size", "nano", "--steps", "3", "--batch", "8", "--device", "cpu"]
for method in ("clip", "mae"):
    out = run / method
    main(["pretrain", method, "--out", str(out), *common])
    main(["evaluate", str(out), "--data", data])
    main(["embed", str(out), "--data", str(folder), "--out", str(run / f"{method}.parquet")])
main(["index", str(run / "clip"), "--data", data])
main(["search", str(run / "clip"), "--cloud", str(cloud), "--k", "3", "--json"])
main(["search", str(run / "clip"), "--text", "a ball", "--sheet", str(run / "found.png"), "--data", data])
own = str(run / "own")
main(["pretrain", "my_vicreg", "--out", own, *common, "--backbone", "cloud=pointnet:wide", "--train-backbones",
      "--method.variance", "10"])
main(["pretrain", "my_vicreg", "--out", own, "--resume", *common[:-1], "cpu", "--backbone", "cloud=pointnet:wide",
      "--train-backbones", "--method.variance", "10"])
main(["evaluate", own, "--data", data, "--protocols", "knn,alignment", "--json", str(run / "own.json")])
results = json.loads((run / "own.json").read_text())["results"]
rows = [row for result in results if result["protocol"] == "alignment" for row in result["rows"]]
assert {r["metric"] for r in rows} == {"alignment", "uniformity"} and all(np.isfinite(r["value"]) for r in rows)
main(["embed", own, "--data", data, "--out", str(run / "own.parquet")])
main(["index", own, "--data", data])
main(["search", own, "--query", f"cloud={cloud}", "--k", "3", "--json"])
main(["export", own, "--to", "huggingface", "--out", str(run / "own hub")])
main(["evaluate", str(run / "own hub"), "--data", data])
main(["methods", "my_vicreg"])
main(["methods"])
main(["export", str(run / "clip"), "--to", "huggingface", "--out", str(run / "hub")])
main(["evaluate", str(run / "hub"), "--data", data])
main(["doctor"])
try:
    main(["export", str(run / "clip"), "--to", "onnx"])
except SystemExit as stop:
    assert stop.code == 2
"""
SERVE = """
from fastapi.testclient import TestClient
import amodal
from amodal.serve import app
from amodal.serve.view import application
lists = [[float(x) for x in line.split()] for line in cloud.read_text().splitlines()]
stream = io.BytesIO(); np.save(stream, np.array(lists, dtype=np.float32))
coded = {"base64": base64.b64encode(stream.getvalue()).decode()}
with TestClient(app(amodal.load(run / "own", device="cpu"))) as client:
    said = client.post("/embed", json={"records": [{"cloud": lists}]})
    assert said.status_code == 200, said.text
with TestClient(application(run / "own", data=data)) as client:
    assert client.get("/view/about").json()["fields"]["cloud"] == "cloud"
with TestClient(app(amodal.load(run / "clip", device="cpu"))) as client:
    for value in (lists, coded):
        said = client.post("/embed", json={"records": [{"cloud": value}]})
        assert said.status_code == 200, said.text
    form = client.post("/search", files={"cloud": ("cloud.pcd", cloud.read_bytes())})
    assert form.status_code == 200 and form.json(), form.text
    for bad in ("cloud.pcd", [[1, 2]], [[1, 2, "x"]], {"base64": "AAAA"}, [[[[[[1]]]]]]):
        said = client.post("/embed", json={"records": [{"cloud": bad}]})
        assert said.status_code == 422 and "cloud" in said.text, (bad, said.status_code, said.text)
    schema = client.get("/openapi.json").json()
    assert "anyOf" in json.dumps(schema)
with TestClient(application(run / "clip", data=data)) as client:
    about = client.get("/view/about").json()
    assert about["fields"]["cloud"] == "cloud" and ".pcd" in about["inputs"]["cloud"]["accept"]
    assert "cloud.height" in about["attributes"]
    record = client.get("/view/record/0").json()["fields"]["cloud"]
    assert record["kind"] == "cloud" and not record["plays"] and "points" in record["says"]
    picture = client.get("/view/record/0/cloud.png")
    assert picture.headers["content-type"] == "image/png" and picture.content[:4] == bytes([137]) + b"PNG"
"""
CONTRACT = """
import torch
from amodal import modalities
from amodal.core import AmodalError, Column
from amodal.modalities import BadValue
points = modalities.kind("cloud").infer([cloud])
assert modalities.make(**modalities.config(points)) == points
value = points.decode(cloud)
rng = np.random.default_rng
for view in modalities.VIEWS:
    one, two = (points.augment(value, view, rng(3)) for _ in range(2))
    assert one.dtype == np.float32 and one.shape[1] == 3 and len(one) and (one == two).all()
column = Column(points.collate([value, value[:5]]), torch.arange(2))
tokens = points.tokenizer(16)(column, "cloud", 2)
targets = points.targets(column.values)
assert len(tokens) == len(targets) and tokens.x.isfinite().all()
loss = points.token_loss(points.predictor(16)(tokens.x), targets)
assert loss.shape == (len(tokens),) and loss.isfinite().all()
for kind in ("exchange", "drop", "noise"):
    out = points.corrupt(value, kind, 1.0, rng(0), value[:7] + 1)
    assert len(out) and out.dtype == np.float32 and not np.array_equal(out, value)
np.save(cloud.with_suffix(".npy"), value)
assert len(points.decode(cloud.with_suffix(".npy"))) == len(value)
assert points.simple_features([cloud, value * 2])([cloud, value, value]).shape == (3, 3)
assert points.show(value).dtype == np.uint8 and points.show(value).shape == (96, 96, 3)
for bad in (b"nothing of the kind", b"", np.zeros((0, 3)), np.full((4, 3), np.nan), b"1 2\\n3\\n", 3.0, {"a": 1}):
    try:
        points.decode(bad)
    except BadValue:
        continue
    raise AssertionError(f"{bad} was decoded")
"""


def test_point_clouds_from_data_to_a_server(installed, clouds, tmp_path):
    cloud = tmp_path / "query.pcd"
    cloud.write_bytes((clouds / "stick" / "01.pcd").read_bytes())
    said = python(installed, CONTRACT + TRAIN, clouds, tmp_path / "runs", cloud)
    assert "modalities: cloud of amodal-example 0.1.0 (amodal_example.cloud:Cloud)" in said
    assert "datasets: shapes of amodal-example 0.1.0 (amodal_example.shapes)" in said
    assert "there is no dense form of cloud values yet" in said
    assert (tmp_path / "runs" / "found.png").stat().st_size > 1000
    python(installed, SERVE, clouds, tmp_path / "runs", cloud)


SET = """
from amodal import data as records
from amodal.data import sets
from amodal_example import shapes
assert data in sets.names() and sets.cost(sets.page(data)) == "generated"
folder = sets.fetch(data)
assert folder == sets.folder_of(data) and folder.parts[-3:] == ("plugins", "amodal-example", "shapes")
drawn = records.open(data)
assert len(drawn) == shapes.RECORDS and drawn.fields["cloud"].size > 0, drawn.fields
assert set(drawn.labels) == {"shape", "size"}
card = (folder / "README.md").read_text()
assert "balls, rods and rings" in card and "Left out: corners" in card and "CC0-1.0" in card, card
for i in range(12):
    row = shapes.record(i)
    cloud = np.load(io.BytesIO(row["cloud"])) / row["size"]
    assert row["cloud"] == shapes.record(i)["cloud"] != shapes.record(i + 3)["cloud"]
    axes = np.linalg.svd(cloud, compute_uv=False) / len(cloud) ** 0.5  # deviations, largest first
    expected = {"ball": (0.58, 0.58, 0.58), "rod": (0.58, 0.1, 0.1), "ring": (0.71, 0.71, 0.1)}
    assert np.abs(axes - expected[row["shape"]]).max() < 0.16, (row["shape"], axes)
    assert (row["text"] is None) == (i % 5 == 4)
"""


def test_the_set_holds_what_its_card_says(installed, tmp_path):
    python(installed, SET, tmp_path, tmp_path, tmp_path)


def test_without_the_package_the_data_says_what_there_is(clouds, tmp_path):
    (tmp_path / "dataset.toml").write_text('[fields.cloud]\nmodality = "cloud"\n', encoding="utf-8")
    code = "from amodal import data as records\nrecords.open(folder)\n"
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code, str(tmp_path), "-", "-"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "no modality is called 'cloud'" in done.stderr
