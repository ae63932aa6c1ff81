"""`amodal curate`: rules, the cut, what is written, and what reads it."""

import csv
import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import amodal
from amodal.cli import main
from amodal.core import AmodalError, Column, Embeddings
from amodal.curate.in_domain import in_domain as moore_lewis
from amodal.data import open as open_data
from amodal.evaluate.contact_sheet import Card
from amodal.inference.embed import Embedded
from amodal.selection import RULES, curate, duplicates, pairs, pictures
from amodal.selection.chunks import Chunks
from amodal.selection.pool import Scores
from amodal.selection.select import choose

QUICK = dict(steps=2, size="nano", progress=False, logger=None)
QUIET = dict(progress=False)


def table(tmp_path, rows, name="t.csv"):
    path = tmp_path / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return amodal.pretrain("clip", str(folder), tmp_path_factory.mktemp("runs") / "clip", **QUICK)


def captions(n=40, **more):
    texts = [
        f"a {'short' if i % 2 else 'rather long and winding'} text number {i}" for i in range(n)
    ]
    return open_data({"caption": texts, "kind": ["a", "b"] * (n // 2), **more}, name="texts")


# The cut


def scores(values, **more):
    return Scores(score=np.array(values, dtype=float), meaning="a number", **more)


KEYS = [f"k{i}" for i in range(6)]


def test_the_share_is_of_the_records_that_have_a_score():
    one = scores([3, np.nan, 1, 2, np.nan, 0])
    selected, cut = choose(one, KEYS, keep=0.5, unscored="drop")
    assert selected.tolist() == [True, False, False, True, False, False] and cut == 2
    selected, _ = choose(one, KEYS, keep=0.5, unscored="keep")
    assert selected.tolist() == [True, True, False, True, True, False]
    selected, cut = choose(one, KEYS, keep=0.5, unscored="drop", lowest=True)
    assert selected.tolist() == [False, False, True, False, False, True] and cut == 1


def test_a_threshold_is_a_score_that_stays():
    one = scores([3, np.nan, 1, 2, 2, 0], threshold=1.0)
    assert choose(one, KEYS, threshold=2.0, unscored="drop")[0].tolist() == [1, 0, 0, 1, 1, 0]
    assert choose(one, KEYS, unscored="drop")[0].tolist() == [1, 0, 1, 1, 1, 0]
    assert choose(one, KEYS, threshold=1.0, lowest=True, unscored="drop")[0].tolist() == [
        0,
        0,
        1,
        0,
        0,
        1,
    ]


def test_equal_scores_are_decided_by_the_tie_and_then_by_any_but_their_place():
    many = [f"k{i}" for i in range(400)]
    one = scores([1.0] * 400)
    selected, _ = choose(one, many, keep=0.5)
    assert selected.sum() == 200 and 60 < selected[:200].sum() < 140
    reverse, _ = choose(one, many[::-1], keep=0.5)
    assert (reverse[::-1] == selected).all(), "a record stays wherever it stands"
    tied = dataclasses.replace(one, tie=np.arange(400.0))
    assert choose(tied, many, keep=0.25)[0].nonzero()[0].min() == 300


# Rules


def test_random_is_a_function_of_the_key():
    data = captions()
    one = curate(data, by="random", keep=0.5, **QUIET)
    fewer = curate(data.subset(range(20)), by="random", keep=0.5, part="all", **QUIET)
    by_key = dict(zip((data.keys[i] for i in one.rows), one.scores.score))
    shared = [k for k in fewer.dataset.keys if k in by_key]
    assert len(shared) > 5
    assert all(by_key[k] == fewer.scores.score[fewer.dataset.keys.index(k)] for k in shared)
    other = curate(data, by="random", keep=0.5, seed=1, **QUIET)
    assert (other.selected != one.selected).any() and other.selected.sum() == one.selected.sum()


def test_an_attribute_and_a_label_that_is_a_number(tmp_path):
    data = captions()
    one = curate(data, by="caption.length", keep=0.5, label="kind", **QUIET)
    assert all("winding" in data.raw(i, "caption") for i in one.rows[one.selected])
    assert one.groups.label == "kind" and one.groups.differ
    assert [*one.groups.counts] == ["b", "a"] and one.groups.counts["b"][1] == 0
    assert "by kind, most are dropped of b (100%) and fewest of a (0%)" in one.sentence
    assert "compare --by" not in one.sentence, "it is not compared with itself"
    low = curate(data, by="caption.length", keep=0.5, lowest=True, **QUIET)
    assert not (low.selected & one.selected).any()
    rows = [{"key": i, "height": i, "words": f"text {i}"} for i in range(30)]
    (tmp_path / "t").mkdir()
    source = table(tmp_path / "t", rows)
    named = curate(str(source), by="height", threshold=20, part="all", **QUIET)
    assert {int(k) for k in named.keys} == set(range(20, 30))


def test_a_score_that_is_the_length_in_disguise_is_called_so(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def score(dataset, rows):\n    return [-len(dataset.raw(i, 'caption')) for i in rows]\n"
        "def short(dataset, rows):\n    return [1.0]\n"
        "def broken(dataset, rows):\n    return rows / dataset\n",
        encoding="utf-8",
    )
    one = curate(captions(), by=f"{tmp_path / 'mine.py'}:score", keep=0.5, **QUIET)
    assert one.correlated[0] == "caption.length" and one.correlated[1] < -0.99
    assert "(Spearman -1.00): compare --by caption.length" in one.sentence
    with pytest.raises(AmodalError, match=r"scores of shape \(1,\) for"):
        curate(captions(), by=f"{tmp_path / 'mine.py'}:short", keep=0.5, **QUIET)
    with pytest.raises(AmodalError, match="the rule .*broken"):
        curate(captions(), by=f"{tmp_path / 'mine.py'}:broken", keep=0.5, **QUIET)


def embeds(monkeypatch, vectors):
    """Replace embedding by vectors: field -> (records, D), NaN where a record lacks it."""

    def embed_records(encoder, dataset, rows, **options):
        columns = {}
        for field, of in vectors.items():
            values = torch.tensor(np.asarray(of(encoder) if callable(of) else of)[rows])
            have = ~values[:, 0].isnan()
            columns[field] = Column(values[have].float(), have.nonzero()[:, 0])
        z = Embeddings(columns, len(rows))
        return Embedded([dataset.keys[i] for i in rows], z, z)

    monkeypatch.setattr(pairs, "embed_records", embed_records)


def test_the_other_record_is_no_neighbour(monkeypatch, folder, run):
    """Records of the data stand in pairs that are the same."""
    image = np.repeat(np.random.default_rng(0).normal(size=(40, 3)), 2, 0)
    embeds(monkeypatch, {"image": image, "text": image})
    one = curate(str(folder), by="clip_score", model=run, keep=0.5, part="all", **QUIET)
    assert "different records in 100% (by chance 50%)" in one.sentence


def test_what_is_shown_is_what_is_scored(monkeypatch, tmp_path):
    seen = set()

    def card(data, row, shown, caption, title, frame):
        seen.add((shown, caption))
        return Card(np.zeros((4, 4, 3), dtype=np.uint8), title)

    monkeypatch.setattr(pictures, "_card", card)
    data = open_data({"first": ["a", "b"], "second": ["c", "d"], "body": [{"x": 1.0}, {"x": 2.0}]})
    for fields, want in (((), ("body", "first")), (("second", "body"), ("body", "second"))):
        seen.clear()
        one = scores([0.0, 1.0], fields=fields)
        pictures.draw_examples(data, np.arange(2), one, np.array([False, True]), tmp_path / "p.png")
        assert seen == {want}


def test_clip_score_is_the_cosine_of_the_fields(monkeypatch, folder, run):
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 80, 3))
    text[5::7] = np.nan
    embeds(monkeypatch, {"image": image, "text": text})
    one = run.curate(str(folder), by="clip_score", keep=0.5, part="all", **QUIET)
    want = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(image, text)]
    np.testing.assert_allclose(one.scores.score, want, atol=1e-5)
    have = ~np.isnan(want)
    assert one.selected[~have].all() and one.selected[have].sum() == round(0.5 * have.sum())
    assert np.array(want)[one.selected & have].min() > np.array(want)[~one.selected].max()
    assert f"{(~have).sum()} lack image and text and stay" in one.sentence
    assert "that is little, and the choice nearly random" in one.sentence
    embeds(monkeypatch, {"image": image, "text": image})
    one = curate(str(folder), by="clip_score", model=run, keep=0.5, part="all", **QUIET)
    assert (
        "different records in 100% (by chance 50%)" in one.sentence and "little" not in one.sentence
    )


