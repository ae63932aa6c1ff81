"""`amodal link`: nearest records, links, groups, what stands beside them, and the verb."""

import csv
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

import amodal
from amodal.cli import main
from amodal.core import AmodalError, Column, Embeddings
from amodal.data import open as open_data
from amodal.inference.embed import Embedded
from amodal.linkage import link, nearest, sides

QUICK = dict(steps=2, size="nano", progress=False, logger=None)
QUIET = dict(progress=False)


def unit(*shape, seed=0):
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(z, dim=1)


@pytest.fixture(scope="module")
def data():
    """Thirty things, each twice: a text and the same with an error in it."""
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice([*"abcdefghijklmnopqrstuvwxyz"], 14)) for _ in range(30)]
    texts = [*names, *(f"{n[:5]}-{n[6:]}" for n in names)]
    sizes = [{"height": float(i % 30), "width": float((i * 7) % 30)} for i in range(60)]
    return open_data(
        {"text": texts, "body": sizes, "who": [f"w{i % 30}" for i in range(60)]}, name="firms"
    )


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return amodal.pretrain("clip", data, tmp_path_factory.mktemp("run") / "clip", **QUICK)


def embeds(monkeypatch, vectors, abs_cosine=False):
    """Replace embedding: key -> field -> vector, by the place of the record in the data."""

    def embed_records(encoder, dataset, rows, **options):
        columns = {}
        for field, of in vectors.items():
            if field in dataset.fields and dataset.present(field).any():
                columns[field] = Column(of[np.asarray(rows)], torch.arange(len(rows)))
        z = Embeddings(columns, len(rows))
        return Embedded([dataset.keys[i] for i in rows], z, z, abs_cosine=abs_cosine)

    monkeypatch.setattr(sides, "embed_records", embed_records)


@pytest.mark.parametrize("tile", [3, 1024])
def test_nearest_is_a_loop(monkeypatch, tile):
    monkeypatch.setattr(nearest, "TILE", tile)
    q, k = unit(11, 4), unit(7, 4, seed=1)
    for keys in (k, None):
        of = nearest.nearest_of(q, keys)
        product = (q @ (q if keys is None else keys).T).numpy()
        if keys is None:
            np.fill_diagonal(product, -9)
        order = np.sort(product, 1)
        assert of.index.tolist() == product.argmax(1).tolist()
        np.testing.assert_allclose(of.score, order[:, -1], atol=1e-6)
        np.testing.assert_allclose(of.margin, order[:, -1] - order[:, -2], atol=1e-6)
        assert of.mutual.tolist() == [product[:, j].argmax() == i for i, j in enumerate(of.index)]
    one = nearest.nearest_of(q[:1], None)
    assert one.index.tolist() == [-1] and np.isnan(one.score[0]) and not one.mutual[0]
    single = nearest.nearest_of(q, k[:1])
    assert np.isnan(single.margin).all() and single.mutual.sum() == 1


@pytest.mark.parametrize("linkage", nearest.LINKAGES)
def test_groups_are_those_of_agglomerative_clustering(linkage):
    z = unit(40, 3)
    for threshold in (0.5, 0.9, 0.99):
        model = AgglomerativeClustering(
            n_clusters=None, metric="cosine", linkage=linkage, distance_threshold=1 - threshold
        )
        want = model.fit_predict(z.double().numpy())
        ours = nearest.groups_of(z, threshold, linkage)
        assert adjusted_rand_score(want, ours) == 1
        assert ours[0] == 0 and set(ours) == set(range(len(set(want))))


def test_a_cosine_of_rounded_vectors_may_be_over_one():
    z = unit(5, 3)
    assert len(set(nearest.groups_of(z, 1.0000004, "average").tolist())) == 5


def test_what_no_linkage_takes(monkeypatch):
    with pytest.raises(AmodalError, match="Did you mean average"):
        nearest.groups_of(unit(4, 2), 0.5, "averag")
    monkeypatch.setattr(nearest, "MAX_AGGLOMERATIVE", 3)
    with pytest.raises(AmodalError, match="take single"):
        nearest.groups_of(unit(4, 2), 0.5, "complete")


