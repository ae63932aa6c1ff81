"""Runs as one: scores of their indexes, their vectors end to end, and what does not fit."""

import json

import pytest
import torch
from torch.nn.functional import normalize

import amodal
from amodal.cli import main
from amodal.core import AmodalError, Column, Embeddings
from amodal.core.embeddings import vectors
from amodal.data import open as open_data
from amodal.nn.run_ensemble import RunEnsemble, checked_weights
from amodal.search import index as index_module
from amodal.search import open_index
from amodal.search.ensemble import search_ensemble

QUICK = dict(steps=2, size="nano", progress=False, logger=None)


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """Two methods, of which the second has heads that are not linear and another width."""
    root = tmp_path_factory.mktemp("runs")
    clip = amodal.pretrain("clip", str(folder), root / "clip", **QUICK)
    other = amodal.pretrain(
        "siglip", str(folder), root / "siglip", seed=1, options={"width": 24}, **QUICK
    )
    for model in (clip, other):
        model.index(str(folder))
    return clip, other


def scores(model, **query):
    return {hit.key: hit.score for hit in model.search(k=80, **query)}


def test_a_score_is_the_weighted_mean_of_the_runs(runs, folder):
    query = {"text": "a red picture", "fields": ["image"]}
    one, two = (scores(m, **query) for m in runs)
    want = {key: (3 * one[key] + two[key]) / 4 for key in one}
    hits = amodal.Ensemble(runs, [3, 1]).search(k=80, **query)
    assert {h.key: h.score for h in hits} == pytest.approx(want)
    assert [h.score for h in hits] == sorted(want.values(), reverse=True)
    assert hits[0].labels == {"folder": hits[0].key.split("/")[0]}
    few = amodal.Ensemble(runs, [3, 1]).search(k=5, **query)
    assert [h.key for h in few] == [h.key for h in hits[:5]]
    for options in (
        {"where": {"folder": "red"}},
        {"like": ["red/000"]},
        {"weights": {"text": 0.5}},
    ):
        found = amodal.Ensemble(runs).search(k=80, **{**query, **options})
        assert len(found) == {"where": 20, "like": 79, "weights": 80}[next(iter(options))]


def test_a_record_that_one_run_cannot_score_has_the_mean_of_the_others(tmp_path):
    vector = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    everyone, two = torch.arange(3), torch.tensor([0, 2])
    members = []
    for name, rows in (("a", everyone), ("b", two)):
        index = open_index(tmp_path / name)
        index.add(["x", "y", "z"], Embeddings({"image": Column(vector[rows], rows)}, 3))
        members.append((index, None))
    query = torch.randn(4)
    hits = {h.key: h.score for h in search_ensemble(members, {"image": query})}
    want = vector @ normalize(query, dim=0)
    assert [hits[k] for k in "xyz"] == pytest.approx(want.tolist(), abs=2e-3), "in half precision"


def test_all_records_are_ranked_exactly(runs, monkeypatch):
    monkeypatch.setattr(index_module, "MIN_VECTORS", 4)
    index = runs[0].open_index()
    index.threshold = 4
    query = torch.randn(index.width)
    monkeypatch.setattr(
        index_module.Index, "approximate", lambda self, field: pytest.fail("not exact")
    )
    assert len(index.nearest(query, k=80)) == 80
    with pytest.raises(pytest.fail.Exception, match="not exact"):
        index.nearest(query, k=3)


def test_the_vectors_end_to_end_have_the_weighted_mean_of_cosines(runs, folder):
    data = open_data(str(folder))
    both = amodal.Ensemble(runs, [1, 4])
    z = amodal.evaluate.embed_records(both.encoder, runs[0].read(data), range(12))
    parts = [m.embed(data).aligned for m in runs]
    for a, b in (("image", "text"), ("image", "image")):
        ours = normalize(vectors(z.aligned[a]), dim=1) @ normalize(vectors(z.aligned[b]), dim=1).T
        want = 0
        for weight, part in zip((0.2, 0.8), parts):
            x, y = (normalize(vectors(part[s])[: len(z.aligned[s])].float(), dim=1) for s in (a, b))
            want = want + weight * x @ y.T
        torch.testing.assert_close(ours, want, atol=1e-5, rtol=1e-4)
    features = [m.embed(data).features["image"] for m in runs]
    torch.testing.assert_close(
        vectors(z.features["image"]),
        torch.cat([w**0.5 * vectors(f)[:12] for w, f in zip((0.2, 0.8), features)], 1),
        atol=1e-5, rtol=1e-4,
    )  # fmt: skip
    assert (
        both.encoder.feature_width("image")
        == both.encoder.width
        == z.features["image"].values.shape[1]
    )
    assert both.encoder.space_width == z.aligned["image"].values.shape[1]


