"""Clouds of any number of points: a batch is each of its records alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, Column
from amodal.nn.encoder import Encoder
from tests.nn.alone import assert_alone, doubled

FIELDS = {
    "scan": modalities.make("points", points=60, groups=7, neighbours=8, radius=2.0),
    "model": modalities.make(
        "points", points=40, groups=5, neighbours=8, channels=("intensity",), scale="metres"
    ),
}


def encoder(**options):
    torch.manual_seed(0)
    return Encoder(FIELDS, size="nano", trunk="joint", **options).double().eval()


def raw(draw, field, seed):
    """Of any number of points; some of them at one place, on a line or without attributes."""
    rng, channels = np.random.default_rng(seed), FIELDS[field].channels
    xyz = rng.standard_normal((draw(st.integers(1, 90)), 3))
    shape = draw(st.sampled_from(["cloud", "line", "grid", "place"]))
    xyz = {"cloud": xyz, "line": xyz * (1, 0, 0), "grid": xyz.round(), "place": xyz * 0}[shape]
    attributes = {name: rng.standard_normal(len(xyz)) for name in channels if draw(st.booleans())}
    return {"points": xyz, **attributes}


@st.composite
def batches(draw):
    size = draw(st.integers(1, 4))
    columns, values = {}, {}
    for field, modality in FIELDS.items():
        rows = [r for r in range(size) if draw(st.booleans())]
        made = [modality.decode(raw(draw, field, 10 * r + len(field))) for r in rows]
        values |= {(field, r): v for r, v in zip(rows, made)}
        columns[field] = Column(doubled(modality, made), torch.tensor(rows, dtype=torch.int64))
    return Batch.of(size, columns), values


@settings(max_examples=40, deadline=None)
@given(batches(), st.sampled_from(["sincos", "rotary", "ground"]))
def test_a_batch_is_each_of_its_records_alone(drawn, positions):
    assert_alone(drawn, encoder(positions=positions))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.integers(0, 99))
def test_no_order_of_the_points_moves_an_embedding(count, seed):
    model, rng = encoder(), np.random.default_rng(seed)
    xyz = rng.standard_normal((count, 3)).round(1)

    def embedded(points):
        columns = {
            f: Column(doubled(m, [m.decode({"points": points})]), torch.zeros(1).long())
            for f, m in FIELDS.items()
        }
        with torch.no_grad():
            return model.features(Batch.of(1, columns)).columns

    one, two = embedded(xyz), embedded(xyz[rng.permutation(count)])
    assert all(torch.equal(one[f].values, two[f].values) for f in FIELDS)


@pytest.mark.parametrize("name", ["mae", "galileo"])
def test_groups_that_are_hidden_never_move_what_is_encoded(name, monkeypatch):
    """Of each group the points and the place: changing them moves the encoding if it is seen."""
    fields = {"scan": FIELDS["scan"]}
    torch.manual_seed(0)
    model = Encoder(fields, size="nano", trunk="joint").double().eval()
    method = methods.build(name, model).double().eval()
    contexts, real = [], model.encode
    monkeypatch.setattr(model, "encode", lambda *a: contexts.append(real(*a)) or contexts[-1])
    values = doubled(
        FIELDS["scan"], [FIELDS["scan"].decode(np.random.default_rng(0).normal(size=(60, 3)))]
    )

    def encoded(flat):
        before = len(contexts)
        column = Column(type(values)(flat, values.lengths), torch.zeros(1, dtype=torch.int64))
        with torch.no_grad():
            method.features(Batch.of(1, {"scan": column}))
        return contexts[before:]

    first, tokens = encoded(values.flat), len(values.flat)
    seen = [0] * len(first)
    for i in range(tokens):
        changed = values.flat.clone()
        changed[i, 4:] += 3
        changed[i, :3] += 0.5
        for k, after in enumerate(encoded(changed)):
            seen[k] += not torch.equal(first[k]["scan"].x, after["scan"].x)
    # of the passes that hide anything, each is moved by as many groups as it sees
    lengths = [len(context["scan"].x) for context in first]
    hiding = [k for k, n in enumerate(lengths) if n < tokens]
    assert hiding and all(seen[k] == lengths[k] for k in hiding)


@pytest.mark.parametrize("positions", ["learned", "grid:8"])
def test_tables_of_positions_are_refused_of_points_in_metres(positions):
    with pytest.raises(AmodalError, match="tokens of model lie about a centre: take sincos"):
        encoder(positions=positions)
    Encoder({"scan": FIELDS["scan"]}, size="nano", positions=positions)
