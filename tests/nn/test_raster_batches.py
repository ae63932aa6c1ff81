"""Rasters of any sides, dates and gaps: a batch is each of its records alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal import methods, modalities
from amodal.core import Batch, Column
from amodal.nn.encoder import Encoder
from tests.nn.alone import assert_alone, doubled

FIELDS = {
    "fine": modalities.make("raster", bands=("a", "b", "c"), size=16, patch=4, dates=3),
    "coarse": modalities.make("raster", bands=("d",), size=8, patch=4, dates=3),
}
GROUPED = {
    "fine": replace(FIELDS["fine"], groups={"ca": ("c", "a")}, resolution=10.0),
    "coarse": replace(FIELDS["coarse"], resolution=60.0),
}


def encoder(fields=FIELDS, **options):
    torch.manual_seed(0)
    return Encoder(fields, size="nano", trunk="joint", **options).double().eval()


def value(draw, field, seed):
    """Of any sides, dates and gaps; with a band or a corner missing."""
    modality, rng = FIELDS[field], np.random.default_rng(seed)
    dates = draw(st.integers(1, 3))
    height, width = (draw(st.integers(1, modality.size)) for _ in range(2))
    pixels = rng.standard_normal((dates, modality.channels, height, width)).astype(np.float32)
    if draw(st.booleans()) and modality.channels > 1:
        pixels[:, 0] = np.nan
    if draw(st.booleans()):
        pixels[:, :, : height // 2, : width // 2] = np.nan
    days = [f"20{rng.integers(10, 24)}-{m + 1:02d}-1{rng.integers(9)}" for m in range(dates)]
    return modality.decode({"values": pixels, "dates": days})


@st.composite
def batches(draw, fields=FIELDS):
    size = draw(st.integers(1, 4))
    columns, values = {}, {}
    for field in FIELDS:
        rows = [r for r in range(size) if draw(st.booleans())]
        made = [value(draw, field, 10 * r + len(field)) for r in rows]
        values |= {(field, r): v for r, v in zip(rows, made)}
        columns[field] = Column(doubled(fields[field], made), torch.tensor(rows, dtype=torch.int64))
    return Batch.of(size, columns), values


@settings(max_examples=40, deadline=None)
@given(batches())
def test_a_batch_is_each_of_its_records_alone(drawn):
    assert_alone(drawn, encoder())


@settings(max_examples=40, deadline=None)
@given(batches(GROUPED))
def test_so_it_is_with_groups_of_bands_and_positions_on_the_ground(drawn):
    assert_alone(drawn, encoder(GROUPED, positions="ground"))


def test_pixels_that_are_hidden_never_move_what_is_encoded(monkeypatch):
    """Two thirds of the patches are hidden: changing one of these changes no token."""
    model, modality = encoder(), FIELDS["fine"]
    method = methods.build("mae", model, ratio=0.65).double().eval()
    contexts, real = [], model.encode
    monkeypatch.setattr(model, "encode", lambda *a: contexts.append(real(*a)) or contexts[-1])
    rng = np.random.default_rng(0)
    base = modality.decode(rng.standard_normal((2, 3, 16, 16)).astype(np.float32))

    def encoded(one):
        column = Column(doubled(modality, [one]), torch.zeros(1, dtype=torch.int64))
        with torch.no_grad():
            method.features(Batch.of(1, {"fine": column}))
        return contexts[-1]["fine"].x

    first, moved = encoded(base), []
    for date, y, x in np.ndindex(2, 4, 4):
        changed = base.copy()
        changed[date, 1:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += 3
        moved.append(not torch.equal(first, encoded(changed)))
    assert sum(moved) == round(32 * 0.35) == len(first)


@pytest.mark.parametrize("task", ["global", "local"])
def test_only_tokens_that_are_seen_move_what_galileo_encodes(monkeypatch, task):
    """Of a group, date and place each: changing it moves the encoding if it is seen, and then
    alone."""
    fields = {"fine": GROUPED["fine"]}
    model, modality = encoder(fields, positions="ground"), fields["fine"]
    method = methods.build("galileo", model, encode=0.3).double().eval()
    contexts, real = [], model.encode
    monkeypatch.setattr(model, "encode", lambda *a: contexts.append(real(*a)) or contexts[-1])
    number = -2 if task == "global" else -1
    base = modality.decode(
        np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    )

    def encoded(one):
        column = Column(doubled(fields["fine"], [one]), torch.zeros(1, dtype=torch.int64))
        batch = Batch.of(1, {"fine": column})
        with torch.no_grad():
            method.features(batch)
            tokens = model.tokenize(batch)
        states = method.draw(tokens, batch.seeds)[task]["fine"]
        return contexts[number]["fine"].x, tokens["fine"], states

    first, tokens, states = encoded(base)
    keys = list(zip(tokens.position.tolist(), tokens.attributes["group"].tolist()))
    months = sorted({position[0] for position, _ in keys})
    for date, y, x in np.ndindex(2, 4, 4):
        for group, members in enumerate(modality.band_groups().values()):
            changed = base.copy()
            for band in members:
                changed[date, 1 + band, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += 3
            after, _, same = encoded(changed)
            assert torch.equal(states, same)
            state = states[keys.index(([months[date], y, x], group))]
            assert torch.equal(first, after) == (state != 0)
