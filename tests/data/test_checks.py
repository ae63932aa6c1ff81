"""`amodal data check`: shifts, gaps, grids, places and copies across the split."""

import json

import numpy as np
import pytest

from amodal import cli
from amodal.core import AmodalError
from amodal.data import open as open_data
from amodal.data.checks import check
from amodal.data.checks.places import Boxes, neighbours
from amodal.modalities import BadValue, make
from tests.data.test_registration import ground
from tests.modalities.test_raster import tiff

rasterio = pytest.importorskip("rasterio")

SIDE = 32


def pair(seed, move=(0, 0), *, corner=(500_000, 5_000_000)):
    """GeoTIFFs of one place: two bands of 10 m, and one of 20 m that lies `move` of its pixels off
    where it says."""
    picture = ground(seed)
    fine = np.stack([picture, -picture])[:, 40 : 40 + SIDE, 40 : 40 + SIDE]
    top, left = (40 - 2 * m for m in move)
    window = picture[top : top + SIDE, left : left + SIDE]
    coarse = window.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))[None]
    return (
        placed(fine.astype(np.float32), ("B03", "B04"), 10.0, corner),
        placed(50 - coarse.astype(np.float32), ("vv",), 20.0, corner),
    )


def placed(pixels, bands, metres, corner, **options):
    data = tiff(pixels, bands, metres=metres, **options)
    with rasterio.io.MemoryFile(data) as memory:
        with memory.open() as file:
            profile, names = file.profile, file.descriptions
    profile["transform"] = rasterio.transform.from_origin(*corner, metres, metres)
    with rasterio.io.MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(pixels)
            for i, name in enumerate(names):
                file.set_band_description(i + 1, name)
        return memory.read()


def apart(i):
    """A place that touches no other."""
    return 500_000 + 1000 * i, 5_000_000


