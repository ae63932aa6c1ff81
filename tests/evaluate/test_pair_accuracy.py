"""Pairs that are easily confused, against a loop."""

import itertools

import numpy as np
import pytest
import torch

import amodal
from amodal.core import Column, Embeddings
from amodal.evaluate import Embedded, NotApplicable
from amodal.evaluate.protocols.pair_accuracy import chosen_right, pair_accuracy


def records(noise=1.0, pairs=30, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(pairs, 1, 5)) + 0.5 * rng.normal(size=(pairs, 2, 5))
    x, n = x.reshape(-1, 5), 2 * pairs
    columns = {}
    for source, lacks in (("picture", {4, 17}), ("words", {9})):
        rows = [i for i in range(n) if i not in lacks]
        values = x[rows] + noise * rng.normal(size=(len(rows), 5))
        columns[source] = Column(torch.tensor(values), torch.tensor(rows))
    z = Embeddings(columns, n)
    pair = np.array([f"p{i // 2:02}" for i in range(n)], dtype=object)
    pair[[20, 30]] = [None, "p00"]  # one pair lacks a name, and one has three records
    return Embedded([str(i) for i in range(n)], z, z, {"pair": pair, "size": x[:, 0]})


def test_a_pair_counts_where_both_are_right():
    test = records()
    result = pair_accuracy(None, test, pair="pair")
    for a, b in itertools.permutations(("picture", "words")):
        z = {s: dict(zip(test.aligned[s].rows.tolist(), test.aligned[s].values)) for s in (a, b)}
        both, single = [], []
        for name in sorted({p for p in test.labels["pair"] if p}):
            rows = [
                i
                for i, p in enumerate(test.labels["pair"])
                if p == name and i in z[a] and i in z[b]
            ]
            if len(rows) == 2:
                i, j = rows
                own, other = (
                    [float(torch.cosine_similarity(z[a][q], z[b][g], dim=0)) for q, g in ways]
                    for ways in (((i, i), (j, j)), ((i, j), (j, i)))
                )
                right = [x > y for x, y in zip(own, other)]
                both.append(all(right))
                single += right
        assert len(both) == 24  # of 30: three lack a value, two a partner, one has three
        values = {r["metric"]: r for r in result.rows if (r["source"], r["target"]) == (a, b)}
        assert values["pairs, both right"]["value"] == pytest.approx(np.mean(both))
        assert values["of two, the right one"]["value"] == pytest.approx(np.mean(single))
        assert {r["n"] for r in values.values()} == {24}
        assert values["pairs, both right"]["chance"] == 0.25


def test_chance_and_perfect():
    rng = np.random.default_rng(0)
    noise = [
        pair_accuracy(None, records(noise=1e3, pairs=300, seed=s), pair="pair") for s in (0, 1)
    ]
    values = [r["value"] for r in noise[0].rows + noise[1].rows if r["metric"].startswith("pairs")]
    assert np.mean(values) == pytest.approx(0.25, abs=0.05)
    exact = pair_accuracy(None, records(noise=0.0), pair="pair", pairs=[("words", "picture")])
    assert [r["value"] for r in exact.rows] == [1.0, 1.0]
    same = torch.tensor(rng.normal(size=(1, 1, 3))).expand(2, 2, 3)
    assert chosen_right(same, same).eq(0.5).all()
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert chosen_right(x, -x).eq(0).all() and chosen_right(x, -x, abs_cosine=True).eq(1).all()


def test_what_it_needs_is_said():
    for options, message in (
        ({}, "two records of a pair share"),
        ({"pair": "size"}, "is a number"),
    ):
        with pytest.raises(NotApplicable, match=message):
            pair_accuracy(None, records(), **options)
    alone = records()
    alone.labels["pair"][:] = [f"q{i}" for i in range(60)]
    with pytest.raises(NotApplicable, match="exactly two records"):
        pair_accuracy(None, alone, pair="pair")


def test_from_a_run(tmp_path):
    """Of a table whose split keeps pairs together."""
    (tmp_path / "data.csv").write_text(
        "front,back,pair\n" + "".join(f"a {i} b,c {i * 7} d,p{i // 2}\n" for i in range(400)),
        encoding="utf-8",
    )
    (tmp_path / "dataset.toml").write_text(
        'records = "data.csv"\nsplit_by = "pair"\n[fields.front]\nmodality = "text"\n'
        '[fields.back]\nmodality = "text"\n[labels.pair]\nkind = "category"\n',
        encoding="utf-8",
    )
    model = amodal.pretrain(
        "clip", tmp_path, tmp_path / "run", size="nano", steps=2, batch_size=16, progress=False
    )
    report = model.evaluate(
        tmp_path, protocols=["pair_accuracy"], pair="pair", untrained=False, progress=False
    )
    rows = report["pair_accuracy"].rows
    assert len(rows) == 4 and all(r["n"] > 15 and 0 <= r["value"] <= 1 for r in rows)
