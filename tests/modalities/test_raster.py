"""Rasters: GeoTIFF, dates, gaps, and what is made of them."""

import numpy as np
import pytest
import torch

from amodal import modalities
from amodal.core import Column
from amodal.modalities import BadValue
from amodal.modalities.shared import geotiff
from amodal.modalities.shared.requests import Limits, TooLarge

rasterio = pytest.importorskip("rasterio")

BANDS = ("B02", "B03", "B04", "B08")


def tiff(
    pixels, bands=BANDS, *, date="", scale=1.0, metres=10.0, crs="EPSG:32633", nm=(), **options
):
    """The bytes of a GeoTIFF of (C, H, W). nm: nanometres of its bands."""
    count, height, width = pixels.shape
    place = rasterio.transform.from_origin(500_000, 5_000_000, metres, metres) if crs else None
    with rasterio.io.MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=pixels.dtype,
            crs=crs or None,
            transform=place,
            **options,
        ) as file:
            file.write(pixels)
            for i, name in enumerate(bands):
                file.set_band_description(i + 1, name)
            for i, number in enumerate(nm):
                file.update_tags(i + 1, wavelength=str(number), wavelength_units="Nanometers")
            file.scales = [scale] * count
            if date:
                file.update_tags(acquisition_date=date)
        return memory.read()


def pixels(seed=0, count=4, height=16, width=24):
    return np.random.default_rng(seed).integers(1, 4000, (count, height, width)).astype(np.uint16)


def test_a_file_is_read_in_physical_units_with_its_gaps_date_and_ground_resolution():
    raw = pixels()
    raw[:, :3, :5] = 0
    data = tiff(raw, date="2020-07-16", scale=1e-4, nodata=0)
    scene = geotiff.read(data)
    assert scene.bands == BANDS and scene.resolution == 10 and scene.crs == "EPSG:32633"
    assert scene.transform == (10, 0, 500_000, 0, -10, 5_000_000)
    assert geotiff.date_of(scene.month) == "2020-07-16"
    assert np.isnan(scene.pixels[:, :3, :5]).all()
    np.testing.assert_allclose(scene.pixels[:, 3:], raw[:, 3:] * 1e-4, rtol=1e-6)
    raster = modalities.kind("raster").infer([data])
    assert raster.bands == BANDS and raster.size == 24 and raster.resolution == 10
    value = raster.decode(data)
    assert value.shape == (1, 5, 16, 24)
    np.testing.assert_array_equal(value[0, 1:], scene.pixels)
    line = raster.describe(value)
    assert "4 bands, 16 x 24 pixels, 2020-07-16" in line and "4% missing" in line


@pytest.mark.parametrize("day", ["2000-01-01", "1999-12-31", "2020-02-29", "2024-08-31"])
def test_dates_and_months(day):
    assert geotiff.date_of(float(np.float32(geotiff.month_of(f"S2_{day}.tif")))) == day
    assert geotiff.month_of(day.replace("-", "")) == geotiff.month_of(day)


@pytest.mark.parametrize("text", ["", "tile_123456789", "2020-13-01", "2021-02-30", "v20"])
def test_what_is_no_date(text):
    assert np.isnan(geotiff.month_of(text))


def test_the_name_says_the_day_where_the_file_does_not(tmp_path):
    path = tmp_path / "T33_20190305T101021.tif"
    path.write_bytes(tiff(pixels()))
    raster = modalities.make("raster", bands=BANDS)
    assert geotiff.date_of(float(raster.decode(path)[0, 0, 0, 0])) == "2019-03-05"


def test_bands_are_found_by_name_and_absent_ones_are_missing():
    raster = modalities.make("raster", bands=("B08", "B04", "B11"))
    raw = pixels()
    value = raster.decode(tiff(raw))
    np.testing.assert_array_equal(value[0, 1], raw[3])
    np.testing.assert_array_equal(value[0, 2], raw[2])
    assert np.isnan(value[0, 3]).all()
    with pytest.raises(BadValue, match="none of the bands.*did you mean B0"):
        modalities.make("raster", bands=("B0",)).decode(tiff(raw))
    with pytest.raises(BadValue, match="4 bands without names, expected 3"):
        raster.decode(raw.astype(np.float32))


