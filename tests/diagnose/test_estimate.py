"""Balanced estimates of the mean of a label, against loops and against what is measured."""

import csv
import json

import numpy as np
import pytest

import amodal
from amodal import cli
from amodal.core import AmodalError
from amodal.diagnose.estimate import estimate

KINDS = {"x": "category", "y": "category", "z": "number", "amount": "number"}
EFFECT = {("a", "u"): 1.0, ("a", "v"): 3.0, ("b", "u"): 6.0, ("b", "v"): 7.0}


def folder(path, n=1200, known=400, seed=0):
    """A table of two classes and a number that follows from them, up to noise; the last records
    lack it."""
    rng = np.random.default_rng(seed)
    path.mkdir()
    with (path / "records.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "x", "y", "z", "amount", "text"])
        for i in range(n):
            x, y = rng.choice(["a", "b"], p=[0.3, 0.7]), rng.choice(["u", "v"], p=[0.6, 0.4])
            amount = EFFECT[x, y] + rng.normal(0, 0.5)
            writer.writerow([f"r{i}", x, y, i % 7, amount if i < known else "", f"record {i}"])
    (path / "dataset.toml").write_text(
        'records = "records.csv"\nkey = "key"\n[fields.text]\nmodality = "text"\ncolumn = "text"\n'
        + "".join(f'[labels.{n}]\nkind = "{kind}"\ncolumn = "{n}"\n' for n, kind in KINDS.items()),
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return amodal.open(folder(tmp_path_factory.mktemp("estimate") / "data"))


def by_hand(records, steps):
    """Raking, cell by cell."""
    x, y, z = (records.label(n) for n in ("x", "y", "amount"))
    known = np.isfinite(z)
    weight = {(a, b): float(((x == a) & (y == b) & known).sum()) for a in "ab" for b in "uv"}
    weight = {cell: n / known.sum() for cell, n in weight.items()}
    start = dict(weight)
    for step in range(steps):
        at, names, labels = (0, "ab", x) if step % 2 == 0 else (1, "uv", y)
        for name in names:
            wanted = (labels == name).mean()
            have = sum(w for cell, w in weight.items() if cell[at] == name)
            for cell in weight:
                if cell[at] == name:
                    weight[cell] *= wanted / have
    w = np.array([weight[a, b] / start[a, b] for a, b in zip(x, y)])
    return float((w[known] * z[known]).mean()), dict(zip(np.array(records.keys)[known], w[known]))


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_records_are_weighted_until_both_labels_have_their_shares(records, steps):
    found = estimate(records, "amount", ("x", "y"), steps=steps)
    value, weights = by_hand(records, steps)
    assert found.rows[-1]["estimate"] == pytest.approx(value, abs=1e-9)
    assert found.weights == pytest.approx(weights, abs=1e-9)
    assert (found.records, found.population, len(found.rows)) == (400, 1200, steps + 1)
    assert found.rows[0]["variance"] == 1.0


def test_the_predicted_error_is_what_is_measured_and_falls(records):
    found = estimate(records, "amount", ("x", "y"), records=150, draws=400, steps=2)
    for row in found.rows:
        assert row["measured"] == pytest.approx(row["error"], rel=0.25)
    assert found.rows[2]["measured"] < 0.5 * found.rows[0]["measured"]
    whole = estimate(records, "amount", ("x", "y"))
    z = records.label("amount")
    plain = np.nanstd(z) / np.isfinite(z).sum() ** 0.5
    # of the balanced table, which is nearly that of the records
    assert whole.rows[0]["error"] == pytest.approx(plain, rel=0.05)
    assert found.truth == pytest.approx(np.nanmean(z)) and whole.truth is None
    assert 0 <= found.second < 0.15  # the two were drawn independently


def test_a_share_of_a_class_and_quantiles_of_a_number(records):
    share = estimate(records, "y=u", ("x", "z"), bins=3)
    assert share.rows[0]["estimate"] == pytest.approx((records.label("y") == "u").mean())
    assert share.records == 1200


def test_another_population_gives_the_shares(records, tmp_path):
    rare = amodal.open(folder(tmp_path / "other", n=300, known=300, seed=5))
    found = estimate(records, "amount", ("x", "y"), population=rare, steps=1)
    of_a = (rare.label("x") == "a").mean()
    x, z = records.label("x"), records.label("amount")
    known = np.isfinite(z)
    means = [z[known & (x == name)].mean() for name in "ab"]
    expected = of_a * means[0] + (1 - of_a) * means[1]
    assert found.rows[1]["estimate"] == pytest.approx(expected)


def test_what_cannot_be_estimated_is_said(records):
    for value, by, words in (
        ("amount", ("x",), "two labels"),
        ("amount", ("x", "x"), "two labels"),
        ("weight", ("x", "y"), "weight"),
        ("amount=3", ("x", "y"), "is a number"),
        ("y=w", ("x", "z"), "'w'"),
        ("y", ("x", "z"), "CLASS"),
        ("amount", ("x", "colour"), "colour"),
    ):
        with pytest.raises(AmodalError, match=words):
            estimate(records, value, by)
    with pytest.raises(AmodalError, match="fewer bins"):
        estimate(records, "amount", ("amount", "z"), bins=30, records=20)
    with pytest.raises(AmodalError, match="leave --population out"):
        estimate(records, "amount", ("x", "y"), population=records, records=20)
    with pytest.raises(AmodalError, match="take 0 steps"):
        estimate(records, "amount", ("x", "y"), steps=-1)


def test_the_command_writes_weights_and_numbers(tmp_path, capsys):
    data = folder(tmp_path / "data")
    out, numbers = tmp_path / "weights.csv", tmp_path / "numbers.json"
    cli.main(
        ["estimate", str(data), "--value", "amount", "--by", "x,y", "--out", str(out)]
        + ["--json", str(numbers), "--records", "100", "--draws", "20"]
    )
    assert "measured error" in " ".join(capsys.readouterr().out.split())
    weights = list(csv.reader(out.open()))
    assert weights[0] == ["key", "weight"] and len(weights) > 60
    assert json.loads(numbers.read_text(encoding="utf-8"))["rows"][2]["steps"] == 2
