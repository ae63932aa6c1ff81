"""LESS ViT beyond the batches of its golden test: what is missing, hidden, or of another sensor."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, Column
from amodal.core import part as parts
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.less_trunk import LessTrunk
from tests.methods.bench import exact, fields
from tests.nn.alone import assert_alone, doubled

OPTIONS = methods.encoder_options("less_vit")


def raster(bands, size, resolution, wavelengths, **options):
    made = modalities.make(
        "raster", bands=bands, size=size, patch=4, resolution=resolution, wavelengths=wavelengths,
        **options,
    )  # fmt: skip
    return made.read_by_wavelength()


FINE = raster(("a", "b", "c"), 16, 10.0, (490.0, 560.0, 842.0))
FIELDS = {
    "fine": FINE,
    "same": raster(("d", "e"), 16, 10.0, (1610.0, 2200.0)),
    "coarse": raster(("f",), 8, 60.0, (1375.0,), dates=2),
}


def built(chosen=FIELDS, **options):
    shape = {n: options.pop(n) for n in ("positions", "pool", "trunk") if n in options}
    torch.manual_seed(0)
    encoder = Encoder(chosen, size="nano", **OPTIONS | shape)
    return methods.build("less_vit", encoder, **options).double().eval()


@st.composite
def batches(draw):
    """Of any sides, dates and gaps; with a band or a corner missing."""
    size = draw(st.integers(1, 4))
    columns, values = {}, {}
    for field, modality in FIELDS.items():
        rows = [r for r in range(size) if draw(st.booleans())]
        for row in rows:
            rng = np.random.default_rng(10 * row + len(field))
            dates = draw(st.integers(1, modality.dates))
            height, width = (draw(st.integers(1, modality.size)) for _ in range(2))
            pixels = rng.standard_normal((dates, modality.channels, height, width))
            if draw(st.booleans()) and modality.channels > 1:
                pixels[:, 0] = np.nan
            if draw(st.booleans()):
                pixels[:, :, : height // 2, : width // 2] = np.nan
            days = [f"2020-{m + 1:02d}-1{rng.integers(9)}" for m in range(dates)]
            raw = {"values": pixels.astype(np.float32), "dates": days}
            values[field, row] = modality.decode(raw)
        made = [values[field, row] for row in rows]
        columns[field] = Column(doubled(modality, made), torch.tensor(rows, dtype=torch.int64))
    return Batch.of(size, columns), values


@settings(max_examples=30, deadline=None)
@given(batches())
def test_a_batch_is_each_of_its_records_alone(drawn):
    assert_alone(drawn, built(radius=50.0).encoder)


@settings(max_examples=30, deadline=None)
@given(batches())
def test_so_are_its_losses(drawn):
    batch, _ = drawn
    page = built(radius=50.0)
    with torch.no_grad():
        whole = page.features(batch)
        for row in range(batch.size):
            alone = page.features(batch.between(row, row + 1))
            for source in whole:
                mine = whole[source].flat[whole[source].rows == row]
                torch.testing.assert_close(mine, alone[source].flat, atol=1e-9, rtol=1e-9)


def one(value, modality=FINE):
    return Batch.of(1, {"fine": Column(doubled(modality, [value]), torch.zeros(1).long())})


def test_pixels_that_are_hidden_never_move_what_is_encoded(monkeypatch):
    """Of a band and place each: it moves the encoding if both are seen, and then alone."""
    page = built({"fine": FINE})
    encoded, real = [], LessTrunk.encode
    monkeypatch.setattr(LessTrunk, "encode", lambda *a: encoded.append(real(*a)) or encoded[-1])
    base = FINE.decode(np.random.default_rng(0).standard_normal((3, 16, 16)).astype(np.float32))

    def run(value):
        with torch.no_grad():
            page.features(one(value))
        return encoded[-1]

    first, moved = run(base), np.zeros((3, 4, 4), dtype=bool)
    for band, y, x in np.ndindex(3, 4, 4):
        changed = base.copy()
        changed[:, 1 + band, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += 3
        moved[band, y, x] = not torch.equal(first, run(changed))
    # two of three bands, a quarter of 16 places, and no band or place in part
    assert moved.any((1, 2)).sum() == 2 and moved.any(0).sum() == 4 and moved.sum() == 8
    assert len(first) == 8 + 4 + 2 + 1


def test_every_hidden_token_is_in_the_loss_of_its_place_its_channel_or_both():
    page = built({"fine": FINE})
    value = FINE.decode(np.random.default_rng(0).standard_normal((3, 16, 16)).astype(np.float32))
    column = page.features(one(value))["fine"].flat[0]
    assert column[1] == 3 * 12 and column[3] == 1 * 16


def test_masks_follow_from_the_seed_of_the_row():
    page = built({"fine": FINE})
    values = [FINE.decode(np.ones((3, 16, 16), dtype=np.float32))] * 8
    batch = Batch.of(8, {"fine": Column(doubled(FINE, values), torch.arange(8))})
    grid = page.trunk.grid(page.encoder.tokenize(batch)["fine"])
    first, second = page.draw(grid, batch.seeds), page.draw(grid, batch.seeds)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    by_row = torch.stack(first).unflatten(1, (8, -1))
    assert len({tuple(row.flatten().tolist()) for row in by_row.unbind(1)}) > 1
    assert not torch.equal(page.draw(grid, batch.seeds + 1)[1], first[1])


def test_a_band_is_known_by_its_wavelength_alone():
    """Bands of other names and numbers, with the same wavelengths, have the same vectors; and one
    of another wavelength has others."""
    encoder = built({"fine": FINE}).encoder
    pixels = np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float32)

    def vector(bands, wavelengths, resolution=10.0):
        read = FINE.as_in(raster(bands, 8, resolution, wavelengths))
        with torch.no_grad():
            return encoder.features(one(read.decode(pixels), read))["fine"].values

    base = vector(("x", "y"), (490.0, 842.0))
    torch.testing.assert_close(base, vector(("p", "q"), (490.0, 842.0)))
    assert (base - vector(("x", "y"), (490.0, 900.0))).abs().max() > 1e-4
    assert (base - vector(("x", "y"), (490.0, 842.0), 30.0)).abs().max() > 1e-4


@pytest.mark.parametrize("options, message", [
    ({"pool": "cls"}, "class tokens and positions of its own"),
    ({"positions": "sincos"}, "class tokens and positions of its own"),
    ({"pool": "attention"}, "pooling"),
    ({"trunk": "separate"}, 'trunk="joint"'),
    ({"channel_width": 5}, "channel_width divides the width of a head, 64 / 2"),
    ({"channel_width": 0}, "channel_width"),
    ({"decoder_channel_width": 5}, "decoder_channel_width divides"),
    ({"decoder_width": 30, "decoder_channel_width": 2}, "a multiple of 4"),
    ({"decoder_width": -4}, "decoder_width"),
    ({"decoder_depth": 0}, "decoder_depth"),
    ({"rank": 0}, "rank"),
    ({"radius": -1.0}, "radius"),
    ({"place_ratio": 1.0}, "less_vit.place_ratio is a share"),
    ({"channel_ratio": -0.1}, "less_vit.channel_ratio is a share"),
])  # fmt: skip
def test_what_is_refused(options, message):
    with pytest.raises(AmodalError, match=message):
        built({"fine": FINE}, **options)


def test_fields_that_are_refused():
    plain = modalities.make("raster", bands=("B02",), size=8, patch=4, resolution=10.0)
    with pytest.raises(AmodalError, match="read_by_wavelength"):
        built({"fine": plain})
    nowhere = raster(("a",), 8, 0.0, (490.0,))
    with pytest.raises(AmodalError, match="resolution = METRES"):
        built({"fine": nowhere})
    assert built({"fine": nowhere}, radius=0.0)


def test_the_encoder_is_rebuilt_from_its_spec():
    page = built({"fine": FINE, **fields(("words",))}, rank=2, radius=50.0)
    rebuilt = parts.build(page.encoder.spec)
    rebuilt.load_state_dict(page.encoder.state_dict())
    assert rebuilt.trunks["all"].radius == 50.0 and rebuilt.trunks["all"].dateless == ("fine",)
    column = {
        "words": Column(fields(("words",))["words"].collate([np.arange(5)]), torch.zeros(1).long())
    }
    batch = exact(Batch.of(1, column))
    with torch.no_grad():
        torch.testing.assert_close(
            rebuilt.double().eval().features(batch)["words"].values,
            page.encoder.features(batch)["words"].values,
        )


def test_nothing_is_put_between_its_blocks():
    page = built({"fine": FINE})
    value = FINE.decode(np.ones((3, 8, 8), dtype=np.float32))
    tokens = page.encoder.tokenize(one(value))
    with pytest.raises(AmodalError, match="nothing can be put into"):
        page.encoder.encode(tokens, block_hook=lambda i, t, block: block(t))
