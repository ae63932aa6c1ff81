"""modality_subsets where the answer is known: each cell against a probe fitted and tested by hand."""

import numpy as np
import pytest
import torch

from amodal.core import AmodalError
from amodal.evaluate import NotApplicable, Report, figures, protocol_names
from amodal.evaluate import labels as _labels
from amodal.evaluate.protocols.linear import fit
from amodal.evaluate.protocols.modality_subsets import ALL, case, modality_subsets
from tests.evaluate.made import CLASSES, made

SETS = ("image", "sound", "image+sound")


@pytest.fixture(scope="module")
def pair():
    return [made(240, seed=s, noise=2.0, share=0.9, unaligned=("sound",)) for s in (1, 2)]


@pytest.fixture(scope="module")
def rows(pair):
    return [r for r in modality_subsets(*pair, label="kind").rows if r["metric"] == "accuracy"]


def by_hand(pair, learn, deploy):
    train, test = pair
    seen, complete = train.aligned.fused(learn), test.aligned.complete(("image", "sound"))[0]
    fused = test.aligned.fused(deploy)
    x = fused.values[torch.searchsorted(fused.rows, complete)]
    codes = [torch.from_numpy(_labels.codes(e.labels["kind"], list(CLASSES))) for e in pair]
    predict = fit(seen.values, codes[0][seen.rows], 3)
    return float((predict(x) == codes[1][complete]).double().mean())


def test_every_cell_is_a_probe_of_one_set_tested_with_another(pair, rows):
    cells = {(r["source"], r["target"]): r for r in rows if r["source"] != ALL}
    assert len(cells) == 9
    for source in SETS:
        for target in SETS:
            row, own = cells[source, target], cells[target, target]["value"]
            assert row["value"] == pytest.approx(
                by_hand(pair, source.split("+"), target.split("+"))
            )
            assert row["own"] == own and row["robustness"] == pytest.approx(row["value"] / own)
    assert {r["n"] for r in rows} == {len(pair[1].aligned.complete(("image", "sound"))[0])}
    # sources in spaces of their own: what is learnt from one says nothing of the other
    assert cells["image", "sound"]["value"] < 0.6 < cells["sound", "sound"]["value"]


def test_the_summaries_are_of_the_cells(rows):
    cells = [r for r in rows if r["source"] != ALL]
    assert {r["case"] for r in cells} == {"same", "missing", "added", "transfer"}
    for kind in ("same", "missing", "added", "transfer", "every case"):
        some = [r for r in cells if kind in (r["case"], "every case")]
        for what, of in (("mean", np.mean), ("worst", min)):
            (row,) = [r for r in rows if r["target"] == f"{what}, {kind}"]
            assert row["value"] == pytest.approx(of([r["value"] for r in some]))
            assert row["robustness"] == pytest.approx(of([r["robustness"] for r in some]))
    assert sum(r["source"] == ALL for r in rows) == 10


def test_cases():
    assert (
        case("ab", "b") == "missing"
        and case("b", "ab") == "added"
        and case("ab", "c") == "transfer"
    )
    assert case("ab", "bc") == "other" and case("ab", "ba") == "same"


def test_a_report_shows_the_summaries_and_draws_the_matrix(pair, tmp_path):
    report = Report([modality_subsets(*pair, label="kind")], about={"train": 240, "test": 240})
    table = report.table()
    assert len(table.rows) == 10 and len(report.table(every=True).rows) == 3 * 19
    report.save(tmp_path / "report.json")
    assert (tmp_path / "report.modality_subsets.png").stat().st_size > 5000
    loaded = Report.load(tmp_path / "report.json")["modality_subsets"]
    figures.modality_subsets(loaded.rows, tmp_path / "again.png", label="kind")
    with pytest.raises(AmodalError, match="no matrix"):
        figures.modality_subsets(
            [r for r in loaded.rows if r["source"] == ALL], tmp_path / "no.png"
        )


def test_where_it_says_nothing(pair):
    assert "modality_subsets" in protocol_names()
    alone = [made(60, sources=("image",)) for _ in range(2)]
    with pytest.raises(NotApplicable, match="only image"):
        modality_subsets(*alone, label="kind")
    with pytest.raises(AmodalError, match="has the label"):
        modality_subsets(*pair, label="none")
    with pytest.raises(AmodalError, match="Did you mean linear"):
        modality_subsets(*pair, label="kind", probe="linaer")
