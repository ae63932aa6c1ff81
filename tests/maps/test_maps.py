"""`amodal map` from records to a folder: what is planted is located."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

import amodal
from amodal.cli import main
from amodal.core import AmodalError
from amodal.data import open as open_data
from amodal.maps import draw
from amodal.maps import map_records as run_map
from amodal.maps import values as values_of
from tests.maps.planted import RGB, SIDE, Halves, picture, planted, records, squares

QUERIES = "1=a red square,2=a green square,3=a blue square"
QUIET = {"progress": False, "pictures": 2}


def labels_of(maps, key):
    return np.asarray(Pillow.open(maps.path / "labels" / f"{key}.png"))


@pytest.fixture(scope="module")
def data():
    return records()


@pytest.fixture(scope="module")
def model(data):
    return planted(data)


@pytest.fixture(scope="module")
def located(model, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("maps") / "queries"
    return run_map(model, data, out, queries=QUERIES, label="mask", untrained=False, **QUIET)


def test_a_planted_square_has_the_label_of_its_query_and_no_other(located):
    _, masks, _ = squares()
    for key, mask in enumerate(masks):
        label = labels_of(located, str(key))
        assert label.shape == (SIDE, SIDE) and label.dtype == np.uint8
        assert (label[mask > 0] == mask[mask > 0] - 1).all()


def test_similarity_is_highest_in_the_square(located):
    pictures, masks, _ = squares()
    for key, mask in enumerate(masks):
        values = np.load(located.path / "values" / f"{key}.npy")
        assert values.shape == (3, 8, 8) and values.dtype == np.float32
        query = int(mask.max()) - 1
        inside = mask[::4, ::4] > 0
        assert values[query][inside].min() > 0.9 > values[query][~inside].max()


def test_the_figure_is_beside_pixels_and_chance(located):
    (score,) = located.scores
    assert list(score.values) == ["this map", "pixels", "chance"]
    assert score.values["this map"] == pytest.approx(1) == score.values["pixels"]
    assert score.values["chance"] == pytest.approx(0.2, abs=0.01)  # 1/9 / (1/3 + 1/3 - 1/9)
    assert "no better than pixels alone" in located.sentence
    assert "94% of the pixels do not count" in located.sentence


def test_files(located):
    names = {p.name for p in located.path.iterdir()}
    assert names == {
        *("maps.json", "table.csv", "table.parquet", "sheet.png"),
        *("values", "labels", "overlays", "similarity"),
    }
    assert len(list((located.path / "labels").iterdir())) == 6
    assert len(list((located.path / "overlays").iterdir())) == 2
    assert len(list((located.path / "similarity").iterdir())) == 6  # three queries of two records
    assert Pillow.open(located.path / "labels" / "0.png").mode == "P"
    summary = json.loads((located.path / "maps.json").read_text(encoding="utf-8"))
    assert summary["layers"] == ["a red square", "a green square", "a blue square"]
    assert summary["scores"][0]["values"] == dict(located.scores[0].values)
    with (located.path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["key"] for r in rows] == list("012345")
    shares = [[float(r[name]) for name in summary["layers"]] for r in rows]
    np.testing.assert_allclose(np.sum(shares, 1), 1)
    for key, share in enumerate(shares):
        label = labels_of(located, str(key))
        np.testing.assert_allclose(share, [(label == k).mean() for k in range(3)], atol=1e-6)
    assert pq.read_table(located.path / "table.parquet").num_rows == 6


def test_one_query_is_divided_by_a_threshold(model, data, tmp_path):
    maps = run_map(model, data, tmp_path / "m", queries=["a red square"], threshold=0.8, **QUIET)
    _, masks, _ = squares()
    for key, mask in enumerate(masks):
        red = mask == 1
        assert not labels_of(maps, str(key))[mask > 1].any()
        assert (labels_of(maps, str(key)) != red).mean() < 0.05
    assert maps.threshold == 0.8


def test_below_a_threshold_of_more_queries_a_pixel_has_no_label(model, data, tmp_path):
    maps = run_map(model, data, tmp_path / "m", queries=QUERIES, threshold=0.9, **QUIET)
    _, masks, _ = squares()
    for key, mask in enumerate(masks):
        label = labels_of(maps, str(key))
        inner = np.zeros_like(mask, bool)
        inner[1:-1, 1:-1] = True
        assert (label[inner & (mask == 0)] == 255).mean() > 0.9
        assert (label == 255).mean() > 0.85


@pytest.fixture(scope="module")
def halved():
    """Pictures of two plain halves, so that patches are of two kinds."""
    pictures, masks = [], []
    for i in range(5):
        pixels = np.full((SIDE, SIDE, 3), 10, np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        edge = 4 * (i + 2)
        pixels[:, edge:], mask[:, edge:] = (200, 180, 90), 1
        pictures.append(pixels)
        masks.append(mask)
    return open_data({"image": pictures, "mask": masks}), masks


def test_segments_are_what_is_alike(halved, tmp_path):
    data, masks = halved
    model = planted(data, fields=("image",))
    maps = run_map(model, data, tmp_path / "m", segments=2, label="mask", **QUIET)
    first = labels_of(maps, "0")
    turned = int(first[0, 0])  # clusters have no order
    for key, mask in enumerate(masks):
        label = labels_of(maps, str(key)) ^ turned
        wrong = label != mask
        assert wrong.mean() <= 1 / SIDE  # a column at the border, between middles of patches
        assert maps.rows[key][f"segment {1 ^ turned}"] == pytest.approx(mask.mean(), abs=0.04)
    assert list(maps.scores[0].values) == ["this map", "untrained", "pixels", "chance"]
    assert maps.scores[0].values["this map"] > 0.9
    components = np.asarray(Pillow.open(maps.path / "components" / "0.png")).astype(int)
    assert np.abs(components[:, 2] - components[:, -3]).max(1).min() > 100  # two colours
    assert np.abs(components[4, :4] - components[20, :4]).max() < 3


def change_records(light):
    """Three pairs: nothing new, a small square, a larger one; light is added to the later ones."""
    before, after, masks = [], [], []
    for side, added in zip((0, 8, 12), light):
        pixels, _ = picture("red", 20, 4)
        pixels = (pixels * 0.7).astype(np.uint8)
        changed, mask = pixels.copy(), np.zeros((SIDE, SIDE), np.uint8)
        changed[4 : 4 + side, 8 : 8 + side] = RGB["green"]
        mask[4 : 4 + side, 8 : 8 + side] = 255
        before.append(pixels)
        after.append((changed.astype(int) + added).clip(0, 255).astype(np.uint8))
        masks.append(mask)
    return open_data({"before": before, "after": after, "mask": masks}), masks


@pytest.mark.parametrize("light", [(0, 0, 0), (90, 0, 25)])
def test_change_is_where_a_square_is_new_whatever_the_light(light, tmp_path):
    data, masks = change_records(light)
    model = planted(records(), fields=("image",))
    maps = run_map(model, data, tmp_path / "m", change="before,after", label="mask", **QUIET)
    for key, mask in enumerate(masks):
        label = labels_of(maps, str(key))
        assert (label.astype(bool) != (mask > 0)).mean() < 0.05
        inner = np.zeros_like(mask, bool)
        inner[6:10, 10:14] = True  # the middle of both squares
        assert label[inner].all() == bool(mask[inner].all())
    assert [row["key"] for row in maps.rows] == ["2", "1", "0"]  # most changed first
    assert maps.rows[0]["changed"] == pytest.approx((masks[2] > 0).mean(), abs=0.05)
    assert maps.rows[2]["changed"] == 0
    names = [s.metric for s in maps.scores]
    assert names == ["F1", "IoU", "average precision", "AUROC"]
    for score in maps.scores:
        assert [*score.values][-3:] == ["pixels", "pixels, equalised", "chance"]
    assert maps.scores[0].values["this map"] > 0.85


def test_change_over_time_is_between_neighbours_of_one_place(tmp_path):
    frames = [picture("red", 20, 4)[0] for _ in range(5)]
    frames[3][4:12, 8:16] = RGB["green"]
    columns = {
        "view": frames,
        "site": ["north", "south", "north", "north", "alone"],
        "day": ["2024-05-02", "2024-05-01", "2024-03-01", "2024-07-09", "2024-05-01"],
    }
    data = open_data(columns, fields={"view": "image"})
    model = planted(records(), fields=("image",))
    maps = run_map(
        model, data, tmp_path / "m", change="view", by="site", time="day", threshold=0.5, **QUIET
    )
    assert [(r["before"], r["key"], r["site"]) for r in maps.rows] == [
        ("0", "3", "north"),
        ("2", "0", "north"),
    ]
    assert maps.rows[0]["changed"] > 0.05 and maps.rows[1]["changed"] == 0
    assert maps.rows[0]["day before"] == "2024-05-02"
    assert maps.left_out == 2


def test_learnt_classes_are_drawn_by_default(data, tmp_path):
    maps = run_map(planted(data, Halves), data, tmp_path / "m", **QUIET)
    assert maps.kind == "classes" and list(maps.layers) == ["class 0", "class 1"]
    label = labels_of(maps, "0")
    assert (label[:, :15] == 0).all() and (label[:, 17:] == 1).all()
    assert (maps.path / "probability" / "0.1.png").exists()


def test_maps_go_on_where_they_were_interrupted(model, data, tmp_path, monkeypatch):
    options = {"queries": QUERIES, "label": "mask", "untrained": False, **QUIET}
    compute, seen = values_of.item_grids, []

    def broken(*arguments):
        for part in compute(*arguments):
            yield part
            raise KeyboardInterrupt

    def counted(encoder, items, patches, device, places):
        seen.append(places.tolist())
        return compute(encoder, items, patches, device, places)

    monkeypatch.setattr("amodal.maps.dense.BATCH", 2)
    monkeypatch.setattr(values_of, "item_grids", broken)
    with pytest.raises(KeyboardInterrupt):
        run_map(model, data, tmp_path / "m", **options)
    written = sorted(p.name for p in (tmp_path / "m" / "values").iterdir())
    assert written == ["0.npy", "1.npy"]
    monkeypatch.setattr(values_of, "item_grids", counted)
    before = (tmp_path / "m" / "values" / "0.npy").stat().st_mtime_ns
    maps = run_map(model, data, tmp_path / "m", **options)
    assert seen == [[2, 3, 4, 5]]
    assert (tmp_path / "m" / "values" / "0.npy").stat().st_mtime_ns == before
    whole = run_map(model, data, tmp_path / "n", **options)
    assert whole.rows == maps.rows and whole.scores == maps.scores
    seen.clear()
    run_map(model, data, tmp_path / "m", **options)
    assert seen == []
    with pytest.raises(AmodalError, match=r"made otherwise \(queries differ\)"):
        run_map(model, data, tmp_path / "m", **{**options, "queries": "a cat,a dog"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x", encoding="utf-8")
    with pytest.raises(AmodalError, match="holds no maps"):
        run_map(model, data, tmp_path / "full", **options)


REFUSALS = [
    ({"queries": "a", "segments": 3}, "queries or segments, not both"),
    ({"segments": 1}, "2 to 250 segments, not 1"),
    ({"segments": 251}, "2 to 250 segments, not 251"),
    ({"segments": 240}, "240 segments are more than the"),
    ({"queries": " , "}, "no query"),
    ({"queries": "a,a"}, "two queries have the name 'a'"),
    ({"queries": "1=a,1=b"}, "two queries have the number 1"),
    ({"queries": "a", "templates": ["photo"]}, "needs one {}"),
    ({"templates": ["a {}"]}, "there are no queries"),
    ({"queries": "a", "text_field": "txt"}, "Did you mean text"),
    ({"field": "imag"}, "Did you mean image"),
    ({"label": "mas"}, "Did you mean mask"),
    ({"label": "text"}, "has a raster of labels in 'text'"),
    ({"change": "image"}, "BEFORE,AFTER"),
    ({"change": "image,image"}, "between image and itself"),
    ({"change": "image,imge"}, "Did you mean image"),
    ({"change": "image,text"}, "text is text, and maps are of image"),
    ({"change": "image", "by": "nothing", "time": "key"}, "no column"),
    ({"by": "a"}, "add change"),
    ({"change": "image,mask", "by": "x"}, "one field, by"),
    ({"threshold": 0.5}, "a threshold is of change"),
    ({"part": "tst"}, "Did you mean test"),
    ({"seed": -1}, "0 is the least"),
]


@pytest.mark.parametrize(("options", "words"), REFUSALS, ids=[w for _, w in REFUSALS])
def test_what_cannot_be_mapped_is_refused_before_anything_is_embedded(
    options, words, model, data, tmp_path, monkeypatch
):
    if "segments are more" not in words:  # how many patches differ shows in a sample

        def no_values(*arguments, **more):
            raise AssertionError("values were computed")

        monkeypatch.setattr(draw, "compute", no_values)
        monkeypatch.setattr(draw, "sample", no_values)
    with pytest.raises(AmodalError) as error:
        run_map(model, data, tmp_path / "m", progress=False, **options)
    assert words in str(error.value)


def test_pictures_of_unequal_sizes_are_refused(tmp_path):
    data = open_data(
        {"before": [np.zeros((32, 32, 3), "u1")] * 3, "after": [np.zeros((32, 40, 3), "u1")] * 3}
    )
    model = planted(records(), fields=("image",))
    with pytest.raises(AmodalError, match="before 32 x 32, the picture after 32 x 40"):
        run_map(model, data, tmp_path / "m", change="before,after", progress=False)


def test_encoders_without_places_are_refused(data, tmp_path):
    texts = planted(data, fields=("text",), backbone=False)
    with pytest.raises(AmodalError, match="this run has none: its fields are text"):
        run_map(texts, data, tmp_path / "m", progress=False)
    plain = planted(data, fields=("image",))
    with pytest.raises(AmodalError, match="no text field"):
        run_map(plain, data, tmp_path / "m", queries="a cat", progress=False)
    unaligned = planted(data)
    unaligned.method, unaligned.encoder.heads = None, None
    with pytest.raises(AmodalError, match="methods that have one are clip, siglip, dreamlip"):
        run_map(unaligned, data, tmp_path / "m", queries="a cat", progress=False)


def test_a_picture_that_cannot_be_read_is_left_out_by_name(tmp_path):
    pictures, _, captions = squares(3)
    folder = tmp_path / "data"
    folder.mkdir()
    for i, (pixels, caption) in enumerate(zip(pictures, captions)):
        Pillow.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption, encoding="utf-8")
    (folder / "1.png").write_bytes(b"no picture")
    data = open_data(folder)
    maps = run_map(planted(data), data, tmp_path / "m", queries=QUERIES, **QUIET)
    assert [r["key"] for r in maps.rows] == [data.keys[0], data.keys[2]]
    assert (
        list(maps.unreadable) == [data.keys[1]] and "1 pictures could not be read" in maps.sentence
    )


def test_the_verb(tmp_path, capsys):
    """With a method of amodal's own, from a folder to a folder."""
    pictures, _, captions = squares(8)
    folder = tmp_path / "data"
    folder.mkdir()
    for i, (pixels, caption) in enumerate(zip(pictures, captions)):
        Pillow.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption, encoding="utf-8")
    amodal.pretrain(
        "dreamlip", folder, tmp_path / "run", size="nano", steps=1, batch_size=4,
        progress=False, logger=None,
    )  # fmt: skip
    words = ["map", tmp_path / "run", "--data", folder, "--out", tmp_path / "m", "--pictures", "1"]
    main([*map(str, words), "--queries", "a red square,a blue square", "--template", "{} on black"])
    printed = capsys.readouterr().out
    assert "where 2 queries are in image of 8 records" in " ".join(printed.split())
    assert (tmp_path / "m" / "sheet.png").exists()
    with pytest.raises(SystemExit):
        main([*map(str, words), "--segments", "1"])
    assert "segments, not 1" in capsys.readouterr().err
