"""From records to a report, with a real encoder."""

import json

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import amodal
from amodal.core import AmodalError
from amodal.core.embeddings import FUSED
from amodal.evaluate import Report, embed_records, embed_values, evaluate, figures, protocol_names
from tests.evaluate.made import made


@pytest.fixture(scope="module")
def records(folder):
    return amodal.open(folder)


def encoder_for(records, seed=0, **options):
    torch.manual_seed(seed)
    return amodal.Encoder(records.fields, size="nano", **options).align(
        16, fused=options.get("trunk") == "joint"
    )


@pytest.fixture(scope="module")
def report(records):
    return evaluate(
        encoder_for(records),
        records,
        baseline=encoder_for(records, 1),
        few=3,
        draws=3,
        progress=False,
    )


def test_records_are_embedded_once_each_and_in_order(records):
    encoder = encoder_for(records).train()
    done = []
    embedded = embed_records(encoder, records, range(len(records)), batch=32, progress=done.append)
    assert encoder.training, "the mode is as it was"
    assert embedded.keys == records.keys and sum(done) == len(records)
    text, image = (
        next(f for f, m in records.fields.items() if type(m).__name__ == kind)
        for kind in ("Text", "Image")
    )
    assert (
        len(embedded.aligned[image]) == 80
        and len(embedded.aligned[text]) == records.present(text).sum() < 80
    )
    row = int(embedded.aligned[text].rows[3])
    alone = embed_values(encoder, text, [records.raw(row, text)])
    assert torch.allclose(alone[0], embedded.aligned[text].values[3], atol=1e-5)
    assert len(torch.unique(embedded.content[text])) == len(embedded.content[text])
    assert set(embedded.probed()) == {image, text, FUSED}


def test_a_joint_encoder_sees_only_the_sources_it_is_passed(records):
    encoder = encoder_for(records, trunk="joint")
    embedded = embed_records(encoder, records, range(40))
    text = next(f for f, m in records.fields.items() if type(m).__name__ == "Text")
    assert embedded.re_fuse is not None
    alone = embedded.fused([text])
    assert alone.rows.tolist() == embedded.aligned[text].rows.tolist()
    whole = embedded.fused()
    assert not torch.allclose(whole.values[alone.rows][:5], alone.values[:5], atol=1e-4)


def test_a_report_has_everything_side_by_side(report, tmp_path):
    rows = report.rows()
    usual = {
        "knn",
        "linear",
        "cluster",
        "retrieval",
        "zero_shot",
        "missing_modality",
        "cross_modal_transfer",
    }
    assert {r["protocol"] for r in rows} == usual <= set(protocol_names())
    assert (
        "was in training" in report.skipped["open_set"]
        and "part of" in report.skipped["track_identification"]
    )
    assert all("untrained" in r and "chance" in r for r in rows)
    console = Console(width=200, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(report.table())
    shown = console.export_text()
    for word in ("knn", "zero_shot", "trained", "untrained", "chance", "3 labels of each class"):
        assert word in shown
    file = report.save(tmp_path / "deep" / "report.json")
    read = json.loads(file.read_text(encoding="utf-8"))
    assert read["about"]["fingerprint"] and read["results"][0]["spec"]["few"] == 3
    loaded = Report.load(file)
    assert len(loaded.rows()) == len(rows)
    for a, b in zip(loaded.rows(), rows):
        assert a.keys() == b.keys() and a["value"] == pytest.approx(b["value"], nan_ok=True)
    for name in ("missing_modality", "cross_modal_transfer", "map"):
        assert Image.open(tmp_path / "deep" / f"report.{name}.png").size[0] > 300
    with pytest.raises(AmodalError, match="is not a report"):
        (tmp_path / "x.json").write_text("{}", encoding="utf-8")
        Report.load(tmp_path / "x.json")


def test_long_protocols_are_shown_in_short():
    from amodal.evaluate.protocols.missing_modality import missing_modality
    from amodal.evaluate.protocols.retrieval import retrieval
    from amodal.evaluate.report_table import in_short

    sources = tuple("abcde")
    test = made(seed=2, sources=sources)
    rows = [
        {"protocol": "retrieval", **r}
        for r in retrieval(None, test).rows
        if r["metric"] == "recall@10"
    ]
    short = in_short(rows)
    assert len(rows) == 20 and len(short) == 5 and short[0]["of"] == 4
    assert short[0]["value"] == pytest.approx(
        np.mean([r["value"] for r in rows if r["source"] == "a"])
    )
    rows = [
        {"protocol": "missing_modality", **r}
        for r in missing_modality(test, test, label="kind").rows
        if r["metric"] == "accuracy"
    ]
    assert [r["source"] for r in in_short(rows)] == [
        "1 field",
        "2 fields",
        "3 fields",
        "4 fields",
        "5 fields",
    ]


def test_what_does_not_apply_is_skipped_with_a_reason():
    rng = np.random.default_rng(0)
    values = {
        "a": list(rng.normal(size=(60, 5)).astype(np.float32)),
        "b": list(rng.normal(size=(60, 4)).astype(np.float32)),
    }
    records = amodal.open(values)
    encoder = encoder_for(records)
    report = evaluate(encoder, records, progress=False)
    assert [r.protocol for r in report.results] == ["retrieval", "missing_modality"]
    assert "needs a label" in report.skipped["knn"] and "zero_shot" in report.skipped
    with pytest.raises(AmodalError, match="nothing could be measured.*needs a label"):
        evaluate(encoder, records, protocols=["knn"], progress=False)


def test_typos_offer_the_nearest_name(records):
    encoder = encoder_for(records)
    label = next(iter(records.labels))
    with pytest.raises(AmodalError, match="no protocol is called 'liner'. Did you mean linear"):
        evaluate(encoder, records, protocols=["liner"], progress=False)
    with pytest.raises(AmodalError, match=f"Did you mean {label}"):
        evaluate(encoder, records, label=label[:-1], progress=False)
    with pytest.raises(AmodalError, match="no option of .* is called 'draw'. Did you mean draws"):
        evaluate(encoder, records, draw=3, progress=False)


def test_a_label_that_no_record_has_names_the_others():
    x = list(np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32))
    from amodal.data import Label

    records = amodal.open({"a": x, "kind": ["u", "v"] * 30, "empty": [None] * 60})
    records.labels.update({"kind": Label(), "empty": Label()})
    with pytest.raises(
        AmodalError,
        match="none of the 60 records has the label 'empty'. Labels that some have: kind",
    ):
        evaluate(encoder_for(records), records, label="empty", progress=False)


