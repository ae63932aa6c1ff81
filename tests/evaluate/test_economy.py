"""An evaluation embeds the records that its protocols read, once each."""

import warnings

import numpy as np
import pytest
import torch
from rich.console import Console

import amodal
from amodal.core import AmodalError, AmodalWarning, Column
from amodal.data import Label
from amodal.evaluate import LABEL, Protocol, Result, evaluate, needed_parts
from amodal.evaluate.labels import draws_of, measure
from amodal.evaluate.needed_records import EVERYTHING, PartRecords
from amodal.evaluate.protocols import cross_modal_transfer, knn, linear, missing_modality, retrieval
from amodal.evaluate.protocols.knn import neighbours
from amodal.inference.embed import embed_records
from amodal.modalities import BadValue

READERS = (knn, linear, missing_modality, cross_modal_transfer, retrieval)
NAMES = ["knn", "linear", "missing_modality", "cross_modal_transfer", "retrieval", "cluster"]


def encoder_for(records, seed=0):
    torch.manual_seed(seed)
    return amodal.Encoder(records.fields, size="nano").align(16)


def dataset(n=400, *, labelled=1.0, fields="ab"):
    """Records of fields that some lack; some have the label `kind` and the number `size`."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, n)
    values = {}
    for width, field in enumerate(fields, 4):
        x = (kind[:, None] + rng.normal(size=(n, width))).astype(np.float32)
        values[field] = [None if rng.random() < 0.1 else row for row in x]
    has = rng.random(n) < labelled
    values["kind"] = ["uvw"[k] if h else None for k, h in zip(kind, has)]
    values["size"] = [float(k + rng.normal()) if h else None for k, h in zip(kind, has)]
    records = amodal.open(values).select(list(fields))
    records.labels.update({"kind": Label(), "size": Label("number")})
    return records


@pytest.fixture
def passes(monkeypatch):
    """The rows of each pass over records."""
    seen, original = [], needed_parts.embed_records

    def counted(encoder, dataset, indices, **options):
        seen.append(np.asarray(indices)[options["only"]])
        return original(encoder, dataset, indices, **options)

    monkeypatch.setattr(needed_parts, "embed_records", counted)
    return seen


def run(data, **options):
    how = dict(label="kind", protocols=NAMES, baseline=encoder_for(data, 1), progress=False)
    return evaluate(encoder_for(data), data, **how | options)


def as_before(monkeypatch):
    """Every protocol reads everything."""
    for page in READERS:
        monkeypatch.setattr(type(page.PROTOCOL), "needed", EVERYTHING)


def same(a, b):
    assert a.skipped == b.skipped and len(a.rows()) == len(b.rows()) > 0
    for x, y in zip(a.rows(), b.rows()):
        assert x.keys() == y.keys()
        for name in x:
            if name in ("intervals", "unpaired"):
                assert list(x[name]) == list(y[name]), (x, name)
                if name == "intervals":  # bounds are quantiles of draws, rounded
                    limits = [[*one[name].values()] for one in (x, y)]
                    assert np.allclose(*limits, atol=5e-3), (x, y)
            elif isinstance(x[name], str):
                assert x[name] == y[name]
            else:
                assert np.allclose(x[name], y[name], atol=1e-5, equal_nan=True), (x, name)


@pytest.mark.parametrize("options", [{}, {"few": 4}, {"few": 3, "label": "size"}])
def test_figures_are_those_of_embedding_everything(options, monkeypatch):
    records = dataset()
    economical = run(records, **options)
    as_before(monkeypatch)
    same(economical, run(records, **options))


def test_only_labelled_records_are_embedded_and_each_once(passes):
    records = dataset(labelled=0.1)
    report = run(records, protocols=["knn", "linear", "cluster"], label=["kind", "size"])
    has = np.flatnonzero([v is not None for v in records.label("kind")])
    train, test = (np.intersect1d(records.split(part), has) for part in ("train", "valid"))
    test = np.union1d(test, np.intersect1d(records.split("test"), has))
    assert [p.tolist() for p in passes] == 2 * [train.tolist(), test.tolist()]
    assert report.about["embedded"] == {"train": len(train), "test": len(test)}
    assert len(report.train) == report.about["train"] > 5 * len(train)


def test_few_labels_need_the_drawn_records_alone(passes, monkeypatch):
    records = dataset(2000)
    economical = run(records, protocols=["knn", "linear"], few=2, draws=3, simple=False)
    assert 3 * 2 <= len(passes[0]) <= 3 * 2 * 3 * 3 < len(records.split("train")) / 10
    as_before(monkeypatch)
    same(economical, run(records, protocols=["knn", "linear"], few=2, draws=3, simple=False))


def test_centres_of_fields_are_those_of_a_sample(passes, monkeypatch):
    records = dataset(2000, labelled=0.1)
    how = dict(protocols=["cross_modal_transfer"], baseline=None)
    whole = run(records, **how)
    assert len(passes[0]) < 1200 + 250
    monkeypatch.setattr(cross_modal_transfer, "MAX_CENTRE", 100)
    passes.clear()
    economical = run(records, **how)
    assert 100 < len(passes[0]) < 350
    values = [
        np.array([r["value"] for r in x.rows() if r["metric"] == "accuracy"])
        for x in (whole, economical)
    ]
    assert 0 < np.abs(values[0] - values[1]).max() < 0.3
    monkeypatch.setattr(cross_modal_transfer, "MAX_CENTRE", 10_000)
    every = run(records, **how)
    as_before(monkeypatch)
    same(every, run(records, **how))


def test_retrieval_needs_no_training_record(passes):
    records = dataset()
    run(records, protocols=["retrieval"])
    assert len(passes[0]) == 1, "it shows the widths"
    assert len(passes[1]) == len(records) - len(records.split("train"))


def test_a_protocol_that_cannot_apply_reads_nothing(passes):
    records = dataset(labelled=0.1, fields="a")
    report = run(records, protocols=["knn", "retrieval"])
    assert "two fields" in report.skipped["retrieval"]
    assert len(passes[1]) < 20


def test_a_protocol_of_another_package_sees_everything_and_others_do_not_see_more(passes):
    class Rows(Protocol):
        name, needs = "rows", (LABEL,)

        def run(self, context):
            n = len(context.train.aligned["a"])
            row = {"source": "a", "metric": "rows", "value": float(n), "chance": 0.0, "n": n}
            return Result(self.name, {}, [row])

    class Labelled(Rows):
        name, needed = "labelled", type(knn.PROTOCOL).needed

    records = dataset(labelled=0.1)
    values = {r["protocol"]: r["n"] for r in run(records, protocols=[Rows(), Labelled()]).rows()}
    there = records.present("a")[records.split("train")]
    labels = records.label("kind")[records.split("train")]
    assert values["rows"] == there.sum()
    assert values["labelled"] == sum(t and v is not None for t, v in zip(there, labels))


def test_another_record_is_drawn_for_one_that_cannot_be_read(passes, monkeypatch):
    records = dataset(2000)
    how = dict(protocols=["knn"], few=2, draws=2, simple=False, baseline=None)
    run(records, **how)
    lost, original = set(passes[0][:4].tolist()), type(records).value

    def value(self, i, field):
        if i in lost:
            raise BadValue("gone")
        return original(self, i, field)

    monkeypatch.setattr(type(records), "value", value)
    passes.clear()
    records = dataset(2000)
    economical = run(records, **how)
    assert len(passes) == 3 and not lost & set(passes[1].tolist())
    as_before(monkeypatch)
    records = dataset(2000)
    same(economical, run(records, **how))


UNEVEN = np.array(["u"] * 20 + ["v"] * 40, dtype=object)


@pytest.mark.parametrize("labels", [UNEVEN, np.random.default_rng(0).normal(size=60) ** 3])
def test_draws_are_from_the_population_and_not_from_what_is_embedded(labels):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    whole = Column(x, torch.arange(60))
    pool = np.arange(60)
    drawn = np.unique(np.concatenate(draws_of(labels, pool, 1, 3, 0)))
    assert len(drawn) < 30
    part = whole.at(torch.from_numpy(drawn))
    how = dict(few=1, draws=3, seed=0)
    tests = {"x": whole}
    wanted = measure(neighbours, whole, labels, tests, labels, **how)
    assert measure(neighbours, part, labels, tests, labels, population=pool, **how) == wanted
    # the commonest class, or the tenths of the range, are not those of the population
    assert measure(neighbours, part, labels, tests, labels, **how) != wanted


def test_records_without_vectors_are_rows_without_a_value():
    records = dataset(60)
    encoder = encoder_for(records)
    every = np.arange(60)
    only = every % 3 == 0
    some, whole = (
        embed_records(encoder, records, every, only=only),
        embed_records(encoder, records, every),
    )
    hidden = whole.only(only)
    for embedded in (some, hidden):
        assert len(embedded) == 60 and embedded.keys == whole.keys
        for field in "ab":
            column = embedded.aligned[field]
            wanted = whole.aligned[field].at(torch.from_numpy(only[whole.aligned[field].rows]))
            assert column.rows.tolist() == wanted.rows.tolist()
            assert torch.allclose(column.values, wanted.values, atol=1e-6)
            assert len(embedded.content[field]) == len(column)
        assert embedded.fused(["a"]).rows.tolist() == embedded.aligned["a"].rows.tolist()


def test_a_joint_encoder_fuses_the_records_that_are_embedded():
    records = dataset(60)
    torch.manual_seed(0)
    encoder = amodal.Encoder(records.fields, size="nano", trunk="joint").align(16, fused=True)
    only = np.arange(60) % 3 == 0
    some = embed_records(encoder, records, range(60), only=only)
    whole = embed_records(encoder, records, range(60))
    for embedded in (some, whole.only(only)):
        column, every = embedded.fused(["a"]), whole.fused(["a"])
        assert only[column.rows.numpy()].all()
        wanted = every.at(torch.from_numpy(only[every.rows.numpy()]))
        assert torch.allclose(column.values, wanted.values, atol=1e-5)


def test_a_subset_is_of_the_same_rows_for_every_column(passes):
    records = dataset(600)
    report = run(records, records=50, protocols=["knn", "retrieval"])
    assert report.about["train"] == report.about["test"] == 50
    assert report.about["embedded"] == {"train": report.about["embedded"]["train"], "test": 50}
    assert passes[0].tolist() == passes[2].tolist() and passes[1].tolist() == passes[3].tolist()
    assert len(report.simple[0].rows) == len(report.results[0].rows)
    assert all(
        row["n"] == other["n"] <= 50
        for one, two in zip(report.results, report.simple)
        for row, other in zip(one.rows, two.rows)
    )
    train, test = (len(records.split(p)) for p in ("train", "test"))
    test = len(records) - train
    assert report.about["subset"] == (
        f"a subset, drawn with seed 0, of {train} training and {test} test records"
    )
    console = Console(width=250, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(report.table())
    assert "a subset, drawn with seed 0, of" in console.export_text()
    repeated, other = (
        run(records, records=50, protocols=["knn"]),
        run(records, records=50, protocols=["knn"], seed=1),
    )
    first = [r for r in report.rows() if r["protocol"] == "knn"]
    assert [r["value"] for r in repeated.rows()] == [r["value"] for r in first]
    assert not np.array_equal(passes[-4], passes[0]), "another seed, other records"
    assert other.about["subset"].count("seed 1") == 1


def test_a_subset_of_all_is_no_subset_and_of_one_none():
    records = dataset(100)
    assert "subset" not in run(records, records=1000, protocols=["knn"]).about
    with pytest.raises(AmodalError, match="records = 1: at least 2 training"):
        run(records, records=1, protocols=["knn"])
    with pytest.raises(AmodalError, match="part has the label 'kind' among the 2 drawn. Draw"):
        run(dataset(1000, labelled=0.01), records=2, protocols=["knn"])


def test_values_are_decoded_once(monkeypatch):
    records = dataset(300)
    calls, original = [], type(records.fields["a"]).decode

    def decode(self, raw):
        calls.append(1)
        return original(self, raw)

    monkeypatch.setattr(type(records.fields["a"]), "decode", decode)
    run(records)
    there = sum(records.present(f).sum() for f in "ab")
    assert len(calls) == there, "trained, untrained and simple features share them"


def test_simple_features_of_few_labels_have_the_draws_of_the_encoder():
    records = dataset(3000, labelled=0.9)
    report = run(records, protocols=["knn"], few=2, draws=2)
    assert [r["n"] for r in report.simple[0].rows] == [r["n"] for r in report.results[0].rows]
    assert all(np.isfinite(r["simple"]) for r in report.rows())


def test_records_are_known_before_they_are_embedded():
    records = dataset(200, labelled=0.5)
    part = PartRecords.of(records, records.split("train"))
    labels = records.label("kind")[records.split("train")]
    assert part.labelled("kind").tolist() == [v is not None for v in labels]
    assert part.labelled("kind,size").tolist() == part.labelled("kind").tolist()
    assert not part.labelled(None).any() and not part.labelled("no such").any()
    assert set(part.population()) == {"a", "b", "fused"}


def test_more_labels_than_there_are_is_said():
    labels = np.array(["a", "b", "a", "a", None, "b"], dtype=object)
    pool = np.array([0, 1, 2, 3, 5])
    with pytest.warns(AmodalWarning, match="no class has more than 3 records with a label here"):
        (drawn,) = draws_of(labels, pool, 4, 1, 0)
    assert len(drawn) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draws_of(labels, pool, 3, 1, 0)