def made(moves, *, part=None, corners=apart):
    both = [pair(i, move, corner=corners(i)) for i, move in enumerate(moves)]
    columns = {"optical": [a for a, _ in both], "radar": [b for _, b in both]}
    columns["split"] = part or ["train", "valid", "test", "train"] * (len(moves) // 4)
    return columns


def test_a_shift_of_three_pixels_is_found_within_one_and_a_good_pair_is_silent():
    found = check(made([(3, 0)] * 12))
    (shift,) = found.shifts
    assert abs(shift.down - 3) < 0.5 and abs(shift.right) < 0.5 and shift.metres == 20
    low, high = shift.interval[0]
    assert low <= shift.down <= high and high - low < 1
    assert [f.kind for f in found.faults] == ["misregistration"]
    assert "radar lies off optical by +" in str(found) and "20 m" in str(found)
    good = check(made([(0, 0)] * 12))
    assert good.findings == () and "no fault found" in str(good)
    assert abs(good.shifts[0].down) < 0.5 and abs(good.shifts[0].right) < 0.5


def test_files_that_say_where_they_lie_are_compared_there():
    """The coarse grid begins 10 m further west, as those of Sentinel-2 do."""
    columns = made([(0, 0)] * 12)
    picture = [ground(i) for i in range(12)]
    columns["radar"] = [
        placed(
            p[40 : 40 + SIDE, 39 : 39 + SIDE].reshape(16, 2, 16, 2).mean((1, 3))[None].astype("f4"),
            ("vv",),
            20.0,
            (apart(i)[0] - 10, apart(i)[1]),
        )
        for i, p in enumerate(picture)
    ]
    (shift,) = check(columns).shifts
    assert shift.known and abs(shift.down) < 0.2 and abs(shift.right) < 0.2


def test_arrays_without_a_place_show_the_same_ground():
    columns = {"a": [], "b": []}
    for i in range(8):
        p = ground(i)
        columns["a"].append(p[None, 40:72, 40:72].astype("f4"))
        columns["b"].append(p[None, 40:72, 38:70].astype("f4"))
    data = open_data(columns, fields={"a": "raster", "b": "raster"})
    (shift,) = check(data).shifts
    assert shift.right == pytest.approx(2, abs=0.3) and shift.shifted


def test_records_that_are_off_each_in_its_own_direction():
    moves = [(4, 0), (-4, 0), (0, 4), (0, -4)] * 3
    picture = [ground(i, 320) for i in range(12)]
    data = {
        "a": [p[None, 40:136, 40:136].astype("f4") for p in picture],
        "b": [
            p[None, 40 - y : 136 - y, 40 - x : 136 - x].astype("f4")
            for p, (y, x) in zip(picture, moves)
        ],
    }
    found = check(open_data(data, fields={"a": "raster", "b": "raster"}))
    assert "each in its own direction" in found.faults[0].text
    assert len(found.faults[0].keys) == 12


def test_what_is_flat_is_counted_and_few_records_say_nothing():
    columns = made([(3, 0)] * 4)
    columns["radar"][0] = placed(np.ones((1, 16, 16), "f4"), ("vv",), 20.0, apart(0))
    (shift,) = check(columns).shifts
    assert (shift.records, shift.flat, shift.known) == (3, 1, False)
    assert "too few records" in str(check(columns))


def test_bands_resolutions_systems_dates_and_gaps_that_differ():
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 4000, (2, 16, 16)).astype(np.uint16)
    raws = [tiff(pixels, ("B03", "B04")) for _ in range(6)]
    raws[1] = tiff(pixels, ("B03", "B08"))
    raws[2] = tiff(pixels, ("B03", "B04"), metres=20.0)
    raws[3] = tiff(pixels, ("B03", "B04"), crs="EPSG:32634")
    pixels = pixels.copy()
    pixels[:, :4] = 0
    raws[4] = tiff(pixels, ("B03", "B04"), nodata=0)
    raws[5] = tiff(pixels, ("B03", "B04"))
    kinds = {f.kind: f for f in check({"s2": raws, "split": ["train"] * 6}).findings}
    assert "B03, B08 in 1, '1' for one" in kinds["bands"].text and kinds["bands"].fault
    assert "20 m in 1, '2' for one" in kinds["resolutions"].text
    assert not kinds["coordinate systems"].fault
    assert "4% of the pixels of s2 are 0" in kinds["no data"].text
    found = check({"s2": raws, "split": ["train"] * 6})
    assert found.missing["s2"] == pytest.approx((0.25 / 6,)) and "4.2%" in str(found)


def test_dates_that_are_not_in_order():
    values = np.random.default_rng(0).normal(size=(3, 1, 16, 16)).astype("f4")
    good = {"values": values, "dates": ["2020-01-01", "2020-04-01", "2020-07-01"]}
    bad = good | {"dates": ["2020-04-01", "2020-01-01", "2020-07-01"]}
    empty = {
        "values": values * np.array([1, np.nan, 1])[:, None, None, None],
        "dates": good["dates"],
    }
    data = open_data({"x": [good, bad, good, empty]}, fields={"x": "raster"})
    found = check(data)
    assert [f.keys for f in found.faults if f.kind == "dates"] == [("1",)]
    assert found.missing["x"] == pytest.approx((0, 0.25, 0))


def test_records_of_two_parts_on_one_ground():
    def corners(i):
        return [apart(0), (500_000 + 160, 5_000_000), (500_000 + 480, 5_000_000), apart(3)][i]

    found = check(made([(0, 0)] * 4, part=["train", "valid", "test", "train"], corners=corners))
    kinds = {(f.kind, f.fault): f.keys for f in found.findings}
    assert kinds == {("overlap", True): ("1",), ("touch", False): ("2",)}
    assert "'1' and '0' for one" in found.faults[0].text


def test_boxes_against_every_pair():
    rng = np.random.default_rng(0)

    def boxes(n):
        corner = rng.integers(0, 40, (n, 2)).astype(float)
        return Boxes(np.arange(n), np.hstack([corner, corner + rng.integers(1, 4, (n, 2))]))

    first, second = boxes(60), boxes(50)
    over, beside = neighbours(first, second)
    for j, (a, b, c, d) in enumerate(second.corners):
        shared = [(min(c, z) - max(a, x), min(d, w) - max(b, y)) for x, y, z, w in first.corners]
        assert (j in over) == any(x > 0 and y > 0 for x, y in shared)
        assert (j in beside) == (j not in over and any(x >= 0 and y >= 0 for x, y in shared))


