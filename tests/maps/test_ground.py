"""`amodal embed --dense`: features of places as GeoTIFF, of tiles and of scenes."""

import numpy as np
import pytest
from PIL import Image as Pillow

import amodal
from amodal.cli import main
from amodal.core import AmodalError
from amodal.inference import dense
from amodal.maps import ground
from tests.modalities.test_raster import tiff

rasterio = pytest.importorskip("rasterio")

TILE, PATCH = 16, 4


def scene(side=64, seed=0):
    """Two bands with structure at every scale."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    smooth = np.stack([np.sin(5 * x + 2 * y), np.cos(4 * y)])
    return (1000 + 500 * smooth + 30 * rng.standard_normal((2, side, side))).astype(np.uint16)


def cut(pixels, top, left, side=TILE):
    """A tile with its place, as `tiff` places the whole."""
    start = int(left)
    content = tiff(pixels[:, top : top + side, start : start + side], ("a", "b"))
    with rasterio.io.MemoryFile(content) as memory:
        with memory.open() as file:
            profile, values = file.profile, file.read()
        moved = profile["transform"] @ rasterio.transform.Affine.translation(left, top)
    profile.update(transform=moved)
    with rasterio.io.MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(values)
            for i, name in enumerate(("a", "b")):
                file.set_band_description(i + 1, name)
        return memory.read()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on tiles, and the folder of the tiles."""
    folder = tmp_path_factory.mktemp("tiles")
    pixels = scene()
    for top in range(0, 64, TILE):
        for left in range(0, 64, TILE):
            (folder / f"t{top:02}-{left:02}.tif").write_bytes(cut(pixels, top, left))
    (folder / "dataset.toml").write_text(
        '[fields.image]\nmodality = "raster"\nbands = ["a", "b"]\n'
        f"size = {TILE}\npatch = {PATCH}\nmean = [1000.0, 1000.0]\nstd = [400.0, 400.0]\n",
        encoding="utf-8",
    )
    run = tmp_path_factory.mktemp("run") / "run"
    amodal.pretrain(
        "mae", data=folder, out=run, steps=2, batch_size=8, size="nano", progress=False, seed=0
    )
    return run, folder


def read(file):
    with rasterio.open(file) as opened:
        return opened.read(), opened.transform, opened.crs


