"""The protocol synergy (pid_semisup): tables counted by loops, gates whose answer is known, and a
run on the command line."""

import json
import math

import numpy as np
import pytest
import torch

import amodal
from amodal.cli import main
from amodal.core import Column, Embeddings
from amodal.diagnose.pid_semisup import pid_semisup
from amodal.evaluate import Embedded, NotApplicable
from amodal.evaluate.protocols.synergy import synergy


def records(code1, code2, labels, rows1=None, rows2=None):
    """Fields whose vectors are one-hot codes, so that k-means finds these again."""
    n, columns = len(labels), {}
    for source, code, rows in (("a", code1, rows1), ("b", code2, rows2)):
        rows = np.arange(n) if rows is None else np.asarray(rows)
        x = torch.eye(int(max(code)) + 1)[torch.as_tensor(code)[rows]]
        columns[source] = Column(x, torch.from_numpy(rows))
    z = Embeddings(columns, n)
    labels = np.array(labels, dtype=object)
    return Embedded([str(i) for i in range(n)], z, z, {"y": labels})


def values(result):
    return {(r["source"], r["target"], r["metric"]): r["value"] for r in result.rows}


def test_tables_are_those_of_a_loop_where_labels_and_fields_are_of_different_records():
    rng = np.random.default_rng(0)
    n = 400
    code1, code2 = rng.integers(0, 3, n), rng.integers(0, 3, n)
    labels = [None if i % 5 == 0 else "xyz"[(code1[i] + (code2[i] == 2)) % 3] for i in range(n)]
    rows1, rows2 = [i for i in range(n) if i % 7], [i for i in range(n) if i % 3]
    found = synergy(records(code1, code2, labels, rows1, rows2), None, label="y", clusters=3)
    tables = [torch.zeros(3, 3, dtype=torch.float64) for _ in range(3)]
    for i in range(n):
        if i in rows1 and labels[i]:
            tables[0][code1[i], "xyz".index(labels[i])] += 1
        if i in rows2 and labels[i]:
            tables[1][code2[i], "xyz".index(labels[i])] += 1
        if i in rows1 and i in rows2:
            tables[2][code1[i], code2[i]] += 1
    expected, got = pid_semisup(*tables), values(found)
    for metric, value in {
        "synergy, at least": expected.lower,
        "synergy, at most": expected.upper,
        "synergy, at most, greedy": expected.upper_greedy,
        "redundancy": expected.redundancy,
        "unique": expected.unique1,
        "accuracy, at least": expected.accuracy()[0],
        "accuracy, at most": expected.accuracy()[1],
    }.items():
        assert got["a", "b", metric] == pytest.approx(float(value), abs=1e-6), metric
    assert got["b", "a", "unique"] == pytest.approx(float(expected.unique2), abs=1e-6)
    best = max(float(t.amax(1).sum() / t.sum()) for t in tables[:2])
    assert got["a", "b", "accuracy, best field"] == pytest.approx(best)
    row = found.rows[0]
    assert row["n"] == min(int(t.sum()) for t in tables)
    share = max(float(t.sum(0).max() / t.sum()) for t in tables[:2])
    assert sorted({r["chance"] for r in found.rows}) == pytest.approx([0.0, share])


def coins(gate, n=400):
    code1, code2 = np.arange(n) % 2, np.arange(n) // 2 % 2
    return code1, code2, [str(gate(a, b)) for a, b in zip(code1, code2)]


def test_gates_have_the_synergy_that_is_known():
    both = values(synergy(records(*coins(lambda a, b: a & b)), None, label="y", clusters=2))
    assert both["a", "b", "synergy, labelled pairs"] == pytest.approx(0.5, abs=2e-3)
    assert both["a", "b", "synergy, at least"] == pytest.approx(0.5, abs=2e-3)
    assert both["a", "b", "redundancy"] == pytest.approx(0.3113, abs=2e-3)
    xor = values(synergy(records(*coins(lambda a, b: a ^ b)), None, label="y", clusters=2))
    assert xor["a", "b", "synergy, labelled pairs"] == pytest.approx(1, abs=2e-3)
    assert xor["a", "b", "synergy, at least"] < 2e-3 and xor["a", "b", "synergy, at most"] > 0.99
    assert xor["a", "b", "accuracy, best field"] == 0.5
    one = values(synergy(records(*coins(lambda a, b: int(a))), None, label="y", clusters=2))
    assert one["a", "b", "unique"] == pytest.approx(1, abs=2e-3)
    assert one["b", "a", "unique"] == pytest.approx(0, abs=2e-3)


def test_no_record_needs_both_fields_and_a_label():
    code1, code2, labels = coins(lambda a, b: a & b)
    third = np.arange(400) // 4 % 3
    parts = [np.flatnonzero(third != k) for k in (0, 1)]  # part 2 has both, and no label
    labels = [None if k == 2 else y for y, k in zip(labels, third)]
    got = values(synergy(records(code1, code2, labels, *parts), None, label="y", clusters=2))
    assert got["a", "b", "synergy, at least"] == pytest.approx(0.5, abs=0.03)
    assert ("a", "b", "synergy, labelled pairs") not in got


def test_a_number_is_cut_into_bins_of_equal_counts():
    code1, code2, _ = coins(lambda a, b: 0)
    made = records(code1, code2, [0] * 400)
    made.labels["y"] = code1 + code2 / 10.0
    result = synergy(made, None, label="y", clusters=2, bins=4)
    assert result.spec["classes"] == 4
    got = values(result)
    assert got["a", "b", "synergy, labelled pairs"] == pytest.approx(0, abs=2e-3)
    assert got["a", "b", "unique"] == pytest.approx(1, abs=2e-3)
    made.labels["y"][::3] = math.nan
    assert synergy(made, None, label="y", clusters=2).rows[0]["n"] == 266


def test_what_cannot_be_bounded_is_said():
    code1, code2, labels = coins(lambda a, b: a & b)
    with pytest.raises(NotApplicable, match="no two classes"):
        synergy(records(code1, code2, ["1"] * 400), None, label="y")
    with pytest.raises(NotApplicable, match="no two fields have 20 records"):
        synergy(
            records(code1, code2, [y if i < 10 else None for i, y in enumerate(labels)]),
            None,
            label="y",
            clusters=2,
        )


def test_it_is_a_protocol_of_the_command_line(folder, tmp_path, capsys):
    amodal.pretrain(
        "clip", folder, tmp_path / "run", size="nano", steps=2, batch_size=8, progress=False
    )
    main(
        [
            *("evaluate", str(tmp_path / "run"), "--data", str(folder), "--protocols", "synergy"),
            *(
                "--protocol.clusters",
                "2",
                "--protocol.steps",
                "50",
                "--json",
                str(tmp_path / "report.json"),
            ),
        ]
    )
    assert "synergy, at most" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    metrics = {row["metric"] for result in report["results"] for row in result["rows"]}
    assert {"synergy, at least", "redundancy", "unique", "accuracy, at least"} <= metrics