def test_places_in_columns():
    rng = np.random.default_rng(0)
    columns = {
        "value": [rng.normal(size=(5, 16, 16)).astype("f4") for _ in range(4)],
        "center_lat": [10.0, 10.0, 20.0, 30.0],
        "center_lon": [5.0, 5.0, 6.0, 7.0],
        "split": ["train", "test", "valid", "train"],
    }
    found = check(open_data(columns, fields={"value": "raster"}))
    assert [(f.kind, f.keys) for f in found.faults] == [("overlap", ("1",))]


def test_copies_across_the_split_of_data_of_any_kind():
    texts = [f"a sentence of its own about the number {i}" for i in range(40)]
    texts[7] = texts[3]
    parts = ["train"] * 20 + ["valid"] * 10 + ["test"] * 10
    parts[7] = "test"
    found = check({"text": texts, "split": parts})
    assert [(f.kind, f.keys) for f in found.faults] == [("copies", ("7",))]
    assert "amodal curate" in str(found) and found.shifts == ()
    # one field alone is worth a look and no fault
    other = [f"another one with {i} words" for i in range(40)]
    found = check({"text": texts, "other": other, "split": parts})
    assert found.faults == () and "one field (text of 1)" in found.findings[0].text


def folder(path, moves):
    """A table of files below a folder."""
    rows = made(moves)
    for name in ("optical", "radar"):
        (path / name).mkdir(parents=True)
        for i, raw in enumerate(rows[name]):
            (path / name / f"{i}.tif").write_bytes(raw)
    lines = [f"optical/{i}.tif,radar/{i}.tif,{part}" for i, part in enumerate(rows["split"])]
    table = path / "tiles.csv"
    table.write_text("\n".join(["optical,radar,split", *lines]), encoding="utf-8")
    return str(table)


def test_the_command(tmp_path, capsys):
    out = tmp_path / "check.json"
    bad, good = folder(tmp_path / "bad", [(3, 0)] * 8), folder(tmp_path / "good", [(0, 0)] * 8)
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "check", bad, "--json", str(out)])
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "fault, misregistration" in printed and f"wrote {out}" in printed
    numbers = json.loads(out.read_text(encoding="utf-8"))
    assert numbers["faults"] == 1 and numbers["shifts"][0]["down"] == pytest.approx(3, abs=0.5)
    cli.main(["data", "check", good])
    assert "no fault found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data check", "write `amodal data check DATA`"),
        ("data openmoji other", "a set has a name alone"),
        ("data check digits --records 0", "at least 1"),
        ("data check nothing-here", "nothing-here"),
        ("data zarr digits", "write `amodal data zarr DATA --out DIR`"),
        ("data openmoji --json x.json", "stands behind `amodal data check DATA`"),
    ],
)
def test_mistakes_on_the_command_line(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_records_must_be_a_number():
    with pytest.raises(AmodalError, match="whole number"):
        check({"x": ["a b c d e f", "b c d e f g"]}, records="all")
    with pytest.raises(AmodalError, match="seed at least 0"):
        check({"x": ["a b c d e f", "b c d e f g"]}, seed=-1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform": [0] * 6}, "no area"),
        ({"transform": ["a"] * 6}, "six numbers"),
        ({"transform": [1, 2]}, "six numbers"),
        ({"values": np.ones(4, np.float32)}, "1 dimensions are no raster"),
    ],
)
def test_places_that_are_none(changes, message):
    raw = {"values": np.ones((1, 4, 4), np.float32), "crs": "EPSG:32633"}
    raw |= {"transform": [10, 0, 0, 0, -10, 0]} | changes
    with pytest.raises(BadValue, match=message):
        make("raster", bands=("a",), size=4).footprint(raw)
