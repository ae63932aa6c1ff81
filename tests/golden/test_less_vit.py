"""LESS ViT, Si et al. 2025, arXiv:2503.12843, with the numbers of the authors' program."""

import numpy as np
import pytest
import torch

from amodal import methods, modalities
from amodal.core import Recipe
from tests.golden.harness import assert_same, defaults, golden
from tests.golden.less_vit_reference import Less, less_vit
from tests.methods import bench

TURNED, WEAK = ("turned",), ("weak",)
GRIDS = ("picture", "optical", "radar")

BANDS = {
    "bands": ("a", "b", "c"),
    "wavelengths": (490.0, 665.0, 842.0),
    "by_wavelength": True,
    "size": 12,
    "patch": 4,
    "resolution": 10.0,
    "mean": (0.1, 0.2, 0.3),
    "std": (1.0, 2.0, 3.0),
}
MANY = BANDS | {
    "bands": tuple("abcde"),
    "wavelengths": (1610.0, 490.0, 560.0, 665.0, 842.0),
    "size": 8,
    "mean": (),
    "std": (),
}
INFRARED = BANDS | {
    "bands": ("d", "e"),
    "wavelengths": (665.0, 1610.0),
    "size": 8,
    "resolution": 20.0,
    "mean": (0.5, -0.5),
    "std": (0.5, 1.5),
}
"""Another raster, of which one band has a wavelength of the first, with patches of 80 metres."""
FINE = INFRARED | {"size": 6, "patch": 2}
"""Patches of 40 metres, at the places of those of the first, of fewer pixels."""
UNKNOWN = BANDS | {"resolution": 0.0}
COARSE = BANDS | {"resolution": 100.0}
"""Patches of 400 metres: some are more than 640 apart."""
DATED = BANDS | {"dates": 2, "size": 8}


@pytest.fixture
def rasters(monkeypatch):
    """Rasters in place of the bench's fields, in which pixels, patches and bands are missing."""

    def use(share=0.9, **kinds):
        """share: of the patches of each band, that have data."""
        small, other = bench.fields, bench.raw

        def fields(names=bench.FIELDS):
            made = {n: modalities.make("raster", **kind) for n, kind in kinds.items()}
            return {n: made[n] if n in kinds else small((n,))[n] for n in names}

        def raw(field, rng):
            return drawn(kinds[field], share, rng) if field in kinds else other(field, rng)

        monkeypatch.setattr(bench, "fields", fields)
        monkeypatch.setattr(bench, "raw", raw)
        return kinds

    return use


