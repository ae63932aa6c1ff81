"""Scans of any sizes, spacings and gaps: a batch is each of its records alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, Column
from amodal.modalities.shared import volume_frame as frame
from amodal.nn.attention.bias import place_bias
from amodal.nn.encoder import Encoder
from tests.nn.alone import assert_alone, doubled

FIELDS = {
    "fine": modalities.make("volume", size=(8, 8, 8), patch=(4, 2, 4), spacing=(1.0, 2.0, 1.0)),
    "coarse": modalities.make("volume", size=(6, 6, 3), patch=(3, 3, 1), spacing=(1.0, 1.0, 5.0)),
}


def encoder(**options):
    torch.manual_seed(0)
    return Encoder(FIELDS, size="nano", trunk="joint", **options).double().eval()


def value(draw, field, seed):
    """Of any sides and spacing, with a corner or single voxels missing; a view or the whole."""
    modality, rng = FIELDS[field], np.random.default_rng(seed)
    voxels = rng.standard_normal([draw(st.integers(1, 10)) for _ in range(3)])
    spacing = [draw(st.sampled_from([0.5, 1.0, 3.0])) for _ in range(3)]
    if draw(st.booleans()):
        voxels[tuple(slice(side // 2) for side in voxels.shape)] = np.nan
    if draw(st.booleans()):
        voxels[rng.random(voxels.shape) < 0.3] = np.nan
        voxels[-1, -1, -1] = 1.0
    made = modality.decode({"values": voxels, "spacing": spacing})
    view = draw(st.sampled_from(["plain", "weak", "strong"]))
    return modality.augment(made, view, rng)


@st.composite
def batches(draw):
    size = draw(st.integers(1, 4))
    columns, values = {}, {}
    for field in FIELDS:
        rows = [r for r in range(size) if draw(st.booleans())]
        made = [value(draw, field, 10 * r + len(field)) for r in rows]
        values |= {(field, r): v for r, v in zip(rows, made)}
        columns[field] = Column(doubled(FIELDS[field], made), torch.tensor(rows, dtype=torch.int64))
    return Batch.of(size, columns), values


@settings(max_examples=40, deadline=None)
@given(batches())
def test_a_batch_is_each_of_its_records_alone(drawn):
    assert_alone(drawn, encoder())


@pytest.mark.parametrize("positions", ["ground", "rotary", "alibi"])
@settings(max_examples=5, deadline=None)
@given(batches())
def test_so_it_is_with_other_positions(positions, drawn):
    assert_alone(drawn, encoder(positions=positions))


@pytest.mark.parametrize("positions", ["learned", "grid:8"])
def test_tables_of_positions_are_refused(positions):
    with pytest.raises(AmodalError, match="tokens of fine lie about a centre: take sincos"):
        encoder(positions=positions)


def test_distances_of_attention_are_in_tokens():
    """Neighbours are one step apart, however long a patch is in millimetres."""
    voxels = np.random.default_rng(0).standard_normal((8, 8, 8))
    for scale in (0.5, 1.0, 20.0):
        fields = {"scan": modalities.make("volume", patch=(4, 4, 4), spacing=(scale,) * 3)}
        model = Encoder(fields, size="nano", positions="alibi")
        value = fields["scan"].decode({"values": voxels, "spacing": (scale,) * 3})
        column = Column(fields["scan"].collate([value]), torch.zeros(1, dtype=torch.int64))
        tokens = model.tokenize(Batch.of(1, {"scan": column}))["scan"]
        bias = place_bias("alibi", fields, 4, model.pools)
        place = bias.centre(tokens)
        torch.testing.assert_close((place[1] - place[0]).norm(), torch.tensor(1.0))


def test_voxels_that_are_hidden_never_move_what_is_encoded(monkeypatch):
    """Two thirds of the patches are hidden: changing one of these changes no token."""
    model, modality = encoder(), FIELDS["fine"]
    method = methods.build("mae", model, ratio=0.65).double().eval()
    contexts, real = [], model.encode
    monkeypatch.setattr(model, "encode", lambda *a: contexts.append(real(*a)) or contexts[-1])
    base = modality.decode(np.random.default_rng(0).standard_normal((8, 8, 8)))

    def encoded(one):
        column = Column(doubled(modality, [one]), torch.zeros(1, dtype=torch.int64))
        with torch.no_grad():
            method.features(Batch.of(1, {"fine": column}))
        return contexts[-1]["fine"].x

    first, moved = encoded(base), []
    for x, y, z in np.ndindex(2, 4, 2):
        voxels = frame.voxels_of(base).copy()
        voxels[4 * x : 4 * x + 4, 2 * y : 2 * y + 2, 4 * z : 4 * z + 4] += 3
        moved.append(not torch.equal(first, encoded(frame.with_voxels(base, voxels))))
    assert sum(moved) == round(16 * 0.35) == len(first)