def test_dates_are_put_in_order_and_those_of_one_day_stay_apart():
    values = np.stack([np.full((1, 8, 8), i, np.float32) for i in range(4)])
    days = ["2021-05-01", "2020-01-01", "2021-05-01", "2020-06-01"]
    raster = modalities.make("raster", bands=("v",), dates=4, patch=4)
    value = raster.decode({"values": values, "dates": days})
    assert value[:, 1, 0, 0].tolist() == [1, 3, 0, 2]
    months = value[:, 0, 0, 0]
    assert (np.diff(months) > 0).all()
    place = raster.collate([value]).flat[:, :3]
    assert torch.equal(place[:, 0].unique(), torch.from_numpy(months))
    assert len(place.unique(dim=0)) == len(place) == 16
    # unknown days: numbers
    value = raster.decode(values)
    assert raster.collate([value]).flat[:, 0].unique().tolist() == [0, 1, 2, 3]


def test_of_more_dates_evenly_spaced_ones_are_read_and_empty_ones_are_left_out():
    values = np.stack([np.full((1, 4, 4), i, np.float32) for i in range(9)])
    raster = modalities.make("raster", bands=("v",), dates=3)
    assert raster.decode(values)[:, 1, 0, 0].tolist() == [0, 4, 8]
    values[8] = np.nan
    assert raster.decode(values)[:, 1, 0, 0].tolist() == [0, 4, 7]


