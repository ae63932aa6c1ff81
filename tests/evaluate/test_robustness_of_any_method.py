"""The protocol `missing_modality_robustness` runs for every method of the library, with every kind
of data of the bench, on patchy records."""

import math
import warnings
from functools import cache

import numpy as np
import pytest

import amodal
from amodal import methods
from amodal.data import Label
from amodal.evaluate import corruption, embed_records
from amodal.evaluate.protocols.missing_modality_robustness import missing_modality_robustness
from amodal.inference.embed import known
from tests.methods.bench import fields, method, raw


@cache
def records():
    rng = np.random.default_rng(0)
    columns = {}
    for k, source in enumerate(fields()):
        columns[source] = [raw(source, rng) if (i + k) % 4 else None for i in range(64)]
    kind = {"kind": [None if i % 9 == 8 else "uvw"[i * 7 % 3] for i in range(64)]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = amodal.open({**columns, **kind}).with_fields(fields())
    found.labels["kind"] = Label()
    return found


@pytest.mark.parametrize("name", methods.names())
def test_any_method(name, monkeypatch):
    kind = corruption.CORRUPTIONS[
        methods.names().index(name) % 3
    ]  # each method meets one kind of damage, which saves time
    monkeypatch.setattr(corruption, "CORRUPTIONS", (kind,))
    encoder = method(name).encoder
    train, test = (
        embed_records(encoder, records(), rows, batch=64) for rows in (range(40), range(40, 64))
    )
    result = missing_modality_robustness(
        train, test, label="kind", probe="knn", severities=(0.5,), rates=(0.5,)
    )
    assert len(test.sources) == 4
    parts = {row["part"] for row in result.rows}
    assert parts == {"random", "label", "leak", "ways", "subset", "worth", kind}
    assert all(math.isfinite(row["value"]) for row in result.rows)
    damaged = {row["source"] for row in result.rows if row["part"] == kind}
    assert damaged == set(fields()) - ({"words"} if kind == "noise" else set())
    assert {row["n"] for row in result.rows} == {int(known(test.label("kind")).sum())}
