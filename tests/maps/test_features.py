"""`amodal embed --dense` of scans: features as NIfTI on the grid of the scan."""

import nibabel
import numpy as np
import pytest
import torch

import amodal
from amodal.cli import main
from amodal.core import AmodalError, Batch, Column
from amodal.inference import dense
from amodal.maps import features, ground
from amodal.nn.patch_vectors import patch_features
from tests.modalities.scans import nifti, series

PATCH, SIZE = (4, 4, 2), (16, 16, 8)
AFFINE = np.array([[-1.0, 0, 0, 30], [0, 0, 1.5, -20], [0, 2, 0, 5], [0, 0, 0, 1]])
"""Axes to the left, top and front: x is mirrored, y and z are exchanged."""


def voxels(shape, seed=0):
    """With structure at every scale, and axes as they are stored."""
    rng = np.random.default_rng(seed)
    x, z, y = (axis / 20 for axis in np.indices(shape))
    smooth = np.sin(5 * x + 2 * y) + np.cos(4 * z + seed)
    return (500 + 200 * smooth + 20 * rng.standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on small scans, and their folder."""
    folder = tmp_path_factory.mktemp("scans")
    for i in range(12):
        content = nifti(voxels((16, 8, 16), i), AFFINE, packed=True)
        (folder / f"person{i:02}.nii.gz").write_bytes(content)
    (folder / "dataset.toml").write_text(
        f'[fields.mr]\nmodality = "volume"\nsize = {list(SIZE)}\npatch = {list(PATCH)}\n'
        "spacing = [1.0, 1.5, 2.0]\nmean = 500.0\nstd = 150.0\n",
        encoding="utf-8",
    )
    run = tmp_path_factory.mktemp("run") / "run"
    amodal.pretrain(
        "mae", data=folder, out=run, steps=2, batch_size=8, size="nano", progress=False, seed=0
    )
    return run, folder


def test_a_large_scan_becomes_features_on_its_grid(trained, tmp_path, capsys):
    run, _ = trained
    scan = tmp_path / "large.nii.gz"
    scan.write_bytes(nifti(voxels((38, 17, 30)), AFFINE, packed=True))
    out = tmp_path / "m.nii.gz"
    main(["embed", str(run), "--data", str(scan), "--dense", "--out", str(out)])
    assert "wrote" in capsys.readouterr().out
    made = nibabel.load(out)
    values = made.get_fdata(dtype=np.float32)
    # 38 x 30 x 17 voxels to the right, front and top, in patches of 4 x 4 x 2
    assert values.shape[:3] == (10, 8, 9) and np.isfinite(values).all()
    assert nibabel.aff2axcodes(made.affine) == ("R", "A", "S")
    np.testing.assert_allclose(made.header.get_zooms()[:3], (4, 6, 4))
    # the first patch is that of the voxels at the left, back and bottom: x = 37 … 34 as stored
    world = AFFINE @ np.array([35.5, 0.5, 1.5, 1])
    np.testing.assert_allclose(made.affine[:3, 3], world[:3], atol=1e-5)
    model = amodal.load(run)
    expected = dense.dense_features(model.encoder, "mr", model.encoder.fields["mr"].decode(scan))
    np.testing.assert_array_equal(values, expected)


def test_windows_leave_no_seams(trained):
    run, _ = trained
    model = amodal.load(run)
    value = model.encoder.fields["mr"].decode(nifti(voxels((60, 8, 16)), AFFINE))
    grid = dense.dense_features(model.encoder, "mr", value)
    step = np.abs(np.diff(grid, axis=0)).mean((1, 2, 3))
    edges = [s - 1 for s in dense.starts(15, 4) if s]
    inside = np.delete(step, edges)
    assert step[edges].max() < 1.5 * inside.max()


def test_features_of_a_scan_of_one_window_are_those_of_its_tokens(trained):
    run, folder = trained
    model = amodal.load(run)
    value = model.read(folder).value(0, "mr")
    value[1:5, 1:5, 1:3] = np.nan
    grid = dense.dense_features(model.encoder, "mr", value)
    gaps = np.isnan(grid).all(3)
    assert gaps[0, 0, 0] and gaps.sum() == 1 and not np.isnan(grid[~gaps]).any()
    column = Column(model.encoder.fields["mr"].collate([value]), torch.zeros(1).long())
    with torch.no_grad():
        tokens = patch_features(model.encoder.eval(), Batch.of(1, {"mr": column}), "mr")
    np.testing.assert_allclose(grid[~gaps], tokens.x.numpy(), atol=1e-5)


def test_a_folder_gets_a_file_of_each_and_an_interrupted_call_goes_on(
    trained, tmp_path, monkeypatch
):
    run, folder = trained
    model, out = amodal.load(run), tmp_path / "out"
    real, calls = features.dense_features, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(features, "dense_features", failing)
    with pytest.raises(KeyboardInterrupt):
        ground.write_dense(model, folder, out, progress=False)
    assert len(list(out.iterdir())) == 3
    files = ground.write_dense(model, folder, out, progress=False)
    assert len(files) == 12 and len(calls) == 4 + 9
    assert nibabel.load(files[5]).shape[:3] == (4, 4, 4)
    monkeypatch.setattr(type(model), "fingerprint", property(lambda self: "another"))
    with pytest.raises(AmodalError, match="features of another encoder"):
        ground.write_dense(model, folder, out, progress=False)


def test_what_is_wrong_is_said(trained, tmp_path):
    run, folder = trained
    model = amodal.load(run)

    def refused(out, why, data=folder, **options):
        with pytest.raises(AmodalError, match=why):
            ground.write_dense(model, data, out, progress=False, **options)

    refused(tmp_path / "m.nii.gz", "12 records .* name a folder .*--out m/")
    refused(tmp_path / "m.tif", "features of volume are written as .nii.gz")
    refused(tmp_path / "m", "patches of one size", patch=4)
    refused(tmp_path / "m", "there is no file", data=tmp_path / "none.nii")
    mine = tmp_path / "mine.nii.gz"
    mine.write_bytes(nifti(voxels((8, 8, 8)), packed=True))
    refused(mine, "holds no features of amodal", data=folder / "person01.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes(b"no scan")
    refused(tmp_path / "m.nii.gz", "could be read: .*neither a NIfTI", data=tmp_path / "bad.nii.gz")


def test_uncompressed_and_made_anew(trained, tmp_path):
    run, folder = trained
    model, out = amodal.load(run), tmp_path / "m.nii"
    for person in (1, 2):
        ground.write_dense(model, folder / f"person0{person}.nii.gz", out, progress=False)
    value = model.encoder.fields["mr"].decode(folder / "person02.nii.gz")
    expected = dense.dense_features(model.encoder, "mr", value)
    np.testing.assert_array_equal(nibabel.load(out).get_fdata(dtype=np.float32), expected)


def test_a_series_of_slices_has_features_where_it_lies(trained, tmp_path):
    run, _ = trained
    model = amodal.load(run)
    slices, _ = series(8, rows=16, columns=16)
    for i, content in enumerate(slices):
        (tmp_path / f"{i}.dcm").write_bytes(content)
    (file,) = ground.write_dense(model, [{"mr": tmp_path}], tmp_path / "out.nii.gz", progress=False)
    made = nibabel.load(file)
    assert made.shape[:3] == (4, 4, 4)
    np.testing.assert_allclose(made.header.get_zooms()[:3], (3.2, 2, 4), rtol=1e-5)
    np.testing.assert_allclose(made.affine[:3, 3], (-10 - 0.8 * 13.5, -20 - 0.5 * 13.5, -13))