def test_within_one_set_mutual_neighbours_are_linked(monkeypatch, data, run):
    base = unit(30, 6)
    z = torch.cat([base, base + 0.01 * unit(30, 6, seed=1)])
    embeds(monkeypatch, {"text": z})
    links = link(run, data, field="text", **QUIET)
    assert links.linked.all() and links.nearest.index.tolist() == [*range(30, 60), *range(30)]
    assert links.group.tolist() == [*range(30), *range(30)] and links.threshold is None
    assert "60 of 60 records are linked to each other: mutual nearest neighbours;" in links.sentence
    assert "30 groups of two or more, the largest of 2; 30 different things" in links.sentence


def test_a_threshold_makes_groups_of_chains(monkeypatch, data, run):
    angle = torch.arange(60) * np.pi / 60
    z = torch.stack([angle.cos(), angle.sin()], 1)
    embeds(monkeypatch, {"text": z})
    step = float(torch.cos(torch.tensor(np.pi / 60)))
    chained = link(run, data, field="text", threshold=step - 1e-4, **QUIET)
    assert set(chained.group) == {0} and chained.linked.all()
    assert link(run, data, field="text", threshold=step + 1e-4, **QUIET).linked.sum() == 0
    complete = link(run, data, field="text", threshold=step - 1e-4, linkage="complete", **QUIET)
    assert np.bincount(complete.group).max() == 2


def test_between_two_sets_links_are_mutual_or_to_exemplars(monkeypatch, data, run):
    keys, noise = unit(60, 8), 0.01 * unit(60, 8, seed=2)
    queries = keys.clone()
    queries[:3] = keys[5] + torch.tensor([[0.2], [0.1], [0.3]]) * noise[:3]
    queries[5] = -keys.mean(0)  # and it is like no other
    embeds(monkeypatch, {"text": queries, "body": keys})
    options = dict(to=data, field="text", to_field="body", **QUIET)
    one = link(run, data, **options)
    assert one.nearest.index[:3].tolist() == [5, 5, 5]
    assert one.linked[:3].tolist() == [False, True, False] and one.group is None
    many = link(run, data, many_to_one=True, threshold=0.9, **options)
    assert many.linked[:3].all() and not many.linked[5] and many.linked[6:].all()
    assert (
        "59 of 60 records are linked to 60 others: nearest neighbours with a cosine of 0.900 or more"
        in many.sentence
    )
    assert not many.simple, "two fields have no simple features in common"


def test_a_label_chooses_the_threshold_and_measures_on_the_rest(monkeypatch, data, run):
    base = unit(30, 6)
    z = torch.cat([base, base + 0.02 * unit(30, 6, seed=1)])
    embeds(monkeypatch, {"text": z})
    monkeypatch.setitem(link.__globals__, "MIN_LABELLED", 2)
    links = link(
        run,
        data,
        to=data.subset(range(30, 60)),
        field="text",
        label="who",
        many_to_one=True,
        **QUIET,
    )
    assert links.tuned and ", chosen on the validation part" in links.sentence
    valid = links.one.parts == 1
    # of a run that was trained on the training part
    assert valid.sum() > 1 and (links.measured == (links.one.parts == 2)).all()
    assert "measured on 9 records with who, none of which chose" in links.sentence
    options = {"field": "text", "label": "who", **QUIET}
    alone = link(run, data, part="valid", **options)
    assert not alone.scores and "the threshold was chosen on all of them" in alone.sentence
    trained = link(run, data, part="train", threshold=0.5, **options)
    assert trained.scores["top-1"]["links"] == 1.0 and "so that this flatters" in trained.sentence
    z[30:] = unit(30, 6, seed=5)  # half of the second set is other things
    embeds(monkeypatch, {"text": z})
    links = link(run, data, field="text", label="who", threshold=0.99, **QUIET)
    assert links.scores["top-1"]["links"] < 0.2
    assert links.scores["top-1"]["edit distance"] == 1.0
    assert links.scores["top-1"]["chance"] == pytest.approx(1 / 59)
    monkeypatch.setitem(link.__globals__, "MIN_LABELLED", 10**6)
    with pytest.raises(AmodalError, match="say it: --threshold"):
        link(run, data, field="text", label="who", **QUIET)