@pytest.mark.parametrize("method", ["clip", "siglip"])
def test_learnability_is_a_difference_of_losses(monkeypatch, folder, run, tmp_path, method):
    learner = (
        run if method == "clip" else amodal.pretrain(method, str(folder), tmp_path / "r", **QUICK)
    )
    reference = run
    rng = np.random.default_rng(1)
    of = {id(learner.encoder): rng.normal(size=(2, 80, 3))}
    of.setdefault(id(reference.encoder), rng.normal(size=(2, 80, 3)))
    embeds(
        monkeypatch,
        {
            "image": lambda encoder: of[id(encoder)][0],
            "text": lambda encoder: of[id(encoder)][1],
        },
    )
    one = curate(
        str(folder),
        by="learnability",
        model=learner,
        reference=reference,
        keep=0.5,
        part="all",
        **QUIET,
    )
    losses = {}
    for name, model in (("learner", learner), ("reference", reference)):
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in of[id(model.encoder)])
        scale = model.method.logit_scale()
        logits = float(scale().detach()) * a @ b.T
        own = np.eye(80, dtype=bool)
        if getattr(scale, "bias", None) is None:
            both = [np.log(np.exp(x).sum(1)) - np.diag(x) for x in (logits, logits.T)]
            losses[name] = (both[0] + both[1]) / 2
        else:
            x = logits + float(scale.bias.detach())
            signed = np.where(own, np.log1p(np.exp(-x)), np.log1p(np.exp(x)))
            losses[name] = signed.sum(1) + signed.sum(0) - np.diag(signed)
        np.testing.assert_allclose(
            one.scores.columns[f"loss of the {name}"], losses[name], rtol=1e-4
        )
    want = losses["learner"] - losses["reference"]
    np.testing.assert_allclose(one.scores.score, want, atol=1e-4)


