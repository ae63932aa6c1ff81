"""Recall by the size of what is asked for and by how much else there is."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from amodal_claims.sets import scenes
from PIL import Image

import amodal
from amodal.core import AmodalError, Column, Embeddings
from amodal.evaluate import Embedded, NotApplicable, Report, figures
from amodal.evaluate.object_sizes import area_of
from amodal.evaluate.protocols.small_objects import ranks_of, resampled, small_objects


def embedded(words, pictures, **more):
    n = len(words)
    z = Embeddings(
        {s: Column(v.float(), torch.arange(n)) for s, v in (("text", words), ("image", pictures))},
        n,
    )
    labels = {"area": np.linspace(0.005, 0.2, n)} | more.pop("labels", {})
    return Embedded([str(i) for i in range(n)], z, z, labels, **more)


def test_recall_is_that_of_a_loop_over_queries():
    g = torch.Generator().manual_seed(0)
    pictures = torch.randn(40, 8, generator=g)
    words = pictures + 1.2 * torch.randn(40, 8, generator=g)
    test = embedded(words, pictures, labels={"count": np.arange(40.0) % 9})
    found = small_objects(None, test)
    cosine = torch.nn.functional.cosine_similarity(words[:, None], pictures[None], dim=2)
    rank = (cosine > cosine.diagonal()[:, None]).sum(1)
    area, count = test.labels["area"], test.labels["count"]
    for name, part in (
        ("all", area > 0),
        ("covering 3 % to 10 % of the picture", (area >= 0.03) & (area < 0.1)),
        ("covering from 10 % of the picture", area >= 0.1),
        ("2 to 4 things in the picture", (count >= 2) & (count < 4)),
        ("from 8 things in the picture", None),
    ):
        if part is None:
            assert not any(r["target"] == name for r in found.rows), "too few queries"
            continue
        for k in (1, 5, 10):
            assert found.value("one", f"recall@{k}", target=name) == pytest.approx(
                float((rank < k)[part].float().mean())
            )
    row = next(r for r in found.rows if r["target"] == "all" and r["metric"] == "recall@1")
    assert row["interval"][0] < row["value"] < row["interval"][1] and row[
        "chance"
    ] == pytest.approx(1 / 40)
    assert found.spec["gallery"] == found.spec["queries"] == 40 and "multi_vector" not in found.spec


def test_equal_pictures_are_merged_and_equal_words_have_many_matches():
    g = torch.Generator().manual_seed(1)
    pictures = torch.randn(6, 8, generator=g).repeat(2, 1)
    same = torch.arange(6).repeat(2)
    words = torch.randn(12, 8, generator=g)
    said = torch.arange(12)
    said[7] = said[0]
    test = embedded(words, pictures, content={"image": same, "text": said})
    found = small_objects(None, test, recall_at=(1,))
    assert found.spec["gallery"] == 6
    cosine = torch.nn.functional.cosine_similarity(
        words[:, None], pictures[None, :6], dim=2
    ).argmax(1)
    right = [
        int(cosine[i]) in ({int(same[0]), int(same[7])} if i in (0, 7) else {int(same[i])})
        for i in range(12)
    ]
    assert found.value("one", "recall@1", target="all") == pytest.approx(np.mean(right))
    chance = next(r["chance"] for r in found.rows)
    assert chance == pytest.approx((10 * 1 / 6 + 2 * 2 / 6) / 12)


def test_ties_count_against_none_and_intervals_hold_the_mean():
    a, t = ranks_of(torch.zeros(3, 5), np.eye(3, 5, dtype=bool))
    assert a.tolist() == [0, 0, 0] and t.tolist() == [4, 4, 4]
    hits = (np.arange(200) % 4 == 0).astype(float)[:, None]
    apart, together = (
        resampled(hits, picture, 400, 0)[0] for picture in (np.arange(200), np.arange(200) % 4)
    )
    assert 0.17 < apart[0] < 0.25 < apart[1] < 0.33
    assert together[1] - together[0] > 2 * (apart[1] - apart[0]), (
        "queries about one picture are not independent"
    )


def test_boxes_and_what_cannot_be():
    assert area_of("[0, 0, 0.5, 0.25]") == 0.125 and area_of(
        "[10, 20, 20, 40, 100, 50]"
    ) == pytest.approx(0.04)
    for box in ("[0, 0, 5, 5]", "[0, 0, 0, 1]", "[1, 2]", "none", "[0, 0, 1, 1, 0, 9]"):
        with pytest.raises(AmodalError, match="is no box"):
            area_of(box)
    x = torch.randn(12, 4)
    with pytest.raises(AmodalError, match="at most 1 of its picture, not 3"):
        small_objects(None, embedded(x, x, labels={"area": np.full(12, 3.0)}))
    with pytest.raises(AmodalError, match="edges of bins rise"):
        small_objects(None, embedded(x, x), sizes=(0.1, 0.1))
    with pytest.raises(AmodalError, match="no field of these records.*imag"):
        small_objects(None, embedded(x, x), pictures="imag")
    test = embedded(x, x)
    test.labels.clear()
    with pytest.raises(NotApplicable, match="label `area`"):
        small_objects(None, test)


TOML = """name = "things"
records = "things.parquet"
key = "key"
[fields.image]
modality = "image"
size = 24
patch = 8
flip = false
[fields.text]
modality = "text"
[labels.box]
[labels.objects]
[labels.count]
kind = "number"
"""


def things(folder, count):
    """Scenes with words about one thing in each, and its box in pixels."""
    rng, rows = np.random.default_rng(0), []
    for i in range(count):
        row = scenes.record(i)
        names, boxes = row["objects"].split("; "), json.loads(row["boxes"])
        k = int(rng.integers(len(names)))
        box = json.dumps([*boxes[k], scenes.SIDE, scenes.SIDE])
        rows.append(
            {n: row[n] for n in ("key", "image", "objects")}
            | {"text": names[k], "box": box, "count": len(names)}
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / "things.parquet")
    (folder / "dataset.toml").write_text(TOML, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def one_thing_each(tmp_path_factory):
    return things(tmp_path_factory.mktemp("things"), 300)


@pytest.mark.parametrize(
    ("method", "kind"), [("sorce", "multi_vector"), ("clip", "regions"), ("clamr", "multi_vector")]
)
def test_any_method_is_measured_and_drawn(method, kind, one_thing_each, tmp_path):
    model = amodal.pretrain(
        method, one_thing_each, tmp_path / "run", size="nano", steps=3, batch=32, progress=False
    )
    report = model.evaluate(one_thing_each, protocols=["small_objects"], progress=False, draws=50)
    result = report["small_objects"]
    assert result.spec["multi_vector"] == kind and result.spec["queries"] == result.spec["gallery"]
    sizes = {r["target"] for r in result.rows if r["target"].startswith("covering")}
    assert sizes <= {"covering 1 % to 3 % of the picture", "covering 3 % to 10 % of the picture"} | {
        "covering below 1 % of the picture", "covering from 10 % of the picture"
    } and len(sizes) > 1  # fmt: skip
    gain = result.value("gain", "recall@5 gained", target="all")
    assert gain == pytest.approx(
        result.value(kind, "recall@5", target="all") - result.value("one", "recall@5", target="all")
    )
    saved = report.save(tmp_path / "report.json")
    assert Report.load(saved)["small_objects"].value(
        "one", "recall@1", target="all"
    ) == result.value("one", "recall@1", target="all")
    assert Image.open(tmp_path / "report.small_objects.png").size[0] > 800
    old = tmp_path / "old.json"
    old.write_text(
        saved.read_text(encoding="utf-8").replace(
            '"source": "multi_vector"', '"source": "several"'
        ),
        encoding="utf-8",
    )
    assert Report.load(old)["small_objects"].rows == Report.load(saved)["small_objects"].rows
    from rich.console import Console

    console = Console(width=160, record=True)
    console.print(report.table())
    assert "covering 3 % to 10 %" in console.export_text()
    with pytest.raises(AmodalError, match="nothing about small objects"):
        figures.small_objects([], tmp_path / "x.png")
