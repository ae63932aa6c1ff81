"""Shards in the layout of SSL4EO-S12 v1.1 (`ssl4eo_s12_v11`), against xarray and zarr."""

import json
import pickle
import zipfile

import numpy as np
import pytest

from amodal import cli
from amodal import data as records
from amodal.core import AmodalError
from amodal.data.loader import Loader
from amodal.data.readers import _zarr
from amodal.data.readers._zarr import ZarrZip, blosc_part
from amodal.data.readers.zarr_shards import covered
from amodal.modalities import BadValue
from tests.modalities.test_raster import tiff

numcodecs = pytest.importorskip("numcodecs")
zarr = pytest.importorskip("zarr")
xarray = pytest.importorskip("xarray")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SIDE, DATES = 40, 4
OPTICAL, RADAR = ("B02", "B03", "B04"), ("vv", "vh")


def shard(path, ids, bands, *, seed=0, mask=True, chunk=None, **options):
    """A file as the authors' example shows it, by xarray."""
    rng = np.random.default_rng(seed)
    shape = (len(ids), DATES, len(bands), SIDE, SIDE)
    # each sample by its own number, so that it is known wherever it stands
    base = np.array([int(i) for i in ids])[:, None, None, None, None] * 10
    numbers = base + 1000 * np.arange(DATES)[:, None, None, None] + rng.integers(0, 9, shape)
    kind = "i2" if mask else "f2"
    days = np.array(["2020-01-05T02:30:01", "2020-04-01", "2020-07-10", "2020-10-31"], "M8[ns]")
    first = np.array([500_000.0 + 10_000 * int(i) for i in ids])
    content = {
        "bands": (("sample", "time", "band", "y", "x"), numbers.astype(kind)),
        "center_lat": (("sample",), np.array([float(i) for i in ids])),
        "center_lon": (("sample",), np.array([float(i) / 2 for i in ids])),
        "crs": (("sample",), np.full(len(ids), 32633)),
        "file_id": (("sample", "time"), np.full((len(ids), DATES), "20201116T023001")),
        "time_": (("sample", "time"), np.stack([days] * len(ids))),
        "x_": (("sample", "x"), first[:, None] + 10 * np.arange(SIDE)),
        "y_": (("sample", "y"), 5e6 - 10 * np.arange(SIDE) + np.zeros((len(ids), 1))),
    }
    if mask:
        clouds = np.zeros((len(ids), DATES, SIDE, SIDE), "u1")
        clouds[:, 1, :10] = 4
        clouds[:, 2, :, :20] = 2  # snow
        content["cloud_mask"] = ("sample", "time", "y", "x"), clouds
    made = xarray.Dataset(
        content, {"sample": list(ids), "band": list(bands), "time": np.arange(DATES)}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    store = zarr.storage.ZipStore(path, mode="w")
    chunks = chunk or (len(ids), 1, len(bands), SIDE, SIDE)
    made.to_zarr(store, zarr_format=2, encoding={"bands": {"chunks": chunks} | options})
    store.close()
    return made


def layout(root, *, radar_ids=("3", "1", "2")):
    """Two modalities, two parts; the second modality has its samples in another order."""
    name = "ssl4eos12_{}_seasonal_data_{:06d}.zarr.zip"
    made = {}
    for part, number, ids in (
        ("train", 1, ("1", "2", "3")),
        ("train", 2, ("4", "5")),
        ("val", 1, ("6", "7")),
    ):
        file = name.format(part, number)
        other = radar_ids if ids[0] == "1" else ids[::-1]
        made["S2L2A", file] = shard(root / part / "S2L2A" / file, ids, OPTICAL)
        made["S1GRD", file] = shard(root / part / "S1GRD" / file, other, RADAR, mask=False)
    return made


def test_the_values_are_those_of_xarray_and_clouds_are_missing(tmp_path):
    made = layout(tmp_path)
    dataset = records.open(tmp_path)
    assert list(dataset.fields) == ["S1GRD", "S2L2A"] and dataset.keys == [*"1234567"]
    assert [len(dataset.split(p)) for p in ("train", "valid", "test")] == [5, 2, 0]
    optical = dataset.fields["S2L2A"]
    assert (optical.bands, optical.dates, optical.size, optical.resolution) == (
        OPTICAL,
        4,
        SIDE,
        10,
    )
    for (field, _), whole in made.items():
        for i, key in enumerate(whole["sample"].values):
            pixels = whole["bands"].values[i].astype(np.float32)
            if field == "S2L2A":
                pixels[1, :, :10] = np.nan
            value = dataset.value(dataset.keys.index(key), field)
            np.testing.assert_array_equal(value[:, 1:], pixels)
    raw = dataset.raw(0, "S2L2A")
    assert raw["dates"] == ["2020-01-05", "2020-04-01", "2020-07-10", "2020-10-31"]
    assert raw["crs"] == "EPSG:32633" and raw["transform"] == (10, 0, 509_995, 0, -10, 5_000_005)
    assert dataset.fields["S2L2A"].footprint(raw)[2:] == (SIDE, SIDE)
    assert set(dataset.labels) == {"center_lat", "center_lon"}
    assert dataset.label("center_lat").tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert "cloud_mask" in dataset.reader.notes[0] and len(dataset.reader.notes) == 1


def test_numbers_are_decoded_as_xarray_does(tmp_path):
    path = tmp_path / "S2L2A" / "a.zarr.zip"
    shard(
        path,
        ["1"],
        OPTICAL,
        mask=False,
        dtype="i2",
        _FillValue=-9999,
        scale_factor=0.5,
        add_offset=3,
    )
    with zipfile.ZipFile(path) as archive:
        whole = archive.read("bands/0.2.0.0.0") if "bands/0.2.0.0.0" in archive.namelist() else b""
    assert whole, "each date is a chunk"
    # a date that nobody wrote: the chunk of it is left out
    cut = tmp_path / "cut" / "S2L2A" / "a.zarr.zip"
    cut.parent.mkdir(parents=True)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(cut, "w") as copy:
        for name in archive.namelist():
            if name != "bands/0.2.0.0.0":
                copy.writestr(name, archive.read(name))
    theirs = xarray.open_zarr(zarr.storage.ZipStore(cut, mode="r"), consolidated=False)["bands"]
    assert np.isnan(theirs.values[0, 2]).all() and np.isfinite(theirs.values[0, 1]).all()
    (raw,) = records.open(tmp_path / "cut").reader.cells("S2L2A")
    ours = np.asarray(raw["values"], np.float32)
    assert np.allclose(ours, theirs.values[0], equal_nan=True)


def test_records_are_joined_by_their_names(tmp_path):
    layout(tmp_path, radar_ids=("3", "9", "1"))
    dataset = records.open(tmp_path)
    assert dataset.present("S1GRD").tolist() == [key != "2" for key in dataset.keys]
    assert dataset.present("S2L2A").tolist() == [key != "9" for key in dataset.keys]
    for i, key in enumerate(dataset.keys):
        if key != "2":
            assert dataset.value(i, "S1GRD")[0, 1:].min() // 10 == int(key)
    assert "other samples in one modality" in dataset.reader.notes[1]


def test_one_date_is_read_alone(tmp_path, monkeypatch):
    layout(tmp_path)
    dataset = records.open(tmp_path)
    one = dataset.with_fields({"S2L2A": type(dataset.fields["S2L2A"])(bands=OPTICAL, size=SIDE)})
    whole = dataset.value(0, "S2L2A")
    read = []
    original = ZarrZip.read
    monkeypatch.setattr(
        ZarrZip,
        "read",
        lambda self, name, *place: read.append((name, place)) or original(self, name, *place),
    )
    np.testing.assert_array_equal(one.value(0, "S2L2A"), whole[:1])
    assert [at for name, at in read if name == "bands"] == [(0, 0)]


@pytest.mark.parametrize("codec", ["blosc", "zstd", "none"])
@pytest.mark.parametrize("chunk", [(3, 1, 3, 40, 40), (2, 2, 2, 16, 24), (1, 4, 3, 40, 40)])
def test_chunks_and_codecs_of_any_kind(tmp_path, codec, chunk):
    made = numcodecs.Zstd() if codec == "zstd" else None
    options = {} if codec == "blosc" else {"compressors": made}
    whole = shard(
        tmp_path / "S2" / "a.zarr.zip", "123", OPTICAL, chunk=chunk, mask=False, **options
    )
    archive = ZarrZip.open(tmp_path / "S2" / "a.zarr.zip")
    for i in range(3):
        np.testing.assert_array_equal(archive.read("bands", i), whole["bands"].values[i])
        np.testing.assert_array_equal(archive.read("bands", i, 2), whole["bands"].values[i, 2])


@pytest.mark.parametrize("name", ["lz4", "zstd", "blosclz", "zlib"])
def test_parts_of_what_blosc_compressed(name):
    rng = np.random.default_rng(0)
    for shuffle in range(3):
        for size, block in ((100, 0), (70_001, 4096), (70_001, 0), (300_000, 65_536)):
            numbers = (rng.integers(0, 50, size).cumsum() % 3000).astype("i2")
            packed = numcodecs.Blosc(name, 5, shuffle, block).encode(numbers)
            raw = numbers.tobytes()
            for _ in range(20):
                start = int(rng.integers(len(raw)))
                count = int(rng.integers(1, len(raw) - start + 1))
                assert blosc_part(memoryview(packed), start, count) == raw[start : start + count]
            assert blosc_part(memoryview(packed), len(raw) - 2, 2) == raw[-2:]
            with pytest.raises(ValueError, match="expected"):
                blosc_part(memoryview(packed), len(raw), 2)


def test_an_index_of_blocks_that_leads_out_of_the_chunk_is_damaged():
    packed = numcodecs.Blosc("lz4", 5, 1, 4096).encode(np.arange(70_000, dtype="i4"))
    for block in (0, 2, 4):
        for begin in (0, 2**31, len(packed)):
            changed = bytearray(packed)
            changed[16 + 4 * block : 20 + 4 * block] = begin.to_bytes(4, "little")
            with pytest.raises(ValueError, match="begins beyond"):
                blosc_part(memoryview(changed), 0, 100)
    changed = bytearray(packed)
    changed[8:12] = (1).to_bytes(4, "little")
    with pytest.raises(ValueError, match="an index of 280,000 blocks"):
        blosc_part(memoryview(changed), 0, 100)


def test_half_a_shard_ends_in_quarantine_and_the_rest_is_read(tmp_path):
    layout(tmp_path)
    name = "ssl4eos12_train_seasonal_data_{:06d}.zarr.zip"
    broken = tmp_path / "train" / "S1GRD" / name.format(1)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    dataset = records.open(tmp_path)
    assert dataset.keys == [*"1234567"] and dataset.present("S1GRD").all()
    with pytest.raises(BadValue, match="damaged or half a file"):
        dataset.value(0, "S1GRD")
    assert dataset.value(3, "S1GRD") is not None and dataset.value(0, "S2L2A") is not None
    loader = Loader(dataset, dataset.split("train"), batch=5, shuffle=False)
    (batch,) = loader
    assert len(batch.columns["S1GRD"]) == 2 and len(batch.columns["S2L2A"]) == 5
    assert {bad.key for bad in loader.bad} == {*"123"}
    # no modality says which records were in it
    other = tmp_path / "train" / "S2L2A" / name.format(1)
    other.write_bytes(b"")
    dataset = records.open(tmp_path)
    assert dataset.keys == [*"4567", "train/" + name.format(1)]
    with pytest.raises(BadValue, match="Copy it anew"):
        dataset.value(4, "S2L2A")
    for path in tmp_path.rglob("*.zarr.zip"):
        path.write_bytes(b"PK")
    with pytest.raises(AmodalError, match="no shard in .* can be read"):
        records.open(tmp_path)


@pytest.mark.parametrize("offset, value", [(6, 0xE8), (10, 0x5D)])
def test_a_directory_of_another_kind_of_zip_is_a_sentence(tmp_path, offset, value):
    """Version and compression as the central directory says them: found by fuzzing."""
    path = tmp_path / "train" / "S2" / "a.zarr.zip"
    shard(path, ("1", "2"), OPTICAL)
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")
    while entry >= 0:
        content[entry + offset] = value
        entry = content.find(b"PK\x01\x02", entry + 4)
    path.write_bytes(bytes(content))
    with pytest.raises((AmodalError, BadValue), match="damaged or half a file"):
        dataset = records.open(tmp_path)
        for row in range(len(dataset)):
            dataset.value(row, "S2")


def test_a_chunk_that_is_cut_off_is_one_bad_value(tmp_path):
    shard(tmp_path / "S2" / "a.zarr.zip", "123", OPTICAL)
    path = tmp_path / "S2" / "a.zarr.zip"
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    content["bands/0.2.0.0.0"] = content["bands/0.2.0.0.0"][:100]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    archive = ZarrZip.open(path)
    assert archive.read("bands", 1, 1).shape == (3, SIDE, SIDE)
    with pytest.raises(_zarr.Damaged, match="bands/0.2.0.0.0"):
        archive.read("bands", 1, 2)


def rewritten(path, entry, change):
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    content[entry] = json.dumps(change(json.loads(content[entry]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compressor": {"id": "pickle"}}, "codec 'pickle'"),
        ({"filters": [{"id": "pickle"}]}, "filters"),
        ({"dtype": "|O"}, "objects of Python"),
        ({"chunks": [2, 2]}, "chunks"),
        ({"chunks": [10**6, 10, 10**3, 10**3, 10**3]}, "more than"),
        ({"shape": [9, 4, 3, 40, 40]}, "for 3 samples"),
        ({"dtype": "nonsense"}, "nonsense"),
    ],
)
def test_what_a_file_may_not_ask_for(tmp_path, change, message):
    path = tmp_path / "S2" / "a.zarr.zip"
    shard(path, "123", OPTICAL)
    rewritten(path, "bands/.zarray", lambda meta: meta | change)
    with pytest.raises(AmodalError, match=message):
        records.open(tmp_path)


def test_a_record_twice_and_another_format_are_one_sentence(tmp_path):
    shard(tmp_path / "a" / "S2" / "x.zarr.zip", "12", OPTICAL)
    shard(tmp_path / "a" / "S2" / "y.zarr.zip", "23", OPTICAL)
    with pytest.raises(AmodalError, match="the sample '2' is in .*x.zarr.zip and in .*y.zarr.zip"):
        records.open(tmp_path / "a")
    shard(tmp_path / "b" / "train" / "S2" / "x.zarr.zip", "12", OPTICAL)
    shard(tmp_path / "b" / "val" / "S1" / "x.zarr.zip", "2", RADAR, mask=False)
    with pytest.raises(AmodalError, match="a record is in one part"):
        records.open(tmp_path / "b")
    path = tmp_path / "c" / "S2" / "x.zarr.zip"
    path.parent.mkdir(parents=True)
    with zarr.storage.ZipStore(path, mode="w") as store:
        zarr.create_group(store, zarr_format=3).create_array("sample", data=np.arange(3))
    with pytest.raises(AmodalError, match="zarr_format=2"):
        records.open(tmp_path / "c")


def test_classes_of_a_mask():
    classes = np.arange(7)
    assert covered(classes, {}).tolist() == [False] * 3 + [True] * 4
    named = {"flag_values": [0, 1], "flag_meanings": "clear thin_cloud"}
    assert covered(np.array([0, 1]), named).tolist() == [False, True]
    assert covered(np.array([True, False]), {}).tolist() == [True, False]


def made_dataset():
    """Rasters of two dates with gaps, in each of the types of a shard."""
    rng = np.random.default_rng(0)
    whole = rng.integers(-5, 4000, (6, 2, 3, 16, 16)).astype(np.float32)
    whole[1, 1, :, :4] = np.nan  # of all bands
    half = rng.normal(size=(6, 2, 2, 8, 8)).astype(np.float16).astype(np.float32)
    partly = rng.normal(size=(6, 1, 2, 8, 8)).astype(np.float32)
    partly[2, 0, 1, 3] = np.nan
    dates = ["2020-02-29", "2021-12-31"]
    columns = {
        "s2": [{"values": v, "dates": dates, "bands": list(OPTICAL)} for v in whole],
        "s1": [{"values": v, "dates": dates, "bands": list(RADAR)} for v in half],
        "other": [*partly],
        "lat": [1.5, 2.5, 3.5, 4.5, 5.5, 6.5],
        "lon": [0.5, 0.5, 0.5, 1.0, 1.0, 2.0],
        "split": ["train", "train", "train", "train", "valid", "test"],
    }
    columns["s1"][3] = None
    kinds = dict.fromkeys(("s2", "s1", "other"), "raster")
    return records.open(columns, fields=kinds)


def test_what_is_written_is_read_back(tmp_path):
    dataset = made_dataset()
    files = records.write_zarr(dataset, tmp_path / "out", samples=3, name="mine")
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in files)[:3] == [
        "test/other/mine_test_000001.zarr.zip",
        "test/s1/mine_test_000001.zarr.zip",
        "test/s2/mine_test_000001.zarr.zip",
    ]
    written = records.open(tmp_path / "out")
    assert written.keys == dataset.keys and written.parts.tolist() == dataset.parts.tolist()
    for field in ("s2", "s1", "other"):
        assert written.present(field).tolist() == dataset.present(field).tolist()
        for i in range(6):
            one, two = dataset.value(i, field), written.value(i, field)
            assert (one is None) == (two is None)
            if one is not None:
                np.testing.assert_array_equal(one, two)
        assert written.fields[field].bands == dataset.fields[field].bands
    np.testing.assert_array_equal(written.label("center_lat"), dataset.label("lat"))
    types = {
        field: ZarrZip.open(tmp_path / f"out/train/{field}/mine_train_000001.zarr.zip")
        .array("bands")
        .dtype.str
        for field in ("s2", "s1", "other")
    }
    assert types == {"s2": "<i2", "s1": "<f2", "other": "<f4"}
    with pytest.raises(AmodalError, match="no empty folder"):
        records.write_zarr(dataset, tmp_path / "out")


def test_xarray_reads_what_is_written(tmp_path):
    dataset = made_dataset()
    records.write_zarr(dataset, tmp_path / "out", name="mine")
    path = tmp_path / "out/train/s2/mine_train_000001.zarr.zip"
    opened = xarray.open_zarr(zarr.storage.ZipStore(path, mode="r"))
    assert opened["bands"].dims == ("sample", "time", "band", "y", "x")
    assert opened["bands"].encoding["chunks"] == (4, 1, 3, 16, 16)
    assert opened["sample"].values.tolist() == ["0", "1", "2", "3"]
    assert opened["time_"].values.astype("M8[D]").astype(str)[0].tolist() == [
        "2020-02-29",
        "2021-12-31",
    ]
    value = dataset.value(1, "s2")[:, 1:]
    mask = opened["cloud_mask"].values[1]
    assert (mask == np.where(np.isnan(value).all(1), 6, 0)).all() and mask.any()
    np.testing.assert_array_equal(opened["bands"].values[1], np.nan_to_num(value))


def test_files_of_places_become_shards_with_places(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pixels = np.random.default_rng(0).integers(1, 900, (3, 2, 16, 16)).astype(np.uint16)
    raws = [tiff(p, ("B03", "B04"), date="2020-07-16") for p in pixels]
    dataset = records.open({"s2": raws, "id": ["a", "b", "c"]})
    records.write_zarr(dataset, tmp_path / "out")
    written = records.open(tmp_path / "out")
    raw = written.raw(0, "s2")
    with rasterio.io.MemoryFile(raws[0]) as memory, memory.open() as file:
        assert raw["transform"] == tuple(file.transform)[:6] and raw["crs"] == file.crs.to_string()
    np.testing.assert_array_equal(written.value(0, "s2"), dataset.value(0, "s2"))


def test_values_that_fit_no_shard(tmp_path):
    data = records.open(
        {"x": [np.zeros((1, 1, 8, 8)), np.ones((1, 1, 9, 8))]}, fields={"x": "raster"}
    )
    data = data.with_parts(np.zeros(2, dtype=np.int8))
    with pytest.raises(AmodalError, match="have the same dates, bands and sides; '0' has"):
        records.write_zarr(data, tmp_path / "out")
    with pytest.raises(AmodalError, match="has no rasters"):
        records.write_zarr("digits", tmp_path / "other")


def test_a_copy_of_a_dataset_and_a_pack_have_the_same_values(tmp_path):
    layout(tmp_path / "data")
    dataset = records.open(tmp_path / "data")
    written = pickle.loads(pickle.dumps(dataset))
    packed = records.open(records.pack(dataset, tmp_path / "pack"))
    for i in range(len(dataset)):
        for field in dataset.fields:
            value = dataset.value(i, field)
            np.testing.assert_array_equal(written.value(i, field), value)
            np.testing.assert_array_equal(packed.value(i, field), value)
    assert packed.fields["S2L2A"].footprint(packed.raw(0, "S2L2A")) is not None


def test_the_commands(tmp_path, capsys):
    layout(tmp_path / "data")
    cli.main(["init", str(tmp_path / "data")])
    printed = capsys.readouterr().out
    assert "S2L2A" in printed and "cloud_mask covers" in printed and "7 records" in printed
    assert records.open(tmp_path / "data").fields["S2L2A"].bands == OPTICAL
    cli.main(["data", "zarr", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    assert "wrote 4 files" in capsys.readouterr().out
    one, two = (records.open(tmp_path / name) for name in ("data", "out"))
    np.testing.assert_array_equal(one.value(6, "S1GRD"), two.value(6, "S1GRD"))