def test_pair_rules_say_which(tmp_path):
    rng = np.random.default_rng(0)
    data = open_data(
        {
            "image": [
                rng.integers(0, 256, (20, 80 if i == 3 else 20, 3), dtype=np.uint8)
                for i in range(30)
            ],
            "caption": ["too short"] + [f"one two three four number {i}" for i in range(29)],
        }
    )
    one = curate(data, by="pair_rules", limits={"short_side": 10}, part="all", **QUIET)
    broken = {n: m.nonzero()[0].tolist() for n, m in one.scores.reasons.items() if m.any()}
    assert broken == {"short text": [0], "narrow picture": [3]}
    assert one.selected.sum() == 28 and one.scores.score[3] == -1 and one.scores.score[1] == 0
    assert "1 short text" in one.sentence
    assert one.rows_table()["reason"].to_pylist()[3] == "narrow picture"
    test = data.split("test")
    same = data.raw(int(test[0]), "image")
    images = [same if i == 7 else data.raw(i, "image") for i in range(30)]
    part = dict(zip(map(int, test), [None] * 30))
    assert 7 not in part
    doubled = open_data({"image": images, "caption": [data.raw(i, "caption") for i in range(30)]})
    held = curate(doubled, by="pair_rules", limits={"short_side": 10}, **QUIET)
    where = held.rows.tolist().index(7)
    assert held.scores.reasons["held-out picture"].nonzero()[0].tolist() == [where]
    with pytest.raises(AmodalError, match="Did you mean short_side"):
        curate(data, by="pair_rules", limits={"short_sid": 10}, **QUIET)


def test_in_domain_is_moore_and_lewis():
    data = captions()
    like = ["a rather long and winding road", "winding and long"]
    one = curate(data, by="in_domain", like=like, keep=0.5, part="all", **QUIET)
    texts = [data.raw(i, "caption") for i in range(40)]
    np.testing.assert_allclose(one.scores.score, -moore_lewis(texts, like), atol=1e-9)
    assert all("winding" in texts[i] for i in one.rows[one.selected])


def test_in_domain_of_vectors_is_the_nearest_of_the_domain(monkeypatch, folder, run):
    rng = np.random.default_rng(2)
    image = rng.normal(size=(80, 3))
    embeds(monkeypatch, {"image": image})
    one = curate(
        str(folder), by="in_domain", model=run, field="image", like=open_data(str(folder)).subset(range(5)),
        keep=0.5, part="all", **QUIET,
    )  # fmt: skip
    unit = image / np.linalg.norm(image, axis=1, keepdims=True)
    np.testing.assert_allclose(one.scores.score, (unit @ unit[:5].T).max(1), atol=1e-5)


