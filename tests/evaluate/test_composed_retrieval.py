"""Composed retrieval: a picture and words that change it, against loops; and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch.nn.functional import cosine_similarity

import amodal
from amodal import data, methods
from amodal.core import AmodalError
from amodal.data.other_column import column_named, read_from
from amodal.evaluate import evaluate
from amodal.evaluate.protocols.composed_retrieval import (
    ComposedRetrieval,
    Queries,
    field_of_targets,
    metrics_of,
    places,
)
from amodal.inference.compose import compose, mean_of_units
from amodal.inference.embed import embed_values
from amodal.modalities import make
from amodal.nn.encoder import Encoder

COLOURS = ("red", "green", "blue", "grey", "black")
N = 160
IMAGE = make("image", size=8, channels=3, patch=4, flip=False)
TEXT = make("text", max_length=32, patch=2, tokens="bytes")


def picture(seed):
    return np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)


def records(**more):
    """Each record becomes the next one; every sixth lacks something, and some change nothing."""
    pictures = [picture(i) for i in range(N)]
    targets = [pictures[i] if i % 10 == 3 else picture(1000 + i // 2) for i in range(N)]
    words = [f"make it {COLOURS[i % 5]}" for i in range(N)]
    columns = {
        "image": [None if i % 12 == 5 else p for i, p in enumerate(pictures)],
        "caption": [f"a {COLOURS[i % 5]} boat {i}" for i in range(N)],
        "change": [None if i % 12 == 7 else w for i, w in enumerate(words)],
        "changed": [f"a {COLOURS[i % 4]} boat {i // 3}" for i in range(N)],
        "target": [None if i % 12 == 11 else t for i, t in enumerate(targets)],
    }
    fields = {"image": IMAGE, "target": IMAGE} | dict.fromkeys(
        ("caption", "change", "changed"), TEXT
    )
    return data.open(columns | more, fields=fields, name="edits")


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    fields = {"image": IMAGE} | dict.fromkeys(("caption", "change", "changed"), TEXT)
    return methods.build("scot", Encoder(fields, size="nano"), width=8, project=1, hidden=1).encoder


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    fields = {"image": IMAGE, "caption": TEXT}
    return methods.build("clip", Encoder(fields, size="nano"), width=8).encoder


def measured(encoder, dataset, **options):
    report = evaluate(
        encoder, dataset, protocols=["composed_retrieval"], progress=False, simple=False, **options
    )
    return {row["metric"]: row for row in report.rows()}, report


def by_loop(encoder, dataset, rows, target, *, own_reference=False):
    """Metric -> its value for each of the queries of some records."""
    vectors = {}
    for name, field in (("image", "image"), ("change", "caption"), (target, None)):
        field = field or ("image" if target == "target" else "caption")
        has = [i for i in rows if dataset.present(name)[i]]
        found = embed_values(encoder, field, [dataset.raw(i, name) for i in has])
        vectors[name] = dict(zip(has, found))
    shown = [(dataset.raw(i, target), v) for i, v in vectors[target].items()]
    if target == "target":
        shown += [(dataset.raw(i, "image"), v) for i, v in vectors["image"].items()]
    gallery = {np.asarray(raw).tobytes(): v for raw, v in shown}
    values = {}
    for i in rows:
        if any(i not in v for v in vectors.values()):
            continue
        right = np.asarray(dataset.raw(i, target)).tobytes()
        own = np.asarray(dataset.raw(i, "image")).tobytes()
        v, m = vectors["image"][i], vectors["change"][i]
        asked = {
            "": compose(encoder, v[None], m[None])[0],
            ", average": v / v.norm() + m / m.norm(),
            ", reference alone": v,
            ", words alone": m,
        }
        for what, query in asked.items():
            near = {
                name: float(cosine_similarity(query, g, dim=0))
                for name, g in gallery.items()
                if name == right or name != own or own_reference
            }
            ahead = sum(s > near[right] for name, s in near.items() if name != right)
            for k in (1, 5, 10, 50):
                values.setdefault(f"recall@{k}{what}", []).append(ahead < k)
            values.setdefault(f"MRR{what}", []).append(1 / (ahead + 1))
    return values, len(gallery)


@pytest.mark.parametrize(
    ("target", "own_reference"), [("target", False), ("target", True), ("changed", False)]
)
def test_ranks_are_those_of_a_loop(encoder, target, own_reference):
    dataset = records()
    rows, _ = measured(encoder, dataset, target=target, own_reference=own_reference)
    tested = np.sort(np.concatenate([dataset.split("test"), dataset.split("valid")])).tolist()
    expected, gallery = by_loop(encoder, dataset, tested, target, own_reference=own_reference)
    assert {m for m in rows if not m.startswith("median")} == set(expected)
    for metric, values in expected.items():
        assert rows[metric]["value"] == pytest.approx(np.mean(values)), metric
        assert rows[metric]["n"] == len(values) >= 10
        assert rows[metric]["gallery"] == gallery
    chance = rows["recall@5"]["chance"]
    assert 5 / gallery <= chance <= 5 / (gallery - 1)
    assert (chance == pytest.approx(5 / gallery)) is (target == "changed" or own_reference)
    assert rows["recall@10"]["source"] == "image+change" and rows["recall@10"]["target"] == target


def test_a_run_that_does_not_compose_is_asked_by_averages(clip):
    dataset = records()
    rows, _ = measured(clip, dataset, target="target")
    assert not any("average" in metric for metric in rows)
    tested = np.sort(np.concatenate([dataset.split("test"), dataset.split("valid")])).tolist()
    expected, _ = by_loop(clip, dataset, tested, "target")
    assert rows["recall@5"]["value"] == pytest.approx(np.mean(expected["recall@5, average"]))
    v, m = torch.randn(3, 8), torch.randn(3, 8)
    assert torch.equal(compose(clip, v, m), mean_of_units(v, m))


def test_one_vector_for_all_scores_chance():
    rows, ones = np.arange(7), torch.ones(7, 3)
    right, left_out = torch.arange(7), torch.tensor([9, -1, 8, 7, -1, 9, 8])
    asked = Queries(rows, ones, ones, torch.ones(10, 3), right, left_out)
    for row in metrics_of(ones, asked, (1, 4, 50), "", False):
        assert row["value"] == pytest.approx(row["chance"]), row["metric"]
    # vectors and their opposites are the same where they are compared by |cosine|
    gallery = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    number = torch.tensor([0])
    one = replace(asked, gallery=gallery, right=number, left_out=number - 1)
    query = torch.tensor([[1.0, 0.0]])
    assert [places(query, one, b)[0].item() for b in (False, True)] == [1, 0]


def test_files_and_captions_are_distinguished(tmp_path, encoder):
    lines = ["image,caption,change,changed,becomes"]
    for i in range(40):
        Picture.fromarray(picture(i)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,a boat {i},make it {i},a boat {i + 1},{(i + 1) % 40}.png")
    lines[3] = lines[3].rpartition(",")[0] + ",gone.png"
    (tmp_path / "records.csv").write_text("\n".join(lines), encoding="utf-8")
    names = {"image": "image"} | dict.fromkeys(("caption", "change", "changed"), "text")
    toml = 'records = "records.csv"\n' + "".join(
        f'[fields.{n}]\nmodality = "{kind}"\n' for n, kind in names.items()
    )
    (tmp_path / "dataset.toml").write_text(toml, encoding="utf-8")
    dataset = data.open(tmp_path).with_fields(encoder.fields)
    assert column_named(dataset, "becomes") == "becomes"
    assert field_of_targets(dataset, "becomes", ["image"], "caption") == "image"
    assert field_of_targets(dataset, "changed", ["image"], "caption") == "caption"
    turned = read_from(dataset, "image", "becomes")
    assert np.array_equal(turned.value(0, "image"), dataset.value(1, "image"))
    assert turned.split("test").tolist() == dataset.split("test").tolist()
    all_rows = np.zeros(40, dtype=np.int8)
    all_rows[:] = 2
    all_rows[30:] = 0
    parted = dataset.with_parts(all_rows)
    rows, report = measured(encoder, parted, target="becomes")
    assert rows["recall@10"]["n"] == 29, "one picture is gone"
    assert "1 changes or targets could not be read" in report.about["notes"]["composed_retrieval"]


def test_what_is_wrong_is_said(encoder):
    dataset = records()
    for options, message in (
        (
            {"change": "chang"},
            "no column of 'edits' is called 'chang'.*Did you mean change.*what to",
        ),
        ({"target": "gone"}, "no column of 'edits'.*what is looked for.*--protocol.target COLUMN"),
        ({"target": "nothing"}, "no record of 'edits' has a target in 'nothing'"),
    ):
        with pytest.raises(AmodalError, match=message):
            measured(encoder, records(nothing=[None] * N), **options)
    with pytest.raises(AmodalError, match="no field that can be changed is called 'caption'"):
        measured(encoder, dataset, reference="caption")
    with pytest.raises(AmodalError, match="fewer than 10 of the"):
        few = [None] * (N - 3) + ["make it red"] * 3
        measured(encoder, records(change=few), target="target")
    with pytest.raises(AmodalError, match="have a reference .image., 'change' and 'target'"):
        measured(encoder, records(change=[None] * N), target="target")
    words = methods.build("simclr", Encoder({"caption": TEXT}, size="nano")).encoder
    with pytest.raises(AmodalError, match="needs a field beside 'caption', whose values words"):
        measured(words, dataset)
    alone = methods.build("simclr", Encoder({"image": IMAGE}, size="nano")).encoder
    with pytest.raises(AmodalError, match="needs a text field; this encoder has image"):
        measured(alone, dataset)


def test_it_runs_when_it_is_named():
    assert not ComposedRetrieval.default and ComposedRetrieval.reads_tokens
    assert "composed_retrieval" in amodal.evaluate.protocol_names()
