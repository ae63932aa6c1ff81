"""Rasters of any sides, dates and gaps: a batch is each of its records alone."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal import methods, modalities
from amodal.core import Batch, Column
from amodal.nn.encoder import Encoder

FIELDS = {
    "fine": modalities.make("raster", bands=("a", "b", "c"), size=16, patch=4, dates=3),
    "coarse": modalities.make("raster", bands=("d",), size=8, patch=4, dates=3),
}


def encoder():
    torch.manual_seed(0)
    return Encoder(FIELDS, size="nano", trunk="joint").double().eval()


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
def batches(draw):
    size = draw(st.integers(1, 4))
    columns, values = {}, {}
    for field in FIELDS:
        rows = [r for r in range(size) if draw(st.booleans())]
        made = [value(draw, field, 10 * r + len(field)) for r in rows]
        values |= {(field, r): v for r, v in zip(rows, made)}
        columns[field] = Column(doubled(field, made), torch.tensor(rows, dtype=torch.int64))
    return Batch.of(size, columns), values


def doubled(field, values):
    ragged = FIELDS[field].collate(values)
    return type(ragged)(ragged.flat.double(), ragged.lengths)


@settings(max_examples=40, deadline=None)
@given(batches())
def test_a_batch_is_each_of_its_records_alone(drawn):
    batch, values = drawn
    model = encoder()
    with torch.no_grad():
        whole = model.features(batch).columns
        for row in range(batch.size):
            have = {f: values[f, row] for f in FIELDS if (f, row) in values}
            alone = {
                f: Column(
                    doubled(f, [have[f]] if f in have else []), torch.zeros(int(f in have)).long()
                )
                for f in FIELDS
            }
            single = model.features(Batch.of(1, alone)).columns
            for source, column in whole.items():
                mine = column.values[column.rows == row]
                torch.testing.assert_close(mine, single[source].values, atol=1e-5, rtol=1e-5)


def test_pixels_that_are_hidden_never_move_what_is_encoded(monkeypatch):
    """Two thirds of the patches are hidden: changing one of these changes no token."""
    model, modality = encoder(), FIELDS["fine"]
    method = methods.build("mae", model, ratio=0.65).double().eval()
    contexts, real = [], model.encode
    monkeypatch.setattr(model, "encode", lambda *a: contexts.append(real(*a)) or contexts[-1])
    rng = np.random.default_rng(0)
    base = modality.decode(rng.standard_normal((2, 3, 16, 16)).astype(np.float32))

    def encoded(one):
        column = Column(doubled("fine", [one]), torch.zeros(1, dtype=torch.int64))
        with torch.no_grad():
            method.features(Batch.of(1, {"fine": column}))
        return contexts[-1]["fine"].x

    first, moved = encoded(base), []
    for date, y, x in np.ndindex(2, 4, 4):
        changed = base.copy()
        changed[date, 1:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += 3
        moved.append(not torch.equal(first, encoded(changed)))
    assert sum(moved) == round(32 * 0.35) == len(first)
