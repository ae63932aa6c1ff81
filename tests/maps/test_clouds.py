"""`amodal embed --dense` of points: the features of every point as Parquet."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import amodal
from amodal.cli import main
from amodal.core import AmodalError, Batch, Column
from amodal.inference.dense_points import interpolated
from amodal.maps.ground import write_dense
from amodal.nn.patch_vectors import patch_features

laspy = pytest.importorskip("laspy")

from tests.modalities.cloud_files import FAR, las  # noqa: E402


def scan(seed, count=300):
    """(n, 3) of two balls, and which one each is of."""
    rng = np.random.default_rng(seed)
    ball = rng.integers(0, 2, count)
    return rng.normal(size=(count, 3)) + np.array([[0, 0, 0], [9, 0, 0]])[ball] + FAR, ball


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on scans, and the folder of the scans."""
    folder = tmp_path_factory.mktemp("scans")
    for i in range(8):
        points, ball = scan(i)
        (folder / f"s{i}.las").write_bytes(las(points, classification=ball + 1))
    (folder / "dataset.toml").write_text(
        '[fields.scan]\nmodality = "points"\npoints = 128\ngroups = 12\nneighbours = 16\n',
        encoding="utf-8",
    )
    run = tmp_path_factory.mktemp("run") / "run"
    amodal.pretrain(
        "mae", data=folder, out=run, steps=2, batch_size=4, size="nano", progress=False, seed=0
    )
    return run, folder


def naive(place, centres, x):
    """The mean of the three nearest, by inverse squared distance."""
    squared = ((centres - place) ** 2).sum(1) + 1e-8
    nearest = np.argsort(squared)[:3]
    weight = 1 / squared[nearest]
    return (x[nearest] * (weight / weight.sum())[:, None]).sum(0)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_vectors_of_points_are_those_of_the_nearest_tokens(count):
    rng = np.random.default_rng(count)
    centres, x = rng.normal(size=(count, 3)), rng.normal(size=(count, 5))
    places = np.concatenate([rng.normal(size=(20, 3)), centres])
    expected = [naive(place, centres, x) for place in places]
    made = interpolated(places, centres, x)
    np.testing.assert_allclose(made, expected, atol=1e-5)
    np.testing.assert_allclose(made[20:], x, atol=1e-4)


def test_every_point_of_a_file_has_a_vector_where_the_file_has_it(trained, tmp_path, capsys):
    run, folder = trained
    main(["embed", str(run), "--data", str(folder), "--dense", "--out", f"{tmp_path}/out"])
    assert "wrote 8 files" in capsys.readouterr().out
    table = pq.read_table(tmp_path / "out" / "s0.parquet").to_pandas()
    points, ball = scan(0)
    np.testing.assert_allclose(table[["x", "y", "z"]], points, atol=1e-3)
    np.testing.assert_array_equal(table["classification"], ball + 1)
    vectors = np.stack(table["vector"])
    assert vectors.shape[1] == amodal.load(run).encoder.width and np.isfinite(vectors).all()
    # as the tokens of the record, by their places
    model = amodal.load(run)
    field = model.encoder.fields["scan"]
    placed = field.place_points(folder / "s0.las")
    column = Column(field.collate([placed.value]), torch.zeros(1, dtype=torch.int64))
    with torch.no_grad():
        tokens = patch_features(model.encoder.eval(), Batch.of(1, {"scan": column}), "scan")
    # a token lies in the middle of a group, at a point of the cloud
    distance = np.linalg.norm(placed.position[:, None] - tokens.position.numpy(), axis=2)
    nearest = distance.argmin(0)
    assert distance.min(0).max() < 1e-2
    np.testing.assert_allclose(vectors[nearest], tokens.x.numpy(), atol=1e-2)
    for i in (0, 17, 200):
        expected = naive(placed.position[i], tokens.position.numpy(), tokens.x.numpy())
        np.testing.assert_allclose(vectors[i], expected, atol=1e-4)


def test_all_records_fit_one_file_and_one_scan_needs_no_schema(trained, tmp_path):
    run, folder = trained
    main(["embed", str(run), "--data", str(folder), "--dense", "--out", f"{tmp_path}/all.parquet"])
    table = pq.read_table(tmp_path / "all.parquet")
    assert len(table) == 8 * 300 and table.column_names[0] == "key"
    assert len(set(table["key"].to_pylist())) == 8
    one = write_dense(amodal.load(run), folder / "s3.las", tmp_path / "one", progress=False)
    (file,) = one
    rows = table.filter(np.array(table["key"].to_pylist()) == "s3")
    single = pq.read_table(file)
    np.testing.assert_array_equal(single["x"], rows["x"])
    np.testing.assert_allclose(
        np.stack(single["vector"].to_pylist()), np.stack(rows["vector"].to_pylist()), atol=1e-5
    )


def test_an_interrupted_call_goes_on_and_files_of_others_stay(trained, tmp_path):
    run, folder = trained
    model, out = amodal.load(run), tmp_path / "out"
    files = write_dense(model, folder, out, progress=False)
    files[0].unlink()
    before = {file: file.stat().st_mtime_ns for file in files[1:]}
    assert write_dense(model, folder, out, progress=False) == files
    assert files[0].exists()
    assert before == {file: file.stat().st_mtime_ns for file in files[1:]}
    files[1].write_bytes(b"mine")
    with pytest.raises(AmodalError, match="holds no features of amodal"):
        write_dense(model, folder, out, progress=False)
    assert files[1].read_bytes() == b"mine"
    with pytest.raises(AmodalError, match="to a folder, or to one .parquet file"):
        write_dense(model, folder, tmp_path / "a.tif", progress=False)
    with pytest.raises(AmodalError, match="leave --patch out"):
        write_dense(model, folder, tmp_path / "p", patch=4, progress=False)


def test_a_file_of_points_that_changed_is_made_anew(trained, tmp_path):
    run, folder = trained
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for name in ("s0.las", "s1.las", "dataset.toml"):
        (data / name).write_bytes((folder / name).read_bytes())
    model = amodal.load(run)
    files = write_dense(model, data, out, progress=False)
    before = files[0].stat().st_mtime_ns
    points, ball = scan(5)
    (data / "s1.las").write_bytes(las(points, classification=ball + 1))
    assert write_dense(model, data, out, progress=False) == files
    assert files[0].stat().st_mtime_ns == before
    table = pq.read_table(files[1]).to_pandas()
    np.testing.assert_allclose(table[["x", "y", "z"]], points, atol=1e-3)
    (data / "s1.las").write_bytes(las(points, classification=2 - ball))
    write_dense(model, data, out, progress=False)
    np.testing.assert_array_equal(pq.read_table(files[1])["classification"], 2 - ball)


def test_what_cannot_be_read_is_said_and_the_others_are_written(trained, tmp_path, capsys):
    run, folder = trained
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.las").write_bytes((folder / "s0.las").read_bytes())
    (data / "b.las").write_bytes((folder / "s1.las").read_bytes()[:900])
    (data / "dataset.toml").write_text(
        (folder / "dataset.toml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    files = write_dense(amodal.load(run), data, tmp_path / "out", progress=False)
    assert [file.name for file in files] == ["a.parquet"]
    assert "1 values of scan could not be read, such as b: truncated LAS" in capsys.readouterr().err
