"""`amodal cluster` from records to a file, and what it says."""

import copy
import csv
import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import amodal
from amodal.cli import main
from amodal.cluster import cluster, clustering
from amodal.cluster.result import Clustering
from amodal.core import AmodalError, Column
from amodal.data import Dataset, Label
from amodal.data import open as open_data
from amodal.inference.common_space import ALIKE, pairs_alike
from amodal.modalities import NoSimpleFeatures

QUICK = dict(steps=2, size="nano", progress=False, logger=None)


def records():
    """Two kinds of 20 records; the last has nothing that is clustered by."""
    rng = np.random.default_rng(0)
    rows = [
        {"height": float(h) + rng.normal() / 9, "width": float(w)}
        for h, w in [(1.0, 5.0), (9.0, -5.0)] * 20
    ]
    captions = [f"the {'tall' if i % 2 else 'small'} one, number {i}" for i in range(40)]
    return open_data(
        {
            "body": [*rows, None],
            "caption": [*captions, "nothing"],
            "kind": ["small", "tall"] * 20 + ["small"],
        }
    )


@pytest.fixture(scope="module")
def data():
    return records()


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    return amodal.pretrain("clip", data, tmp_path_factory.mktemp("run") / "clip", **QUICK)


@pytest.fixture(scope="module")
def clusters(model, data) -> Clustering:
    return model.cluster(data, field="body", label="kind", most_clusters=4, progress=False)


def test_records_are_divided_by_what_they_are(clusters):
    assert clusters.number == 2 and clusters.by == "kmeans" and clusters.source == "body"
    assert len(set(clusters.cluster[0:40:2])) == len(set(clusters.cluster[1:40:2])) == 1
    assert clusters.cluster[0] != clusters.cluster[1] and clusters.cluster[40] == -1
    assert np.isnan(clusters.margin[40]) and (clusters.margin[:40] > 0).all()
    assert clusters.stability == pytest.approx(1.0) and clusters.simple == pytest.approx(1.0)
    assert clusters.scores["AMI"] == pytest.approx((1.0, 1.0))
    assert clusters.scores["matched accuracy"] == pytest.approx((1.0, 1.0))
    assert "2 clusters of 40 records by kmeans of body" in clusters.sentence
    assert "a number chosen from 2 to 4 (the smallest of these)" in clusters.sentence
    assert "agree by 1.00 (adjusted Rand index; simple features 1.00)" in clusters.sentence
    assert clusters.silhouette > 0.8 > clusters.cloud + 0.05
    assert "a matter of degree" not in clusters.sentence
    assert "AMI with kind 1.00 (simple features 1.00)" in clusters.sentence
    assert "little" not in clusters.sentence
    tall = int(clusters.cluster[1])
    assert "height 8." in clusters.descriptions[tall] or "height 9" in clusters.descriptions[tall]
    assert "words tall 100% (else 0%)" in clusters.descriptions[tall]
    assert clusters.name(tall) == clusters.descriptions[tall]
    assert all(clusters.cluster[i] == tall for i in clusters.typical(tall, 5))


def test_the_label_is_not_looked_at(model, data, clusters):
    alone = model.cluster(data, field="body", most_clusters=4, progress=False)
    assert alone.cluster.tolist() == clusters.cluster.tolist() and alone.scores == {}


def test_clusters_that_do_not_come_back_are_called_so(clusters):
    assert (
        "other records would give other clusters"
        in dataclasses.replace(clusters, stability=0.2).sentence
    )
    assert (
        "a matter of degree" in dataclasses.replace(clusters, silhouette=0.3, cloud=0.28).sentence
    )
    assert (
        "too few records a cluster to say" in dataclasses.replace(clusters, stability=None).sentence
    )