def drawn(kind, share, rng):
    """Of one date or two, in months that fields of one date do not count; or of no known dates."""
    patch, count = kind["patch"], int(rng.integers(1, kind.get("dates", 1) + 1))
    height, width = kind["size"], kind["size"] - int(rng.integers(patch))
    values = rng.normal(size=(count, len(kind["bands"]), height, width)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    for date in values:
        for band in date:
            for y in range(0, height, patch):
                for x in range(0, width, patch):
                    if rng.random() > share:
                        band[y : y + patch, x : x + patch] = np.nan
    values[0, 0, 0, 0] = 0.5
    dates = {"dates": ["2020-03-01", "2020-08-15"][:count]} if rng.random() < 0.6 else {}
    return {"values": values, **dates}


def check(fields, kinds=None, *, rows=6, tolerance=1e-10, **options):
    """Two steps. `kinds`: field -> options of each raster."""
    grids = [f for f in fields if f in GRIDS]
    kinds = kinds or {}
    together = TURNED if set(grids) <= set(kinds) else ("plain",)  # pictures are not turned
    views = {f: together if f in grids else WEAK for f in fields} if len(grids) > 1 else WEAK
    reference = less_vit(rasters=kinds, **options)
    golden(
        "less_vit", reference, views=views, fields=fields, rows=rows, tolerance=tolerance,
        also=options,
    )  # fmt: skip


RASTER_AND_TEXT = ("picture", "words")
SINGLE = 1e-5
"""Positions of texts and pictures are in single precision where no others are."""


@pytest.mark.parametrize("options", [
    {},
    {"radius": 0.0},
    {"radius": 40.0},
    {"radius": 60.0},
    {"rank": 2},
    {"rank": 3, "channel_width": 2, "radius": 60.0},
    {"norm_pixels": True},
    {"channel_ratio": 0.0},
    {"channel_ratio": 0.99},
    {"place_ratio": 0.0},
    {"place_ratio": 0.99},
    {"place_ratio": 0.5, "channel_ratio": 0.25},
    {"place_ratio": 0.0, "channel_ratio": 0.0},
    {"channel_width": 8},
    {"decoder_width": 64, "decoder_depth": 1, "decoder_channel_width": 8},
])  # fmt: skip
def test_two_steps(options, rasters):
    check(RASTER_AND_TEXT, rasters(picture=BANDS), **options)


@pytest.mark.parametrize("options", [
    {}, {"channel_ratio": 0.99}, {"channel_ratio": 0.99, "norm_pixels": True, "rank": 2},
])  # fmt: skip
def test_two_steps_of_many_bands(options, rasters):
    check(("picture",), rasters(picture=MANY), **options)


def test_two_steps_of_coarse_patches(rasters):
    """The radius of the authors leaves out the farthest."""
    check(("picture",), rasters(picture=COARSE), place_ratio=0.4)


@pytest.mark.parametrize("other, options", [
    (INFRARED, {}),
    (INFRARED, {"radius": 60.0, "place_ratio": 0.5}),
    (FINE, {}),
    (FINE, {"radius": 60.0, "place_ratio": 0.5}),
    (UNKNOWN | {"size": 8}, {"radius": 0.0}),
])  # fmt: skip
def test_two_steps_of_two_rasters(other, options, rasters):
    """With other patches on the ground, with others at the same places, and on another ground."""
    check(("picture", "optical"), rasters(picture=BANDS, optical=other), **options)


def test_two_steps_of_two_rasters_and_texts(rasters):
    kinds = rasters(picture=BANDS, optical=INFRARED)
    check(("picture", "optical", "words"), kinds, norm_pixels=True, channel_ratio=0.75)


def test_two_steps_of_unknown_metres(rasters):
    check(RASTER_AND_TEXT, rasters(picture=UNKNOWN), radius=0.0)


@pytest.mark.parametrize("options", [{}, {"radius": 30.0}])
def test_two_steps_of_dates(options, rasters):
    check(RASTER_AND_TEXT, rasters(picture=DATED), **options)


def test_two_steps_of_a_date_beside_dates(rasters):
    """The first date of those that are not known is that of a field of one."""
    check(("picture", "optical"), rasters(picture=DATED, optical=FINE))


@pytest.mark.parametrize("options", [{"place_ratio": 0.9}, {"place_ratio": 0.9, "radius": 40.0}])
def test_two_steps_of_rasters_with_little_data(options, rasters, monkeypatch):
    """In some records no token would be seen, were it not for one more place."""
    rescued, draw = [], Less.draw

    def counted(self, cells, seed):
        draw(self, cells, seed)
        rescued.extend(self.rescued)

    monkeypatch.setattr(Less, "draw", counted)
    check(("picture",), rasters(0.2, picture=MANY | {"size": 16}), rows=12, **options)
    assert len(set(rescued)) > 2


def test_two_steps_of_a_signal_and_a_table(rasters):
    """Scales of signals and numbers of tables are in single precision."""
    check(("picture", "signal", "facts"), rasters(picture=BANDS), tolerance=1e-6)


@pytest.mark.parametrize("options", [{}, {"norm_pixels": True}])
def test_two_steps_of_a_picture_beside_a_raster(options, rasters):
    """One channel. Its patches are standardised in any case."""
    check(("picture", "optical"), rasters(optical=INFRARED), **options)


def test_two_steps_of_pictures_and_texts():
    check(RASTER_AND_TEXT, tolerance=SINGLE)


def test_two_steps_of_texts():
    check(("words",), tolerance=SINGLE)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows, rasters):
    """The first has no raster; alone it loses nothing."""
    check(("picture",), rasters(picture=BANDS), rows=rows)


