"""The column `joined`: the encoder's vectors and simple features side by side."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import amodal
from amodal.core import Column, Embeddings
from amodal.data import Label
from amodal.evaluate import Embedded, NotApplicable, Report, evaluate
from amodal.evaluate.joined import side_by_side
from amodal.evaluate.protocols import linear, retrieval
from tests.evaluate.test_frozen import Turned, encoder_of


def described(halves, width=6, n=400, seed=0, rows=None):
    """Records of four classes, in vectors that know one bit of the class; and the classes."""
    rng = np.random.default_rng(seed)
    bits = np.random.default_rng(99 + n).integers(0, 2, (n, 2))
    x = rng.normal(size=(n, width)) + 0.0
    x[:, 0] += 4.0 * bits[:, halves]
    rows = np.arange(n) if rows is None else rows
    column = Column(torch.tensor(x[rows], dtype=torch.float32), torch.from_numpy(rows))
    embeddings = Embeddings({"image": column}, n)
    kind = np.array([f"{a}{b}" for a, b in bits], dtype=object)
    return Embedded([f"r{i}" for i in range(n)], embeddings, embeddings, {"kind": kind})


def test_each_knows_a_half_and_both_together_know_all():
    models = described(0, seed=1), described(0, seed=2, n=300)
    others = described(1, seed=3), described(1, seed=4, n=300)
    found = {
        name: linear.linear(*pair, label="kind").value("image", "accuracy")
        for name, pair in (("model", models), ("simple", others))
    }
    both = linear.linear(*side_by_side(models, others), label="kind").value("image", "accuracy")
    assert max(found.values()) < 0.6 and both > 0.9


def test_blocks_have_one_typical_length_and_only_shared_records():
    rows = np.arange(0, 400, 2)
    model, other = described(0, width=3), described(1, width=5, rows=rows)
    many = Embeddings(
        {"image": Column(1000 * model.features["image"].values, torch.arange(400))}, 400
    )
    train, _ = side_by_side((replace(model, features=many), model), (other, other))
    column = train.features["image"]
    assert column.rows.tolist() == rows.tolist() and column.values.shape == (200, 8)
    lengths = [b.square().sum(1).mean().sqrt() for b in column.values.split([3, 5], 1)]
    assert lengths[1] == pytest.approx(1.0, rel=1e-5)
    whole = many["image"].values.square().sum(1).mean().sqrt()
    assert torch.allclose(column.values[:, :3], many["image"].values[rows] / whole)


def test_between_fields_the_cosine_is_the_mean_of_both():
    rng = torch.Generator().manual_seed(0)

    def space(width):
        columns = {
            name: Column(normalize(torch.randn(20, width, generator=rng), dim=1), torch.arange(20))
            for name in ("a", "b")
        }
        return Embedded(
            [str(i) for i in range(20)], Embeddings(columns, 20), Embeddings(columns, 20)
        )

    model, other = space(4), space(7)
    joined, _ = side_by_side((model, model), (other, other))
    a, b = joined.aligned.pair("a", "b")
    parts = [
        torch.nn.functional.cosine_similarity(*one.aligned.pair("a", "b")) for one in (model, other)
    ]
    assert torch.allclose(torch.nn.functional.cosine_similarity(a, b), sum(parts) / 2, atol=1e-6)
    with pytest.raises(NotApplicable, match="cosine"):
        side_by_side((replace(model, abs_cosine=True),) * 2, (other, other))
    assert retrieval.retrieval(joined, joined).rows


@pytest.fixture(scope="module")
def report():
    """A class of four: one bit is in what an encoder keeps, the other in a length it has no part in."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (900, 2))
    curves = []
    for first, second in bits:
        direction = rng.normal(size=8) + np.eye(8)[0] * (3.0 if first else -3.0)
        curves.append((direction + rng.normal(0, 1, (30 if second else 6, 8))).astype(np.float32))
    kind = [f"{a}{b}" for a, b in bits]
    records = amodal.open({"curve": curves, "kind": kind}, fields={"curve": "series"})
    records.labels.update({"kind": Label()})
    return evaluate(
        encoder_of(records, curve=Turned(0)),
        records,
        baseline=encoder_of(records, 1, curve=Turned(0)),
        label="kind",
        protocols=["linear"],
        progress=False,
    )


def test_a_report_has_the_column_its_interval_and_keeps_it(report, tmp_path):
    row = next(row for row in report.rows() if row["metric"] == "balanced accuracy")
    assert row["joined"] >= max(row["value"], row["simple"]) - 0.02
    assert {"joined", "trained - joined"} <= set(row["intervals"])
    second = Report.load(report.save(tmp_path / "r.json", figures=False))
    assert (
        next(r for r in second.rows() if r["metric"] == "balanced accuracy")["joined"]
        == row["joined"]
    )
    assert "joined" in [c.header for c in report.table().columns]