def test_files(clusters, tmp_path):
    assert clusters.save(tmp_path / "deep" / "c.csv").exists() and clusters.save(
        tmp_path / "c.parquet"
    )
    with (tmp_path / "deep" / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == list(clusters.keys)
    assert rows[0]["cluster"] == str(clusters.cluster[0]) and rows[40]["cluster"] == ""
    assert rows[0]["name"] == clusters.name(int(clusters.cluster[0])) and rows[40]["name"] == ""
    table = pq.read_table(tmp_path / "c.parquet")
    assert table.column_names == ["key", "cluster", "name", "margin"]
    assert table["cluster"].null_count == table["margin"].null_count == 1
    with pytest.raises(AmodalError, match="a .csv or .parquet file, not"):
        clusters.save(tmp_path / "c.txt")
    assert clusters.save_picture(tmp_path / "p.png").stat().st_size > 1000
    with pytest.raises(AmodalError, match="Did you mean body"):
        clusters.save_picture(tmp_path / "p.png", "boddy")
    with pytest.raises(AmodalError, match="to a .png file, not"):
        clusters.save_picture(tmp_path / "p.xyz")
    (tmp_path / "file").touch()
    with pytest.raises(AmodalError, match="could not write"):
        clusters.save(tmp_path / "file" / "c.csv")


def test_names_are_voted_for_in_the_space_of_the_text(model, data, monkeypatch):
    """Each member votes for the word that is nearest to it there."""
    words = ["small", "tall", "green"]
    embedded = model.embed(data)
    seen = []

    def embed_values(encoder, field, values):
        seen.append((field, values))
        body = embedded.aligned["body"].values.float()
        return torch.stack([body[0:40:2].mean(0), body[1:40:2].mean(0), -body[:40].mean(0)])

    monkeypatch.setattr("amodal.cluster.names.embed_values", embed_values)
    monkeypatch.setattr("amodal.inference.common_space.MIN_PAIRS", 99)  # two steps align nothing
    clusters = model.cluster(data, field="body", number=2, words=words, progress=False)
    assert seen == [("caption", words)]
    assert clusters.name(int(clusters.cluster[0])) == "small"
    assert clusters.name(int(clusters.cluster[1])) == "tall"


def test_names_take_a_common_space_and_not_only_vectors_of_one_width(model, data, tmp_path):
    """`simclr` learns from each field alone, with heads of one width."""
    run = amodal.pretrain("simclr", data, tmp_path / "simclr", **QUICK)
    assert len(run.embed(data).aligned.sources) == 2
    with pytest.raises(AmodalError, match="body and caption have no common space in this run"):
        run.cluster(data, field="body", number=2, words=["a", "b"], progress=False)
    aligned = model.embed(data).aligned
    body = aligned["body"]
    near = Column(body.values + 0.01 * torch.randn_like(body.values), body.rows)
    assert pairs_alike(body, near) > 0.9
    assert pairs_alike(body, Column(body.values.roll(1, 0), body.rows)) < ALIKE
    few = Column(body.values.roll(1, 0)[:10], body.rows[:10])
    assert pairs_alike(body, few) is None, "too few to know"


def test_a_run_of_cpp_clusters_by_the_membership_that_it_learnt(data, tmp_path):
    settings = {**QUICK, "options": {"width": 8, "hidden": 16}}
    run = amodal.pretrain("cpp", data.select(["body"]), tmp_path / "cpp", **settings)
    clusters = run.cluster(data.select(["body"]), most_clusters=4, progress=False)
    assert (
        clusters.by == "membership"
        and clusters.source == "body"
        and (clusters.cluster[:40] >= 0).all()
    )
    assert set(clusters.judged) == {2, 3, 4}
    vectors = run.embed(data.select(["body"])).aligned["body"].values
    z, member = clustering._directions(
        run.embed(data.select(["body"])).aligned["body"], membership=True
    )
    assert z.shape == member.shape == (40, vectors.shape[1] // 2)
    assert run.cluster(data.select(["body"]), by="kmeans", number=2, progress=False).by == "kmeans"


def test_a_run_of_cpp_with_more_fields_asks_which(data, tmp_path):
    settings = {**QUICK, "options": {"width": 8, "hidden": 16}}
    run = amodal.pretrain("cpp", data, tmp_path / "cpp", **settings)
    with pytest.raises(AmodalError, match="say which: body, caption"):
        run.cluster(data, progress=False)
    assert run.cluster(data, field="caption", number=2, progress=False).source == "caption"
    with pytest.raises(AmodalError, match="no space in common with texts"):
        run.cluster(data, field="body", words=["small", "tall"], progress=False)


def test_another_run_names_the_clusters_of_one_without_texts(model, data, tmp_path, monkeypatch):
    """The record of the other run votes, in its space, with the descriptions of a class."""
    settings = {**QUICK, "options": {"width": 8, "hidden": 16}}
    bodies = data.select(["body"])
    run = amodal.pretrain("cpp", bodies, tmp_path / "cpp", **settings)
    own = model.embed(data).aligned["body"].values.float()
    asked = []

    def embed_values(encoder, field, values):
        asked.extend(values)
        return torch.stack([own[len(v) % 2 : 40 : 2].mean(0) for v in values])

    monkeypatch.setattr("amodal.inference.classify.embed_values", embed_values)
    words = {"small": ["even", "not tall"], "tall": "odd"}
    clusters = run.cluster(bodies, number=2, words=words, names_by=model, progress=False)
    assert asked == ["even", "not tall", "odd"]
    unit = torch.nn.functional.normalize(own, dim=1)
    prompts = torch.nn.functional.normalize(
        torch.stack([own[0:40:2].mean(0), own[1:40:2].mean(0)]), dim=1
    )
    nearest = (unit @ prompts.T).argmax(1).numpy()
    for c in (0, 1):
        votes = np.bincount(nearest[clusters.cluster[:40] == c], minlength=2)
        assert clusters.name(c) == ["small", "tall"][votes.argmax()]
    with pytest.raises(AmodalError, match="say which: --names FILE"):
        run.cluster(bodies, number=2, names_by=model, progress=False)


def test_all_fields_together_and_one_part(model, data):
    fused = model.cluster(data, number=2, label="kind", part="train", progress=False)
    assert fused.source == "fused" and len(fused.keys) == len(data.split("train"))
    assert (fused.cluster >= 0).all(), "a record with one field has a place too"
    spectral = model.cluster(data, field="body", by="spectral", number=2, progress=False)
    assert spectral.by == "spectral" and spectral.number == 2


def test_columns_that_the_run_does_not_read_describe_too(model, data, tmp_path):
    body = data.select(["body"])
    run = amodal.pretrain("simclr", body, tmp_path / "run", **QUICK)
    clusters = run.cluster(data, number=2, progress=False)
    assert "words tall" in " ".join(clusters.descriptions.values())


def test_simple_features_are_those_of_the_clustered_field(model, data, monkeypatch):
    table = type(data.fields["body"])

    def none(self, train):
        raise NoSimpleFeatures("none")

    monkeypatch.setattr(table, "simple_features", none)
    clusters = model.cluster(data, field="body", number=2, label="kind", progress=False)
    assert clusters.simple is None and clusters.scores["AMI"][1] is None
    assert "simple features" not in clusters.sentence


def test_what_cannot_be_compared_or_has_diverged(model, data):
    whole = open_data(
        {
            "body": [data.raw(i, "body") for i in range(41)],
            "caption": [data.raw(i, "caption") for i in range(41)],
            "kind": [None] * 40 + ["small"],
            "height": [float(i) for i in range(41)],
        }
    )
    labels = {"kind": Label(column="kind"), "height": Label(kind="number", column="height")}
    nowhere = Dataset(whole.reader, dataclasses.replace(data.schema, labels=labels))
    with pytest.raises(AmodalError, match="none of the clustered records has the label 'kind'"):
        model.cluster(nowhere, field="body", number=2, label="kind", progress=False)
    with pytest.raises(AmodalError, match="is a number, and clusters are compared with classes"):
        model.cluster(nowhere, field="body", number=2, label="height", progress=False)
    broken = copy.deepcopy(model)
    for weight in broken.encoder.parameters():
        weight.data.fill_(torch.nan)
    with pytest.raises(AmodalError, match="not finite: the run has diverged"):
        broken.cluster(data, field="body", number=2, progress=False)


def test_where_signs_mean_nothing_fields_have_no_mean(data, tmp_path):
    run = amodal.pretrain("gram", data, tmp_path / "gram", **QUICK)
    with pytest.raises(AmodalError, match="say which field: body, caption"):
        run.cluster(data, progress=False)
    assert run.cluster(data, field="body", number=2, progress=False).number == 2


def test_what_cannot_be_clustered_says_why(model, data, monkeypatch):
    for options, words in (
        ({"by": "kmeens"}, "Did you mean kmeans"),
        ({"by": "membership"}, "membership is learnt by cpp"),
        ({"field": "boddy"}, "Did you mean body"),
        ({"number": 90}, "40 records make 2 to 40 clusters"),
        ({"label": "kid"}, "Did you mean kind"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(AmodalError, match=words):
            model.cluster(data, **{"field": "body", "progress": False} | options)
    with pytest.raises(AmodalError, match="too few to find a number"):
        model.cluster(data.subset(np.arange(3)), field="body", progress=False)
    constant = open_data({"body": [{"height": 1.0, "width": 2.0}] * 8, "caption": ["a"] * 8})
    with pytest.raises(AmodalError, match="all the same"):
        cluster(model, constant, field="body", progress=False)


def test_the_verb(clusters, model, tmp_path, capsys):
    rows = ["key,height,width,kind"]
    rows += [f"r{i},{1 + 8 * (i % 2) + i / 99},{5 - 10 * (i % 2)},k{i % 2}" for i in range(40)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(rows), encoding="utf-8")
    run = str(tmp_path / "run")
    amodal.pretrain("simclr", str(table), run, **QUICK)
    capsys.readouterr()
    out, picture = str(tmp_path / "c.csv"), str(tmp_path / "c.png")
    words = ["cluster", run, "--data", str(table), "--label", "kind", "--number", "2"]
    main([*words, "--out", out, "--picture", picture])
    said = capsys.readouterr().out
    assert "2 clusters of 40 records by kmeans" in said and f"wrote {out}" in said
    (tmp_path / "names.txt").write_text("\n\n", encoding="utf-8")
    for more, message in (
        (["--out", "c.xls"], "a .csv or .parquet file, not c.xls"),
        (["--picture", "c.gif"], "to a .png file, not c.gif"),
        (["--show-field", "tabel"], "Did you mean table"),
        (["--names", str(tmp_path / "no.txt")], "cannot read classes"),
        (["--names", str(tmp_path / "names.txt")], "one of two classes or more"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        assert ended.value.code == 2 and message in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("small\ntall\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        main([*words, "--names", str(tmp_path / "names.txt")])
    assert "the one text field of a run, and this run has none" in capsys.readouterr().err