def test_scores_against_a_count(data, run):
    from amodal.linkage.nearest import Nearest
    from amodal.linkage.result import Links
    from amodal.linkage.sides import Side

    def side(rows):
        return Side(data, np.array(rows), torch.zeros(len(rows), 1), ("text",), np.zeros(len(rows)))

    near = Nearest(
        index=np.array([0, 1, 3, 0, 2]),
        score=np.array([0.9, 0.5, 0.8, 0.7, 0.6]),
        margin=np.full(5, 0.1),
        mutual=np.ones(5, bool),
    )
    truth = np.array(["a", "b", "c", "a", None]), np.array(["a", "b", "c", "x"])
    options = dict(one=side(range(5)), other=side(range(4)), nearest=near, truth=truth, label="who")
    links = Links(linked=np.array([1, 0, 1, 0, 1], bool), **options)
    scores = links.scores
    assert scores["top-1"] == {"links": 0.75, "chance": 0.25}
    assert scores["precision"]["links"] == 0.5 and scores["recall"]["links"] == 0.25
    # a nearest record without a label is neither right nor wrong
    partly = dict(options, truth=(truth[0], np.array(["a", "b", None, "c"], dtype=object)))
    scores = Links(linked=np.array([1, 0, 1, 0, 1], bool), **partly).scores
    assert scores["precision"]["links"] == 1.0 and scores["recall"]["links"] == 0.5
    hidden = np.array(["a", None, "c", "x"], dtype=object)
    scores = Links(linked=np.ones(5, bool), **dict(options, truth=(truth[0], hidden))).scores
    assert scores["precision"]["links"] == pytest.approx(2 / 3), "of a, c and the other a"
    assert scores["top-1"]["chance"] == pytest.approx(1 / 3)
    some = Links(linked=links.linked, measured=np.array([0, 1, 1, 1, 1], bool), **options)
    assert some.scores["top-1"]["links"] == pytest.approx(2 / 3)


def test_simple_features_and_edit_distance_stand_beside(data, run):
    links = link(run, data, field="text", label="who", threshold=0.5, **QUIET)
    assert set(links.simple) == {"simple features", "edit distance"}
    assert links.scores["top-1"]["edit distance"] == 1.0
    assert links.scores["top-1"]["simple features"] > 0.9
    assert "edit distance take the same nearest for" in links.sentence
    names, copies = data.subset(range(30)), data.subset(range(30, 60))
    links = run.link(names, to=copies, field="text", label="who", threshold=0.0, **QUIET)
    for metric in ("precision", "recall"):  # of mutual neighbours, by a loop
        near = links.simple["edit distance"]
        judged = near.mutual & links.measured
        right = sum(links.truth[1][near.index[i]] == links.truth[0][i] for i in judged.nonzero()[0])
        total = {"precision": judged, "recall": links.measured}[metric].sum()
        assert links.scores[metric]["edit distance"] == pytest.approx(right / total)
    body = link(run, data, field="body", threshold=0.5, **QUIET)
    assert set(body.simple) == {"simple features"}
    both = link(run, data, to=data.subset(range(59)), threshold=0.5, **QUIET)
    assert both.simple["simple features"].index.tolist()[:59] == list(range(59))
    assert both.one.fields == ("text", "body")


def test_data_is_not_linked_to_itself_but_from_field_to_field(data, run):
    for options in ({}, {"field": "text"}, {"field": "text", "to_field": "text"}):
        with pytest.raises(AmodalError, match="--to is the data itself.*leave --to out"):
            link(run, data, to=data, **options, **QUIET)
    across = link(run, data, to=data, field="text", to_field="body", **QUIET)
    assert len(across.nearest.index) == 60