def test_balance_draws_as_many_of_each_class():
    kinds = ["many"] * 900 + ["some"] * 90 + ["few"] * 10
    data = open_data({"caption": [f"text {i}" for i in range(1000)], "kind": kinds})
    one = curate(data, by="balance", over="kind", keep=0.1, part="all", **QUIET)
    counts = {k: v[1] for k, v in one.groups.counts.items()}
    assert counts["few"] == 10 and 35 <= counts["some"] <= 55 and 35 <= counts["many"] <= 55
    at = curate(data, by="balance", over="kind", threshold=-30, part="all", **QUIET)
    counts = {k: v[1] for k, v in at.groups.counts.items()}
    assert counts["few"] == 10 and 18 <= counts["some"] <= 42 and 18 <= counts["many"] <= 42


def test_balance_by_keywords_and_by_clusters(tmp_path):
    texts = ["red Boat"] * 60 + ["a blue boats"] * 5 + ["green hot  dog"] * 5 + ["cat"] * 30
    data = open_data({"caption": [f"{t} {i}" for i, t in enumerate(texts)]})
    words = ["boat", "hot dog", "blue", "..."]
    one = curate(data, by="balance", words=words, keep=0.2, part="all", **QUIET)
    entries = one.scores.columns["keyword"]
    assert entries[0] == "boat" and entries[61] == "blue" and entries[66] == "hot dog"
    assert np.isneginf(one.scores.score[75]) and one.selected[60:70].all()
    assert not one.selected[70:].any() and one.selected.sum() == 20
    rows = [{"key": data.keys[i], "cluster": "" if i == 99 else i // 50} for i in range(100)]
    path = table(tmp_path, rows, "clusters.csv")
    by = curate(data, by="balance", over=str(path), keep=0.5, part="all", **QUIET)
    assert by.scores.columns["cluster"].tolist()[:51] == ["0"] * 50 + ["1"]
    with pytest.raises(AmodalError, match="clusters of none of these"):
        other = open_data({"caption": ["x", "y"]}).subset([0, 1])
        other.keys = other.reader.keys = ["p", "q"]
        curate(other, by="balance", over=str(path), keep=0.5, part="all", **QUIET)


def test_duplicates_of_vectors_are_near_one_before(monkeypatch, folder, run):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(80, 8))
    data = open_data(str(folder))
    train, test = data.split("train"), data.split("test")
    image[train[9]] = image[train[2]] + 1e-3
    image[train[4]] = image[test[0]] + 1e-3
    image[train[6]] = np.nan
    embeds(monkeypatch, {"image": image})
    monkeypatch.setattr(duplicates, "embedded", pairs.embedded)
    one = curate(str(folder), by="duplicates", model=run, field="image", **QUIET)
    dropped = {int(i) for i in one.rows[~one.selected]}
    assert dropped == {int(train[9]), int(train[4])}
    near = one.scores.columns["nearest before"]
    place = {int(r): i for i, r in enumerate(one.rows)}
    assert near[place[int(train[9])]] == data.keys[train[2]]
    assert near[place[int(train[4])]] == data.keys[test[0]]
    assert "1 near copies of a held-out record" in one.sentence
    assert "1 near copies of an earlier record" in one.sentence
    assert np.isnan(one.scores.score[place[int(train[6])]])


def test_nearest_before_is_a_loop(monkeypatch):
    monkeypatch.setattr(duplicates, "TILE", 4)
    z = torch.nn.functional.normalize(
        torch.randn(11, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )
    cosine, place = duplicates.nearest_before(z)
    assert cosine[0] == place[0] == -1
    for i in range(1, 11):
        products = z[:i] @ z[i]
        assert int(place[i]) == int(products.argmax()) and float(cosine[i]) == pytest.approx(
            float(products.max())
        )


def test_duplicates_of_texts_and_of_content():
    texts = [
        f"here is text number {i} with words of its own {i * i} {i + 7} {i * 31}" for i in range(20)
    ]
    texts[12] = texts[3]
    texts[13] = texts[3] + " more"
    one = curate(open_data({"caption": texts}), by="duplicates", part="all", **QUIET)
    assert one.rows[~one.selected].tolist() == [12, 13] and one.scores.score[12] == 0
    assert 0 < one.scores.score[13] < 0.2 and one.scores.score[5] == 1
    values = [{"a": float(i % 15), "b": 1.0} for i in range(20)]
    same = curate(open_data({"body": values}), by="duplicates", part="all", **QUIET)
    assert same.rows[~same.selected].tolist() == [15, 16, 17, 18, 19]


def test_an_ensemble_weighs_rules_by_how_they_agree(tmp_path):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def truth(dataset):\n    return np.array([int(dataset.raw(i, 'caption').split()[1]) % 2 for i in range(len(dataset))])\n"
        + "".join(
            f"def r{k}(dataset, rows):\n"
            f"    noise = np.random.default_rng({k}).normal(size=len(dataset))\n"
            f"    return (truth(dataset) + {s} * noise)[rows]\n"
            for k, s in enumerate((0.3, 0.8, 3.0))
        )
        + "def against(dataset, rows):\n"
        "    noise = np.random.default_rng(7).normal(size=len(dataset))\n"
        "    return (0.8 * noise - truth(dataset))[rows]\n",
        encoding="utf-8",
    )
    data = open_data({"caption": [f"text {i}" for i in range(600)]})
    names = [f"{tmp_path / 'own.py'}:r{k}" for k in range(3)]
    one = curate(data, by="ensemble", rules=names, keep=0.5, part="all", **QUIET)
    good = one.rows % 2 == 1
    assert (one.selected == good).mean() > 0.9
    note = next(n for n in one.scores.notes if "estimated accuracy" in n)
    accuracy = [float(p.split()[-1].rstrip("%")) for p in note.split(": ", 1)[1].split(", ")]
    assert accuracy[0] > accuracy[1] > accuracy[2]
    assert set(one.scores.columns) == set(names)
    assert not any("other way round" in n for n in one.scores.notes)
    against = f"{tmp_path / 'own.py'}:against"
    other = curate(data, by="ensemble", rules=[*names[:2], against], keep=0.5, part="all", **QUIET)
    assert (other.selected == good).mean() > 0.9
    [warned] = [n for n in other.scores.notes if "other way round" in n]
    assert f"contradict {against}, so its votes" in warned
    with pytest.raises(AmodalError, match="three rules or more"):
        curate(data, by="ensemble", rules=names[:2], keep=0.5, **QUIET)


# What is written, and read


def test_a_choice_is_data_for_every_verb(folder, tmp_path, capsys):
    out = tmp_path / "chosen"
    main(["curate", str(folder), "--by", "image.brightness", "--keep", "0.3", "--out", str(out)])
    said = capsys.readouterr().out
    data, chosen = open_data(str(folder)), open_data(str(out))
    train = len(data.split("train"))
    assert (
        f"{round(0.3 * train)} of {train} train records of" in said
        and "Next: amodal pretrain" in said
    )
    assert len(chosen.split("train")) == round(0.3 * train)
    for part in ("valid", "test"):
        whole = [data.keys[i] for i in data.split(part)]
        assert [chosen.keys[i] for i in chosen.split(part)] == whole, "no other part changes"
    assert chosen.name == "chosen" and chosen.path == out and chosen.fingerprint != data.fingerprint
    rows = pq.read_table(out / "scores.parquet").to_pylist()
    assert len(rows) == train and {r["key"] for r in rows if r["selected"]} == {
        chosen.keys[i] for i in chosen.split("train")
    }
    bright = sorted((r["score"] for r in rows), reverse=True)
    assert min(r["score"] for r in rows if r["selected"]) == bright[round(0.3 * train) - 1]
    assert (
        json.loads((out / "selection.json").read_text(encoding="utf-8"))["by"] == "image.brightness"
    )
    for name in ("scores.png", "examples.png"):
        assert min(Image.open(out / name).size) > 100
    assert not (out / ".scores").exists()
    model = amodal.pretrain("simclr", str(out), tmp_path / "run", **QUICK)
    assert model.config["data"]["train"] == round(0.3 * train)
    assert model.config["data"]["path"] == str(out)
    # a choice of a choice, and a copy
    twice = tmp_path / "twice"
    main(["curate", str(out), "--by", "random", "--keep", "0.5", "--out", str(twice), "--copy"])
    packed = open_data(str(twice / "packed"))
    assert packed.keys == open_data(str(twice)).keys and len(packed.split("train")) == round(
        0.3 * train / 2 + 1e-9
    )
    assert open_data(str(twice / "subset.toml")).keys == packed.keys


def test_what_is_wrong_with_a_list_of_keys(folder, tmp_path):
    out = tmp_path / "chosen"
    curate(str(folder), by="random", keep=0.5, out=out, **QUIET).save(out)
    toml, keys = out / "subset.toml", (out / "keys.txt").read_text(encoding="utf-8")
    (out / "keys.txt").write_text(keys + "nobody\n", encoding="utf-8")
    with pytest.raises(AmodalError, match="1 of .* are no longer in .*'nobody'"):
        open_data(str(out))
    (out / "keys.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(AmodalError, match="has no keys"):
        open_data(str(out))
    toml.write_text('data = "nowhere_at_all"\nkeys = "keys.txt"\n', encoding="utf-8")
    with pytest.raises(AmodalError, match="a choice of the records of nowhere_at_all"):
        open_data(str(out))
    for text, words in (
        ('data = "."\nkeys = "keys.txt"', "names itself"),
        ('dat = "x"', "Did you mean data"),
        ('data = "x"', 'needs keys = "…"'),
        ("data = [", "cannot be read"),
        ('data = "x"\nkeys = "gone.txt"', "keys cannot be read"),
    ):
        toml.write_text(text, encoding="utf-8")
        with pytest.raises(AmodalError, match=words):
            open_data(str(out))


def test_an_interrupted_choice_goes_on(folder, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(
        "seen, stop = [], [True]\n"
        "def score(dataset, rows):\n"
        "    if stop[0] and len(seen) == 2:\n        raise KeyboardInterrupt\n"
        "    seen.append(len(rows))\n    return rows.astype(float)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(Chunks.__init__, "__kwdefaults__", {"size": 16, "progress": False})
    name, out = f"{tmp_path / 'own.py'}:score", tmp_path / "out"
    options = dict(by=name, keep=0.5, out=out, part="all", **QUIET)
    with pytest.raises(KeyboardInterrupt):
        curate(str(folder), **options)
    module = curate.__globals__["rule"].__globals__["load_reference"](name).__globals__
    assert module["seen"] == [16, 16]
    module["stop"][0] = False
    one = curate(str(folder), **options)
    assert module["seen"] == [16] * 5 and one.scores.score.tolist() == list(range(80))
    curate(str(folder), **options)
    assert module["seen"] == [16] * 5, "all of it is done"
    curate(str(folder), **{**options, "seed": 1})
    assert module["seen"] == [16] * 10, "another choice begins anew"
    damaged = next((out / ".scores").rglob("*.npz"))
    damaged.write_bytes(b"nothing")
    with pytest.raises(AmodalError, match="is damaged"):
        curate(str(folder), **{**options, "seed": 1})


def test_an_interrupted_choice_does_not_go_on_with_other_examples(tmp_path, monkeypatch):
    """What an edited file of examples or an edited rule says is not what the first one said."""
    texts = [f"a {'red boat' if i % 2 else 'blue car'} {i}" for i in range(60)]
    (tmp_path / "own.csv").write_text(
        "\n".join(["id,note", *(f"{i},{t}" for i, t in enumerate(texts))]), encoding="utf-8"
    )
    data = open_data(str(tmp_path / "own.csv"))
    like, out = tmp_path / "like.txt", tmp_path / "out"
    options = dict(by="in_domain", keep=0.5, part="all", like=str(like), **QUIET)
    like.write_text("red boat", encoding="utf-8")
    first = curate(data, out=out, **options).scores.score  # not saved, as after an interruption
    like.write_text("blue car", encoding="utf-8")
    second = curate(data, out=out, **options).scores.score
    np.testing.assert_array_equal(second, curate(data, **options).scores.score)
    assert not np.allclose(first, second)


def test_an_interrupted_choice_does_not_go_on_with_another_rule(tmp_path):
    rule = tmp_path / "own.py"
    wanted = []
    for sign in ("", "-"):
        rule.write_text(
            f"def score(dataset, rows):\n    return {sign}1.0 * rows\n", encoding="utf-8"
        )
        code = (
            "from amodal.selection import curate\n"
            f"c = curate('digits', by={f'{rule}:score'!r}, keep=.5, out={str(tmp_path / 'o')!r}, "
            "progress=False)\nprint(c.scores.score[-1] > 0)"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        wanted.append(ended.stdout.strip())
    assert wanted == ["True", "False"], ended.stderr


def test_interrupts_say_how_to_go_on(monkeypatch, capsys, tmp_path):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("amodal.selection.curate", stop)
    with pytest.raises(SystemExit) as end:
        main(["curate", "digits", "--by", "random", "--keep", ".5", "--out", str(tmp_path / "o")])
    assert end.value.code == 130 and "repeat the command to continue" in capsys.readouterr().err


def test_what_cannot_be_chosen_says_why(folder, run, tmp_path):
    data = captions()
    simclr = amodal.pretrain("simclr", data, tmp_path / "simclr", **QUICK)
    for options, words in (
        ({"by": "clip_scor", "keep": 0.5}, "Did you mean clip_score"),
        ({"by": "random"}, "has no threshold of its own"),
        ({"by": "random", "keep": 0.5, "threshold": 1}, "leave one of them out"),
        ({"by": "random", "keep": 30}, "a share of the records"),
        ({"by": "random", "keep": 0.5, "unscored": "kep"}, "Did you mean keep"),
        ({"by": "random", "keep": 0.5, "part": "tain"}, "Did you mean train"),
        ({"by": "random", "keep": 0.5, "label": "kid"}, "Did you mean kind"),
        ({"by": "random", "threshold": 2}, "no record would be left"),
        ({"by": "clip_score", "keep": 0.5}, "name one by --run RUN"),
        ({"by": "clip_score", "keep": 0.5, "model": simclr}, "and there is caption alone"),
        ({"by": "clip_score", "keep": 0.5, "model": run, "fields": ["imag"]}, "Did you mean image"),
        ({"by": "learnability", "keep": 0.5, "model": run}, "--reference RUN"),
        ({"by": "pair_rules"}, "reads pictures and text"),
        ({"by": "in_domain", "keep": 0.5}, "--like FILE.txt"),
        ({"by": "in_domain", "keep": 0.5, "like": [" "]}, "no text of the domain"),
        (
            {"by": "in_domain", "keep": 0.5, "like": ["a"], "field": "captoin"},
            "Did you mean caption",
        ),
        ({"by": "balance", "keep": 0.5}, "--over LABEL"),
        ({"by": "balance", "keep": 0.5, "over": "kid"}, "Did you mean kind"),
        ({"by": "balance", "keep": 0.5, "words": ["."]}, "no keyword"),
        ({"by": "duplicates", "field": "captoin"}, "Did you mean caption"),
        ({"by": "random", "keep": 0.5, "out": tmp_path / "x"}, "these records are in memory"),
    ):
        with pytest.raises(AmodalError, match=words):
            curate(data, **options, **QUIET)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    for out, words in ((tmp_path / "full", "thesis.tex"), (folder, "is the data")):
        with pytest.raises(AmodalError, match=words):
            curate(str(folder), by="random", keep=0.5, out=out, **QUIET)
    with pytest.raises(AmodalError, match="line break"):
        broken = curate(str(folder), by="random", keep=0.5, **QUIET)
        broken.dataset.keys = [f"{k}\n" for k in broken.dataset.keys]
        broken.save(tmp_path / "broken")
    with pytest.raises(AmodalError, match="learns by no softmax or sigmoid"):
        other = amodal.pretrain("vicreg", str(folder), tmp_path / "v", **QUICK)
        curate(str(folder), by="learnability", keep=0.5, model=other, reference=run, **QUIET)


def test_options_of_other_rules_are_refused(capsys, tmp_path):
    words = ["curate", "digits", "--by", "random", "--keep", ".5", "--out", str(tmp_path / "o")]
    for more, message in (
        (["--reference", str(tmp_path)], "is of learnability"),
        (["--limit", "a=1"], "is of pair_rules"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert message in capsys.readouterr().err


def test_every_rule_is_in_the_help_and_in_the_docs(capsys):
    from tests.structure.tree import ROOT

    with pytest.raises(SystemExit):
        main(["curate", "--help"])
    help_text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    docs = (ROOT / "docs" / "curating.md").read_text(encoding="utf-8")
    assert all(name in help_text and f"`{name}`" in docs for name in RULES)


def test_infinite_scores_are_drawn(tmp_path):
    data = open_data({"caption": [f"{'boat' if i < 3 else 'cat'} {i}" for i in range(30)]})
    one = curate(data, by="balance", words=["boat"], keep=0.5, part="all", **QUIET)
    assert math.isinf(one.cut)
    one = dataclasses.replace(one, source=str(tmp_path))
    one.save(tmp_path / "out")
    assert (tmp_path / "out" / "scores.png").exists()