def test_figures_leave_pyplot_alone(records, tmp_path):
    before = dict(matplotlib.rcParams)
    embedded = embed_records(encoder_for(records), records, range(len(records)))
    figures.retrieval_sheet(embedded, records, tmp_path / "sheet.png")
    embedded.labels.update(
        latitude=np.linspace(-88.5, 88.5, 80), longitude=np.linspace(-178.5, 178.5, 80)
    )
    figures.world_map(embedded, tmp_path / "world.png")
    figures.embedding_map(embedded, tmp_path / "map.png", label="latitude")
    run = tmp_path / "run"
    run.mkdir()
    lines = [
        {"step": i, "loss": 5 / i} | ({"rank/a": i / 2, "rank/b": i / 3} if i % 5 == 0 else {})
        for i in range(1, 50)
    ]
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    figures.curves(run, tmp_path / "curves.png")
    for name in ("sheet", "world", "map", "curves"):
        assert Image.open(tmp_path / f"{name}.png").size[0] > 300
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(AmodalError, match="no metrics.jsonl"):
        figures.curves(tmp_path, tmp_path / "no.png")


def test_ties_count_as_on_average_over_all_orders_of_them():
    from itertools import permutations

    from amodal.stats.ranking import hits, reciprocal_ranks

    def column(*values):
        return torch.tensor(values, dtype=torch.float64)

    for ahead, tied, equal in ((0, 3, 1), (1, 3, 2), (0, 2, 3), (2, 0, 2), (0, 0, 1)):
        orders = [[0] * ahead + [*o] for o in permutations([0] * tied + [1] * equal)]
        case = column(ahead), column(tied), column(equal)
        for k in (1, 2, 3, 5, 10):
            expected = np.mean([any(order[:k]) for order in orders])
            assert hits(*case, k).item() == pytest.approx(expected, abs=1e-12), (
                ahead,
                tied,
                equal,
                k,
            )
        expected = np.mean([1 / (1 + order.index(1)) for order in orders])
        assert reciprocal_ranks(*case).item() == pytest.approx(expected, abs=1e-12)


def test_an_encoder_of_one_point_scores_chance_with_equal_values_too():
    from amodal.evaluate.protocols.retrieval import ranked

    same = torch.tensor([0] * 12 + [1] * 5 + list(range(2, 33)))
    rows = ranked(torch.ones(48, 4), torch.ones(48, 4), same)
    for row in rows[:-1]:
        assert row["value"] == pytest.approx(row["chance"], abs=1e-9), row["metric"]


def test_average_precision_is_that_of_scikit_learn_and_the_mean_over_orders_of_ties():
    import itertools

    from sklearn.metrics import average_precision_score

    from amodal.stats.ranking import average_precisions, chance_of_average_precision

    torch.manual_seed(0)
    query, gallery, codes = torch.randn(5, 3), torch.randn(12, 3), torch.arange(12) % 3
    unit = torch.nn.functional.normalize
    similarity = unit(query, dim=1) @ unit(gallery, dim=1).T
    got = average_precisions(query, gallery, lambda i: codes == codes[i])
    for i, value in enumerate(got):
        expected = average_precision_score((codes == codes[i]).numpy(), similarity[i].numpy())
        assert float(value) == pytest.approx(expected, abs=1e-9)
    # two groups of equals, of 2 and of 4: the mean over all their orders
    gallery = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 1], [0, 1]])
    right = torch.tensor([True, False, True, True, False, False])
    orders = [
        [*first, *last]
        for first in itertools.permutations([0, 1])
        for last in itertools.permutations([2, 3, 4, 5])
    ]
    mean = np.mean(
        [
            average_precision_score(right[o].numpy(), -np.arange(6))
            for o in (torch.tensor(order) for order in orders)
        ]
    )
    got = average_precisions(torch.tensor([[1.0, 0.1]]), gallery, lambda i: right)
    assert float(got[0]) == pytest.approx(mean, abs=1e-9)
    # one point for all is chance
    got = average_precisions(torch.ones(1, 2), torch.ones(6, 2), lambda i: right)
    assert float(got[0]) == pytest.approx(float(chance_of_average_precision(np.array([3]), 6)[0]))
    assert average_precisions(
        torch.ones(1, 2), torch.ones(2, 2), lambda i: right[:2] & False
    ).isnan()