def test_it_is_evaluated_like_a_run(runs, folder, tmp_path, capsys, monkeypatch):
    report = amodal.Ensemble(runs).evaluate(
        str(folder), protocols=["knn"], untrained=True, simple=False, progress=False
    )
    assert report.rows() and report.untrained
    assert amodal.Ensemble(runs).trained.tolist() == sorted(set(runs[0].trained.tolist()))
    words = [
        "evaluate",
        str(runs[0].path),
        "--data",
        str(folder),
        "--protocols",
        "knn",
        "--no-simple",
    ]
    out = tmp_path / "r.json"
    main(
        [
            *words,
            "--no-untrained",
            "--json",
            str(out),
            "--ensemble",
            str(runs[1].path),
            "--ensemble-weights",
            "2,1",
        ]
    )
    assert json.loads(out.read_text(encoding="utf-8"))


def test_the_verb(runs, folder, capsys, tmp_path):
    one, two = (str(m.path) for m in runs)
    words = ["search", one, "--text", "a red picture", "--fields", "image", "--k", "4"]
    main([*words, "--ensemble", two, "--ensemble-weights", "1,3", "--json"])
    hits = json.loads(capsys.readouterr().out)
    want = amodal.Ensemble(runs, [1, 3]).search(k=4, text="a red picture", fields=["image"])
    assert [h["key"] for h in hits] == [h.key for h in want]
    other = amodal.pretrain("clip", str(folder), tmp_path / "small", **QUICK)
    other.index(open_data(str(folder)).subset(range(70)))
    for more, message in (
        (["--ensemble", two, "--index", "x"], "leave --index out"),
        (["--ensemble-weights", "1,3"], "there is none"),
        (["--ensemble", two, "--ensemble-weights", "1"], "as many weights"),
        (["--ensemble", two, "--ensemble-weights", "1,0"], "each above 0"),
        (["--ensemble", two, "--ensemble-weights", "1,x"], "numbers, one for each run"),
        (["--ensemble", two, "--generate"], "--ensemble is of an index"),
        (["--ensemble", str(tmp_path / "small")], "10 are in one alone, such as"),
        (["--ensemble", two, "--k", "0"], "k = 0"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert message in capsys.readouterr().err
    for more, message in (
        (["--ensemble-weights", "1,3"], "there is none"),
        ([one, "--ensemble", two], "runs side by side are seeds"),
        (
            ["--ensemble", two, "--protocols", "missing_modality_robustness"],
            "protocols that change records",
        ),
    ):
        with pytest.raises(SystemExit):
            main(["evaluate", one, *more, "--data", str(folder)])
        assert message in capsys.readouterr().err


def test_what_is_no_ensemble(runs, folder, tmp_path):
    clip, _ = runs
    with pytest.raises(AmodalError, match="two runs or more"):
        amodal.Ensemble([clip])
    assert checked_weights(None, 4) == [0.25] * 4
    data = open_data(str(folder))
    words = amodal.pretrain("simclr", data.select(["text"]), tmp_path / "words", **QUICK)
    pictures = amodal.pretrain("simclr", data.select(["image"]), tmp_path / "pictures", **QUICK)
    with pytest.raises(AmodalError, match="no field in common: text and image"):
        amodal.Ensemble([words, pictures]).encoder  # noqa: B018
    assert list(amodal.Ensemble([clip, pictures]).encoder.fields) == ["image"]
    small = amodal.pretrain(
        "simclr", data.select(["image"]), tmp_path / "small", resolution=8, **QUICK
    )
    with pytest.raises(AmodalError, match="reads 'image' otherwise"):
        amodal.Ensemble([clip, small]).encoder  # noqa: B018
    gram = amodal.pretrain("gram", data, tmp_path / "gram", **QUICK)
    with pytest.raises(AmodalError, match="compares by"):
        RunEnsemble([clip.encoder, gram.encoder])


def test_data_may_lack_a_field_as_for_one_run(runs, folder):
    whole = open_data(str(folder)).with_fields(runs[0].fields)
    pictures = [whole.raw(i, "image") for i in range(len(whole))]
    alone = open_data(
        {"image": pictures, "kind": [k.split("/")[0] for k in whole.keys]},
        fields={"image": whole.fields["image"]},
    )
    with pytest.warns(UserWarning, match="has no text; what it has is read"):
        report = amodal.Ensemble(runs).evaluate(
            alone, label="kind", protocols=["knn"], untrained=False, simple=False, progress=False
        )
    assert {row["source"] for row in report.rows()} >= {"image"}


def test_a_run_that_was_chosen_on_the_validation_part_counts_for_all(runs, folder):
    one, two = runs
    chosen = amodal.Model(two.encoder, two.config | {"chosen_on": "valid"}, trained=two.trained)
    options = dict(protocols=["knn"], untrained=False, simple=False, progress=False)
    both = amodal.Ensemble([one, two]).evaluate(str(folder), **options)
    assert both.about["parts"] == "train; test and validation"
    report = amodal.Ensemble([one, chosen]).evaluate(str(folder), **options)
    assert report.about["parts"] == "train; test"