def test_only_patches_with_data_become_tokens():
    raw = np.arange(2 * 10 * 8, dtype=np.float32).reshape(2, 10, 8)
    raw[:, :4, :4] = np.nan  # the first patch
    raw[0, 4:8, 4:] = np.nan  # one band of another
    raster = modalities.make("raster", bands=("a", "b"), patch=4, mean=(10, 20), std=(2, 4))
    flat = raster.collate([raster.decode(raw)]).flat
    assert flat[:, 1:3].tolist() == [[0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    first = flat[0, 4:].view(2, 4, 4)
    expected = torch.from_numpy(raw[:, :4, 4:]) - torch.tensor([10.0, 20])[:, None, None]
    torch.testing.assert_close(first, expected / torch.tensor([2.0, 4])[:, None, None])
    assert flat[2, 4:].view(2, 16).isnan().all(1).tolist() == [True, False]
    # past the lower border there is nothing
    assert flat[3, 4:].view(2, 4, 4)[:, 2:].isnan().all()
    column = Column(raster.collate([raster.decode(raw)]), torch.zeros(1, dtype=torch.int64))
    tokens = raster.tokenizer(8)(column, "field", 1)
    assert tokens.x.isfinite().all() and torch.equal(tokens.position, flat[:, :3])


def test_the_loss_is_of_the_pixels_that_exist():
    raster = modalities.make("raster", bands=("a",), patch=2, size=2)
    target = torch.tensor([[1.0, torch.nan, 3.0, torch.nan]])
    prediction = torch.tensor([[2.0, 50.0, 1.0, 50.0]], requires_grad=True)
    loss = raster.token_loss(prediction, target)
    assert loss.tolist() == [2.5]
    loss.sum().backward()
    assert prediction.grad.tolist() == [[1, 0, -2, 0]]


def test_larger_values_are_not_resampled_without_a_word():
    raster = modalities.make("raster", bands=BANDS, size=16)
    with pytest.raises(BadValue, match="16 x 24 pixels, and a side has 16 at most"):
        raster.decode(tiff(pixels()))


def test_a_small_file_of_a_large_scene_is_refused_by_its_header(monkeypatch):
    data = tiff(np.zeros((1, 8192, 8192), np.uint8), ("B02",), compress="deflate")
    assert len(data) < 400_000
    monkeypatch.setattr(np.ma, "filled", lambda *_: pytest.fail("pixels were read"))
    with pytest.raises(BadValue, match="8,192 x 8,192 pixels, and a side has 64 at most"):
        modalities.make("raster", bands=BANDS).decode(data)


def test_the_view_that_all_fields_draw_alike_is_one_of_eight_turns_of_all_of_it():
    raster = modalities.make("raster", bands=("a", "b"), size=4, patch=2, dates=2)
    value = raster.decode(np.arange(64, dtype=np.float32).reshape(2, 2, 4, 4))
    found = {raster.augment(value, "turned", np.random.default_rng(i)).tobytes() for i in range(99)}
    turns = [np.rot90(value, k, axes=(2, 3)) for k in range(4)]
    wanted = {np.ascontiguousarray(t).tobytes() for v in turns for t in (v, v[..., ::-1])}
    assert found == wanted and len(found) == 8
    upright = modalities.make("raster", bands=("a", "b"), size=4, patch=2, dates=2, turn=False)
    assert upright.known_view("turned") == "plain"
    # what is not seen from above stays as it is
    assert modalities.make("image").known_view("turned") == "plain"


def test_a_token_has_a_size_on_the_ground_where_pixels_have_one():
    assert modalities.make("raster", patch=8, resolution=20.0).ground_step == 160
    assert modalities.make("raster", patch=8).ground_step == 0
    assert modalities.make("image").ground_step == 0


def test_turned_views_have_the_same_pixels():
    raster = modalities.make("raster", bands=("a",), size=8)
    value = raster.decode(np.arange(64, dtype=np.float32).reshape(1, 8, 8))
    seen = set()
    for seed in range(40):
        view = raster.augment(value, "weak", np.random.default_rng(seed))
        assert set(view[0, 1].ravel()) <= set(range(64))
        seen.add(tuple(np.sign(view[0, 1, 0, :2] - view[0, 1, 1, 0])))
    assert len(seen) > 2
    still = modalities.make("raster", bands=("a",), size=8, turn=False)
    for seed in range(10):
        view = still.augment(value, "weak", np.random.default_rng(seed))[0, 1]
        assert (np.diff(view, axis=1) == 1).all() and (np.diff(view, axis=0) == 8).all()


@pytest.mark.parametrize(
    ("crs", "bands", "kind"),
    [("EPSG:4326", 3, "raster"), ("", 13, "raster"), ("", 3, "image"), ("", 1, "image")],
)
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_is_a_raster_by_its_place_or_its_bands(tmp_path, crs, bands, kind, big):
    options = {"BIGTIFF": "YES"} if big else {}
    data = tiff(pixels(count=bands).astype(np.uint8), (), crs=crs, **options)
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    if not (big and kind == "image"):  # which Pillow does not read either
        assert modalities.guess([path]) == kind
        assert modalities.guess([data]) == kind
    assert geotiff.is_raster(data) == geotiff.is_raster(path) == (kind == "raster")


def test_a_system_of_coordinates_without_a_plane_says_no_ground_resolution():
    assert geotiff.read(tiff(pixels(), crs="EPSG:4978")).resolution == 0  # geocentric


def test_a_header_that_leads_past_all_memory_is_no_raster():
    data = bytearray(tiff(pixels(), BIGTIFF="YES"))
    data[8:16] = b"\xff" * 8
    assert not geotiff.is_raster(bytes(data))


def test_degrees_are_metres_along_a_meridian():
    data = tiff(pixels(), crs="EPSG:4326", metres=0.001)
    assert geotiff.read(data).resolution == pytest.approx(111.32)


def test_no_file_may_name_another():
    vrt = b"""<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1">
    <SimpleSource><SourceFilename>/etc/hostname</SourceFilename></SimpleSource></VRTRasterBand>
    </VRTDataset>"""
    with pytest.raises(BadValue, match="not a GeoTIFF") as caught:
        geotiff.read(vrt)
    assert "vsimem" not in str(caught.value)


def test_a_damaged_file_is_bad_and_never_a_shorter_value():
    raster, data = modalities.make("raster", bands=BANDS), tiff(pixels(), compress="deflate")
    whole = raster.decode(data)
    rng = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(data)
        start = int(rng.integers(len(data)))
        changed[start] ^= 1 << int(rng.integers(8))
        changed = bytes(changed)[: int(rng.integers(1, len(data)))] if start % 3 == 0 else changed
        try:
            value = raster.decode(bytes(changed))
        except BadValue:
            continue
        assert value.ndim == 4 and value.shape[1] == whole.shape[1]


def test_a_name_of_coordinates_in_another_encoding_is_said():
    content = tiff(pixels(), crs='LOCAL_CS["a plan of ours",UNIT["metre",1]]')
    with pytest.raises(BadValue, match=r"no UTF-8.*code of EPSG"):
        modalities.make("raster", bands=BANDS).decode(content.replace(b"plan", b"pl\xe4n"))


def test_an_untrusted_file_is_bounded_by_its_header():
    raster = modalities.make("raster", bands=BANDS)
    data = tiff(np.zeros((4, 2000, 2000), np.uint8), compress="deflate")
    assert len(data) < 100_000
    with pytest.raises(TooLarge, match="16,000,000 pixels of all bands; at most 1,000,000"):
        raster.bounds(data, Limits(pixels=1_000_000))
    assert raster.bounds(data, Limits()) == data
    with pytest.raises(BadValue, match="names of files are not opened"):
        raster.bounds("/etc/hostname", Limits())


def test_simple_features_say_what_the_bands_say():
    raster = modalities.make("raster", bands=("red", "nir"), dates=2, size=8)
    rng = np.random.default_rng(0)
    raws = [rng.normal([[[5.0]], [[i % 2 * 4.0]]], 1, (2, 2, 8, 8)) for i in range(40)]
    features = raster.simple_features(raws)(raws)
    from sklearn.linear_model import LogisticRegression

    labels = np.arange(40) % 2
    fitted = LogisticRegression().fit(features[:20], labels[:20])
    assert fitted.score(features[20:], labels[20:]) == 1
    value = raster.decode(np.stack([np.full((8, 8), 1.0), np.full((8, 8), 3.0)]))
    assert raster.attributes()["vegetation"].read(value) == pytest.approx(0.5)


def test_a_band_without_any_pixel_warns_of_nothing(recwarn):
    raster = modalities.make("raster", bands=("a", "b"), size=8)
    raw = np.full((2, 8, 8), np.nan)
    raw[0] = 3.0
    assert np.isfinite(raster.simple_features([raw, raw])([raw])).all()
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]
    raster.show(raster.decode(raw))


def test_another_ground_resolution_is_said():
    ten, thirty = (modalities.make("raster", resolution=r) for r in (10, 30))
    assert "30 m, and the run was trained on 10 m" in thirty.mismatch(ten)
    assert not ten.mismatch(ten) and not ten.mismatch(modalities.make("raster"))


def seasons(dates=4, side=24):
    """A value whose date is known by its pixels."""
    values = np.stack([np.full((2, side, side), 10.0 * i, np.float32) for i in range(dates)])
    values += np.random.default_rng(0).random(values.shape, dtype=np.float32)
    days = [f"2020-{1 + 3 * i:02d}-05" for i in range(dates)]
    raster = modalities.kind("raster")(bands=("a", "b"), dates=dates, size=side, patch=4)
    return raster, raster.decode({"values": values, "dates": days})


def test_a_season_is_one_date_and_every_date_comes_up_as_often():
    raster, value = seasons()
    drawn = []
    for seed in range(400):
        view = raster.augment(value, "season", np.random.default_rng(seed))
        assert view.shape[:2] == (1, 3) and 12 <= max(view.shape[2:]) <= 24
        drawn.append(float(view[0, 0, 0, 0]))
    counts = [drawn.count(month) for month in value[:, 0, 0, 0].tolist()]
    assert sum(counts) == 400 and min(counts) > 70
    small = raster.augment(value, "season_local", np.random.default_rng(0))
    assert len(small) == 1 and max(small.shape[2:]) <= 12
    assert raster.known_view("season") == "season"
    other = modalities.make("text")
    assert (other.known_view("season"), other.known_view("season_local")) == ("strong", "local")


def test_a_crop_without_a_pixel_is_the_whole_date_and_not_all_dates():
    raster, value = seasons()
    value[:, 1:] = np.nan
    value[:, 1:, 0, 0] = 1.0
    views = [raster.augment(value, "season", np.random.default_rng(seed)) for seed in range(20)]
    assert all(len(view) == 1 and np.isfinite(view[:, 1:]).any() for view in views)


def test_two_seasons_of_a_batch_are_of_one_place():
    from amodal import data
    from amodal.data.loader import Loader

    raster, _ = seasons()
    days = [f"2020-{month}-05" for month in ("01", "04", "07", "10")]
    pixels = np.random.default_rng(0).normal(size=(8, 4, 2, 24, 24)).astype(np.float32)
    values = [{"values": p, "dates": days} for p in pixels]
    dataset = data.open({"s2": values}, fields={"s2": raster})
    loader = Loader(dataset, range(8), batch=8, views={"s2": ("season", "season")})
    batch, _ = loader.load(0)
    dates = [
        [part[:, 0].unique().tolist() for part in batch.columns[source].values.split()]
        for source in ("s2:1", "s2:2")
    ]
    assert all(len(one) == 1 for of_view in dates for one in of_view)
    pairs = set(zip(*(tuple(map(tuple, of_view)) for of_view in dates)))
    assert any(one != two for one, two in pairs)


class OneByOne:
    """Pixels that are read date by date."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.ndim = pixels, pixels.shape, pixels.ndim
        self.dtype = pixels.dtype

    def __len__(self):
        return len(self.pixels)

    def at_dates(self, dates):
        return self.pixels[list(dates)]

    def __array__(self, dtype=None, copy=None):
        return self.pixels.astype(dtype or np.float32)


@pytest.mark.parametrize("unknown", [False, True])
def test_dates_that_are_read_alone_are_those_of_the_whole(unknown):
    pixels = np.random.default_rng(0).normal(size=(4, 1, 4, 4)).astype(np.float32)
    days = ["2020-05-01", "" if unknown else "2020-04-01", "2020-07-01", "2020-02-01"]
    raster = modalities.make("raster", bands=("x",), size=4, patch=2, dates=2)
    whole, alone = (raster.decode({"values": p, "dates": days}) for p in (pixels, OneByOne(pixels)))
    np.testing.assert_array_equal(whole, alone)
