"""The dense probe of points, against classes that are known."""

import numpy as np
import pytest

import amodal
from amodal.core import AmodalError
from amodal.evaluate.dense_clouds import classes_of, raw_values
from amodal.evaluate.dense_probe import Example, probe_classes
from amodal.evaluate.labels import NotApplicable

laspy = pytest.importorskip("laspy")

from tests.modalities.cloud_files import FAR, las  # noqa: E402

GROUND, TREE, WALL = 2, 5, 6


def scene(seed, count=700):
    """Flat ground, a ball above it and an upright wall: (n, 3) and classes."""
    rng = np.random.default_rng(seed)
    kind = rng.choice([GROUND, TREE, WALL], count)
    flat = rng.uniform(-5, 5, (count, 3)) * (1, 1, 0) + rng.normal(0, 0.03, (count, 3))
    ball = rng.normal(0, 0.7, (count, 3)) + (3, 3, 3)
    wall = np.stack(
        [rng.uniform(-5, 0, count), rng.normal(-4, 0.03, count), rng.uniform(0, 3, count)]
    )
    points = np.where(
        (kind == GROUND)[:, None], flat, np.where((kind == TREE)[:, None], ball, wall.T)
    )
    return points + FAR, kind


def folder_of(folder, labelled=True):
    for i in range(60):
        points, kind = scene(i)
        extra = {"classification": kind} if labelled else {}
        (folder / f"s{i:02}.las").write_bytes(las(points, **extra))
    (folder / "dataset.toml").write_text(
        '[fields.scan]\nmodality = "points"\npoints = 512\ngroups = 48\nneighbours = 16\n',
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = folder_of(tmp_path_factory.mktemp("scenes"))
    run = tmp_path_factory.mktemp("run") / "run"
    amodal.pretrain(
        "mae", data=folder, out=run, steps=2, batch_size=4, size="nano", progress=False, seed=0
    )
    return run, folder


def test_classes_of_points_are_read_off_their_tokens(trained):
    run, folder = trained
    report = amodal.load(run).evaluate(folder, protocols=["dense"], simple=False)
    (result,) = [r for r in report.results if r.protocol == "dense"]
    rows = {(row["source"], row["metric"]): row for row in result.rows}
    assert result.spec["classes"] == [GROUND, TREE, WALL]
    for source in ("scan", "raw values"):
        iou = rows[source, "mIoU"]
        assert iou["interval"][0] > iou["chance"] + 0.2
    # three shapes that raw values have by their neighbourhood
    assert rows["raw values", "mIoU"]["value"] > 0.95


def test_raw_values_say_height_and_shape():
    from amodal import modalities

    points, kind = scene(0)
    field = modalities.make("points", points=512)
    placed = field.place_points(las(points, classification=kind))
    np.testing.assert_array_equal(placed.label, kind)
    values = raw_values(placed)
    height, linear, planar, scattered, upright = values[:, 3:8].T
    assert height.min() == 0
    assert np.median(scattered[kind == TREE]) > 3 * np.median(scattered[kind == GROUND])
    assert np.median(planar[kind == GROUND]) > np.median(planar[kind == TREE])
    assert np.median(upright[kind == GROUND]) > 0.9 > 0.2 > np.median(upright[kind == WALL])


def test_files_without_classes_are_said(tmp_path, trained):
    run, _ = trained
    bare = folder_of(tmp_path, labelled=False)
    with pytest.raises(AmodalError, match="its files .classification.; it needs 5"):
        amodal.load(run).evaluate(bare, protocols=["dense"], simple=False)
    with pytest.raises(AmodalError, match="leave truth and amounts out"):
        amodal.load(run).evaluate(bare, protocols=["dense"], simple=False, truth="scan")


def test_labels_below_0_and_255_are_unknown():
    label = np.array([-1, 2, np.nan, 255, 70_000, -3], np.float32)
    assert classes_of(label, "a").tolist() == [-1, 2, -1, -1, 70_000, -1]


@pytest.mark.parametrize("wrong", [2.5, 2.0**24, 1e9])
def test_labels_that_are_no_classes_are_refused(wrong):
    with pytest.raises(NotApplicable, match="whole numbers below 16,777,216, and a has"):
        classes_of(np.array([1, wrong], np.float32), "a")


def test_what_is_unknown_is_no_class():
    rng = np.random.default_rng(0)
    truth = np.array([0, 3] * 20 + [-1] * 5)
    grid = np.where(truth == 3, 1.0, -1.0)[:, None, None] + 0.1 * rng.normal(size=(45, 1, 2))
    examples = [Example({"raw": grid.astype(np.float32)}, truth[:, None]) for _ in range(6)]
    rows, spec = probe_classes(examples, examples, 20, 0)
    assert spec["classes"] == [0, 3]
    assert [row["value"] for row in rows if row["metric"] == "mIoU"] == [1]
    only = [Example(e.grids, np.where(e.truth == 3, -1, e.truth)) for e in examples]
    with pytest.raises(NotApplicable, match="fewer than two classes"):
        probe_classes(only, only, 20, 0)
