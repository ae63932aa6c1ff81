"""Columns of a report that embed only what is read: the same records in all of them, paired."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import amodal
from amodal.core import AmodalWarning
from amodal.data import Label
from amodal.evaluate import evaluate, frozen
from amodal.evaluate.needed_records import EVERYTHING
from amodal.evaluate.protocols import knn, linear, retrieval
from amodal.evaluate.runner import parts
from amodal.inference.embed import known
from amodal.stats.paired_bootstrap import Repeated
from tests.evaluate.test_economy import same
from tests.evaluate.test_frozen import Turned, encoder_of

COLUMNS = ["trained", "simple", "frozen", "untrained", "joined"]


def records_of(n=600, labelled=0.4):
    """Two views of one hidden vector, whose sign is the label that some records have."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(n, 8))
    values = {}
    for field in ("left", "right"):
        hidden = hidden @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
        steps = [(v + rng.normal(0, 1.0, (6, 8))).astype(np.float32) for v in hidden]
        values[field] = [None if rng.random() < 0.1 else one for one in steps]
    sign = np.where(hidden[:, 0] > 0, "up", "down")
    values["sign"] = [s if rng.random() < labelled else None for s in sign.tolist()]
    data = amodal.open(values, fields={"left": "series", "right": "series"})
    data.labels.update({"sign": Label()})
    return data


@pytest.fixture(scope="module")
def records():
    return records_of()


@pytest.fixture
def passes(monkeypatch):
    """The rows of each pass of the frozen backbones."""
    seen, original = [], frozen.pooled_features

    def counted(encoder, fields, dataset, indices, *more):
        seen.append(indices)
        return original(encoder, fields, dataset, indices, *more)

    monkeypatch.setattr(frozen, "pooled_features", counted)
    return seen


def run(data, fields=("left", "right"), **options):
    nets = {field: Turned(number) for number, field in enumerate(fields)}
    how = dict(label="sign", protocols=["knn", "linear", "retrieval"], progress=False)
    baseline = encoder_of(data, 1, **nets)
    return evaluate(encoder_of(data, **nets), data, baseline=baseline, **how | options)


def check_pairs(report, records, test):
    """All columns have the outcomes of the same records, numbered in the whole test part."""
    label = records.label("sign")[test]
    there = {field: records.present(field)[test] for field in ("left", "right")}
    there["fused"] = there["left"] | there["right"]
    checked = 0
    for row, outcomes in zip(report.rows(), report.outcomes(), strict=True):
        if row["metric"] in ("median rank", "Brier", "calibration error"):
            continue
        assert list(outcomes) == COLUMNS, row
        mask = there[row["source"]]
        mask = mask & (there[row["target"]] if "target" in row else known(label))
        who = np.flatnonzero(mask)
        assert len(who) == row["n"]
        for outcome in outcomes.values():
            assert outcome.who.tolist() == who.tolist()
            for part in outcome.parts if isinstance(outcome, Repeated) else [outcome]:
                if "target" not in row and hasattr(part, "truth"):
                    assert (part.truth == (label[who] == "up")).all()
        differences = [f"trained - {column}" for column in COLUMNS[1:]]
        assert set(row["intervals"]) <= {*COLUMNS, *differences}
        assert {*differences} <= set(row["intervals"]) and "unpaired" not in row
        checked += 1
    return checked


def _alone(rows):
    return [row for row in rows if row["source"] != "fused"]


def test_few_labels_are_paired_in_every_column_and_only_what_is_read_is_embedded(
    records, passes, monkeypatch
):
    report = run(records, few=5, draws=3, protocols=["knn", "linear"])
    train, test, _ = parts(encoder_of(records), records)
    assert check_pairs(report, records, test) == 3 * (3 + 4)
    labelled = known(records.label("sign")[test])
    learnt, tested = passes
    assert tested.tolist() == test[labelled].tolist() and labelled.sum() < len(test)
    assert 2 * 5 <= len(learnt) <= 3 * 3 * 2 * 5 and len(learnt) < len(train) / 4
    assert report.about["embedded"] == {"train": len(learnt), "test": len(tested)}
    assert report.about["intervals"]["draws"] == 1000
    for page in (knn, linear):
        monkeypatch.setattr(type(page.PROTOCOL), "needed", EVERYTHING)
    whole = run(records, few=5, draws=3, protocols=["knn", "linear"])
    for one in (report, whole):
        # side by side, the fields have the lengths of the training records that are read
        one.frozen[:] = [replace(r, rows=_alone(r.rows)) for r in one.frozen]
        one.joined = None  # two descriptions too
        for result in one.results:
            for row in result.rows:
                for name in ("joined", "trained - joined"):
                    row.get("intervals", {}).pop(name, None)
                if row["source"] == "fused":
                    row.pop("intervals", None)
    same(report, whole)
    assert passes[2].tolist() == train.tolist() and passes[3].tolist() == test.tolist()