@pytest.mark.parametrize("options", [{}, {"rank": 2, "radius": 60.0}])
def test_encoder(options, rasters):
    """All cells of a record, and its CLS token; and each source alone."""
    fields = ("picture", "optical", "words")
    kinds = rasters(picture=BANDS, optical=INFRARED)
    page = bench.exact(bench.method("less_vit", sources=fields, **options)).eval()
    rows = bench.exact(bench.batch(WEAK, size=6, sources=fields))
    reference = less_vit(rasters=kinds, **options)(page)
    records = reference.records(rows)
    tokens = page.encoder.tokenize(rows)
    found = page.encoder.encode(tokens)
    assert set(found) == {*fields, "fused"}
    vectors = page.encoder.features(rows)
    for source in fields:
        states, means = [], []
        for cells in records:
            if [c for c in cells if c.source == source]:
                grid, x = reference.encode(cells)
                states += [x[grid.numbers[c.key()]] for c in cells if c.source == source]
                alone = [c for c in cells if c.source == source]
                grid, x = reference.encode(alone)
                means.append(torch.stack([x[grid.numbers[c.key()]] for c in alone]).mean(0))
        assert found[source].row.tolist() == tokens[source].row.tolist()
        assert_same({"x": found[source].x}, {"x": torch.stack(states)}, source, 1e-10)
        tolerance = SINGLE if source == "words" else 1e-10
        assert_same({"x": vectors[source].values}, {"x": torch.stack(means)}, source, tolerance)
    whole = [i for i, cells in enumerate(records) if cells]
    assert found["fused"].row.tolist() == vectors["fused"].rows.tolist() == whole
    states = torch.stack([reference.encode(records[i])[1][0] for i in whole])
    assert_same({"x": found["fused"].x}, {"x": states}, "fused", 1e-10)
    assert_same({"x": vectors["fused"].values}, {"x": states}, "fused", 1e-10)


def test_patches_of_bands(rasters):
    """Date, row, column, month, metres, wavelength and standardised pixels of each that has a pixel, dates
    first, then rows, columns and bands."""
    kind = rasters(0.6, picture=DATED)["picture"]
    rng, patch = np.random.default_rng(3), kind["patch"]
    raster = bench.fields(("picture",))["picture"]
    values = [raster.decode(bench.raw("picture", rng)) for _ in range(3)]
    patches = raster.collate(values)
    for value, found in zip(values, patches.split()):
        expected = []
        for number, (month, bands) in enumerate(zip(value[:, 0, 0, 0], value[:, 1:])):
            date = number if np.isnan(month) else month
            sides = np.pad(
                bands, ((0, 0), (0, 0), (0, -bands.shape[2] % patch)), constant_values=np.nan
            )
            for y in range(sides.shape[1] // patch):
                for x in range(sides.shape[2] // patch):
                    for band, (mean, std) in enumerate(zip(kind["mean"], kind["std"])):
                        pixels = sides[band, y * patch :, x * patch :][:patch, :patch].ravel()
                        if np.isfinite(pixels).any():
                            metres = kind["patch"] * kind["resolution"]
                            place = [date, y, x, month, metres, kind["wavelengths"][band]]
                            expected.append([*place, *((pixels - mean) / std)])
        expected = torch.tensor(np.array(expected), dtype=torch.float32)
        torch.testing.assert_close(found, expected, equal_nan=True)


def test_defaults():
    """Of the paper and the authors' program."""
    assert defaults("less_vit") == {
        "channel_width": 4,
        "rank": 1,
        "radius": 640.0,
        "place_ratio": 0.75,
        "channel_ratio": 0.5,
        "norm_pixels": False,
        "decoder_width": 0,
        "decoder_depth": 2,
        "decoder_channel_width": 4,
    }
    assert methods.encoder_options("less_vit") == {"trunk": "joint", "positions": "none"}


def test_the_recipe_of_the_paper():
    assert methods.paper_recipe("less_vit") == Recipe(
        optimizer="adamw",
        lr=1e-4,
        weight_decay=0.05,
        betas=(0.9, 0.95),
        schedule="cosine",
        warmup=0.05,
        clip=1.0,
        drop_path=0.1,
        batch_size=1024,
        epochs=300.0,
        precision="bf16",
    )