def test_weights_pool_as_clippings_does(data, run, tmp_path):
    from amodal.methods.embedding_retrieval.clippings import pooled

    z = run.embed(data).aligned
    links = link(run, data, weights={"text": 3.0, "body": 1.0}, **QUIET)
    torch.testing.assert_close(links.one.unit, pooled(z, {"text": 3.0, "body": 1.0}).values)
    own = amodal.pretrain("clippings", data, tmp_path / "c", **QUICK, options={"image_weight": 0.9})
    links = link(own, data, **QUIET)
    want = pooled(own.embed(data).aligned, {"text": 0.1, "body": 0.9}).values
    torch.testing.assert_close(links.one.unit, want)


def test_files_and_the_picture(data, run, tmp_path):
    links = link(run, data, threshold=0.9, **QUIET)
    with links.save(tmp_path / "deep" / "links.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["key", "other", "score", "margin", "mutual", "linked", "group"]
    assert [r["key"] for r in rows] == data.keys
    assert rows[4]["other"] == data.keys[links.nearest.index[4]]
    assert (rows[4]["linked"] == "true") == links.linked[4] and int(
        rows[4]["group"]
    ) == links.group[4]
    table = pq.read_table(
        link(run, data, to=data.subset(range(59)), **QUIET).save(tmp_path / "l.parquet")
    )
    assert table.column_names == ["key", "other", "score", "margin", "mutual", "linked"]
    assert min(Image.open(links.save_picture(tmp_path / "p.png")).size) > 100
    for call in (links.save, links.save_picture):
        with pytest.raises(AmodalError, match="file, not"):
            call(tmp_path / "x.txt")


def test_what_cannot_be_linked_says_why(monkeypatch, data, run, tmp_path):
    for options, words in (
        ({"field": "txt"}, "Did you mean text"),
        ({"to_field": "text"}, "--to-field is of two sets"),
        ({"many_to_one": True}, "--many-to-one is of two sets"),
        ({"field": "text", "weights": {"text": 1.0}}, "weights are of all fields"),
        ({"weights": {"text": -1.0}}, "weights are at least 0"),
        ({"weights": {"txt": 1.0}}, "Did you mean text"),
        ({"to": data, "to_field": "body"}, "say that of this one: --field"),
        ({"threshold": 3.0}, "from -1 to 1"),
        ({"linkage": "ward"}, "no linkage is called"),
        ({"label": "wo", "threshold": 0.5}, "Did you mean who"),
    ):
        with pytest.raises(AmodalError, match=words):
            link(run, data, **options, **QUIET)
    with pytest.raises(AmodalError, match="has no records to link"):
        link(run, data.subset([int(data.split("train")[0])]), part="test", **QUIET)
    embeds(monkeypatch, {"text": unit(60, 3)}, abs_cosine=True)
    with pytest.raises(AmodalError, match="whose sign means nothing"):
        link(run, data, field="text", **QUIET)
    embeds(monkeypatch, {"text": unit(60, 3) * torch.nan})
    with pytest.raises(AmodalError, match="it has diverged"):
        link(run, data, field="text", **QUIET)


def test_the_verb(tmp_path, folder, capsys):
    amodal.pretrain("clip", str(folder), tmp_path / "run", **QUICK)
    others = shutil.copytree(folder, tmp_path / "others")
    next(others.glob("*/000.png")).unlink()  # which had no caption
    capsys.readouterr()
    words = ["link", str(tmp_path / "run"), "--data", str(folder), "--field", "image"]
    main(
        [
            *words,
            "--to",
            str(others),
            "--out",
            str(tmp_path / "l.csv"),
            "--picture",
            str(tmp_path / "p.png"),
        ]
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert "79 of 80 records are linked to 79 others" in shown and "wrote" in shown
    with (tmp_path / "l.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(r["key"] == r["other"] for r in rows) == 79
    assert [r["linked"] for r in rows if r["key"] != r["other"]] == ["false"]
    for more, message in (
        (["--out", "x.txt"], "links are written to"),
        (["--picture", "x.txt"], "to a .png"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert message in capsys.readouterr().err