def test_a_subset_has_the_same_rows_in_every_column(records, passes):
    report = run(records, records=60)
    assert report.about["test"] == 60 and "subset" in report.about
    train, test, _ = parts(encoder_of(records), records)
    both = [passes[1], np.intersect1d(passes[0], passes[1])]
    assert len(both[0]) == 60 and not len(both[1]) and set(both[0]) <= set(test)
    assert check_pairs(report, records, passes[1]) == 3 * (3 + 4) + 2 * 4
    assert len(passes) == 2, "once in an evaluation"
    assert len(passes[0]) <= 60 and set(passes[0]) <= set(train)
    assert "a subset, drawn with seed 0" in str(report.table().title)


def test_one_frozen_field_is_embedded_for_labels_and_not_for_retrieval(records, passes):
    report = run(records, fields=["left"], few=2, draws=2)
    assert {r["source"] for r in report.rows() if "frozen" in r} == {"left"}
    test = parts(encoder_of(records), records)[1]
    labelled = known(records.label("sign")[test])
    assert passes[1].tolist() == test[labelled].tolist() and len(passes[0]) < 30
    passes.clear()
    alone = run(records, fields=["left"], protocols=["retrieval"])
    assert alone.frozen is None and not passes


def test_maps_of_two_frozen_fields_are_fitted_on_records_that_have_both(records, passes):
    run(records, protocols=["retrieval"])
    train = parts(encoder_of(records), records)[0]
    both = records.present("left")[train] & records.present("right")[train]
    assert passes[0].tolist() == train[both].tolist() and both.sum() < len(train)
    assert type(retrieval.PROTOCOL).compares_fields


def test_frozen_features_are_taken_from_the_cache(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    from amodal.nn.backbones import pretrained
    from amodal.train.cache_features import with_cached_features

    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 80)
    images = [rng.integers(0, 100 + 100 * k, (16, 16, 3), dtype=np.uint8) for k in kind]
    data = amodal.open({"image": images, "kind": ["ab"[k] for k in kind]})
    data.labels.update({"kind": Label()})
    data = data.select(["image"])
    save_file(timm.create_model("test_vit", img_size=32).state_dict(), tmp_path / "vit.safetensors")
    spec = f"timm:test_vit:32@{tmp_path / 'vit.safetensors'}"
    encoders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        tower = pretrained.backbone(spec, data.fields["image"], 64)
        encoders.append(amodal.Encoder(data.fields, size="nano", backbones={"image": tower}))
    encoder, baseline = (one.align(16) for one in encoders)
    how = dict(baseline=baseline, label="kind", protocols=["knn"], progress=False)
    plain = evaluate(encoder, data, **how)
    cached = with_cached_features(data, encoder, torch.device("cpu"), pooled=True, progress=False)

    def never(*_):
        raise AssertionError("the backbone ran")

    for one in (encoder, baseline):
        monkeypatch.setattr(one.tokenizers["image"].body, "forward", never)
    found = evaluate(encoder, cached, **how)
    for a, b in zip(plain.rows(), found.rows(), strict=True):
        assert {"frozen", "simple", "untrained"} <= set(b)
        assert a["frozen"] == pytest.approx(b["frozen"], abs=0.1)


def test_what_every_column_warns_of_is_said_once(records):
    with pytest.warns(AmodalWarning, match="few = 10000, and no class has more than") as seen:
        run(records, few=10000, draws=2, protocols=["knn"])
    messages = [str(warning.message) for warning in seen]
    assert len(messages) == len(set(messages))
    assert {warning.filename for warning in seen} == {__file__}