def test_all_tiles_become_one_file_on_the_grid_of_the_scene(trained, tmp_path, capsys):
    run, folder = trained
    main(["embed", str(run), "--data", str(folder), "--dense", "--out", f"{tmp_path}/m.tif"])
    values, transform, crs = read(tmp_path / "m.tif")
    assert values.shape[1:] == (64 // PATCH, 64 // PATCH) and np.isfinite(values).all()
    assert tuple(transform)[:6] == (40, 0, 500_000, 0, -40, 5_000_000) and crs.to_epsg() == 32633
    model = amodal.load(run)
    # as of the whole scene: the borders of tiles do not show
    whole = np.concatenate([np.full((1, 1, 64, 64), np.nan), scene()[None]], 1)
    expected = dense.dense_features(model.encoder, "image", whole.astype(np.float32))
    np.testing.assert_allclose(values, expected.transpose(2, 0, 1), atol=2e-3)
    assert "wrote" in capsys.readouterr().out


def test_a_scene_is_read_by_windows_and_has_no_seams(trained, tmp_path):
    run, _ = trained
    whole = tmp_path / "all.tif"
    whole.write_bytes(tiff(scene()[::-1, :60, :60].copy(), ("b", "a")))  # in another order
    model = amodal.load(run)
    file, picture = ground.write_dense(model, whole, tmp_path / "scene.tif", progress=False)
    values, _, _ = read(file)
    assert values.shape[1:] == (15, 15) and np.isfinite(values).all()
    with Pillow.open(picture) as drawn:
        assert drawn.size == (15, 15) and len(set(drawn.getdata())) > 50
    first = dense.dense_features(model.encoder, "image", model.read(trained[1]).value(0, "image"))
    np.testing.assert_allclose(values[:, 0, 0], first[0, 0], atol=2e-3)
    # the steps between neighbours are no larger where windows begin than elsewhere
    step = np.abs(np.diff(values, axis=2)).mean((0, 1))
    edges = [s - 1 for s in dense.starts(15, TILE // PATCH) if s]
    inside = np.delete(step, edges)
    assert step[edges].max() < 1.5 * inside.max()


@pytest.mark.parametrize(("length", "window"), [(4, 4), (5, 4), (15, 4), (100, 8), (3, 8), (9, 1)])
def test_windows_cover_everything_and_overlap_by_half(length, window):
    found = dense.starts(length, window)
    covered = {i for start in found for i in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert all(0 < b - a <= max(window // 2, 1) for a, b in zip(found, found[1:]))
    assert found[-1] == max(length - window, 0)


def test_what_has_no_data_has_no_features(trained):
    run, _ = trained
    model = amodal.load(run)
    value = np.concatenate([np.full((1, 1, 32, 32), np.nan), scene(32)[None]], 1)
    value[:, 1:, :8, 8:16] = np.nan
    out = dense.dense_features(model.encoder, "image", value.astype(np.float32))
    gaps = np.isnan(out).all(2)
    assert gaps[:2, 2:4].all() and gaps.sum() == 4 and not np.isnan(out[~gaps]).any()


def test_a_folder_gets_a_file_of_each_and_an_interrupted_call_goes_on(
    trained, tmp_path, monkeypatch
):
    run, folder = trained
    model, out = amodal.load(run), tmp_path / "out"
    real, calls = ground.dense_features, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(ground, "dense_features", failing)
    with pytest.raises(KeyboardInterrupt):
        ground.write_dense(model, folder, out, progress=False)
    assert len(list(out.glob("*.tif"))) == 3
    files = ground.write_dense(model, folder, out, progress=False)
    assert len(files) == 16 and len(calls) == 4 + 13
    assert tuple(read(files[5])[1])[:6] == (40, 0, 500_160, 0, -40, 4_999_840)
    other = amodal.load(run)
    with __import__("torch").no_grad():
        next(other.encoder.parameters()).add_(1.0)
    monkeypatch.setattr(type(other), "fingerprint", property(lambda self: "another"))
    with pytest.raises(AmodalError, match="another encoder"):
        ground.write_dense(other, folder, out, progress=False)


def test_a_users_file_is_not_overwritten(trained, tmp_path):
    run, folder = trained
    mine = tmp_path / "mine.tif"
    mine.write_bytes(tiff(scene(), ("a", "b")))
    with pytest.raises(AmodalError, match="holds no features of amodal"):
        ground.write_dense(amodal.load(run), folder, mine, progress=False)


def test_what_lies_on_different_grids_goes_into_a_folder(trained, tmp_path):
    run, _ = trained
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.tif").write_bytes(cut(scene(), 0, 0))
    (data / "b.tif").write_bytes(cut(scene(), 0, 16.5))
    (data / "dataset.toml").write_text(
        '[fields.image]\nmodality = "raster"\nbands = ["a", "b"]\nsize = 16\n', encoding="utf-8"
    )
    model = amodal.load(run)
    with pytest.raises(AmodalError, match="b does not lie on the grid of the others.*folder"):
        ground.write_dense(model, data, tmp_path / "m.tif", progress=False)
    assert len(ground.write_dense(model, data, tmp_path / "m", progress=False)) == 2


def test_values_of_other_dates_are_other_measurements(trained, tmp_path):
    run, _ = trained
    data = tmp_path / "data"
    data.mkdir()
    model, tiles = amodal.load(run), []
    for i, day in enumerate(("2020-01-15", "2020-07-15")):
        content = tiff(scene(16, seed=i), ("a", "b"), date=day)
        (data / f"{day}.tif").write_bytes(content)
        value, _ = model.encoder.fields["image"].on_ground(content)
        tiles.append(dense.dense_features(model.encoder, "image", value))
    (data / "dataset.toml").write_text(
        '[fields.image]\nmodality = "raster"\nbands = ["a", "b"]\nsize = 16\n', encoding="utf-8"
    )
    file, picture = ground.write_dense(model, data, tmp_path / "m.tif", progress=False)
    mean = (tiles[0] + tiles[1]) / 2
    np.testing.assert_allclose(read(file)[0], mean.transpose(2, 0, 1), atol=2e-3)


def test_maps_of_pictures_are_not_of_rasters(trained, tmp_path):
    run, folder = trained
    with pytest.raises(AmodalError, match="maps are of pictures.*embed --dense"):
        amodal.load(run).map(folder, tmp_path / "map", segments=3)


def test_a_run_without_rasters_says_so(tmp_path):
    with pytest.raises(AmodalError, match="this run has none: its fields are words .text."):
        ground.ground_field({"words": amodal.modalities.make("text")}, None)
