"""Wavelengths of bands: of sensors, of names, of files and as the data says; tokens by wavelength."""

import math

import numpy as np
import pytest
import torch

from amodal import data, modalities
from amodal.core import AmodalError, Column
from amodal.modalities.shared import raster_patches
from amodal.modalities.shared.raster_wavelengths import SENSORS, known, of_all, of_tags
from tests.modalities.test_raster import tiff

OPTICAL = {"bands": ("B02", "B03", "B04"), "size": 8, "patch": 4, "resolution": 10.0}


def raster(**options):
    return modalities.make("raster", **OPTICAL | options)


@pytest.mark.parametrize("bands, sensor, expected", [
    (("B02", "B8A", "B12"), "", (492.4, 864.7, 2202.4)),  # no other sensor has such names
    (("B2", "B8A"), "", (492.4, 864.7)),
    (("B4", "B5"), "sentinel2", (664.6, 704.1)),
    (("B4", "B5"), "landsat8", (654.6, 864.7)),
    (("Blue", "green", "RED", "nir"), "", (490.0, 560.0, 665.0, 842.0)),
    (("VV", "VH"), "", (5500.0, 5700.0)),
    (("vv", "red"), "sentinel1", (5500.0, 665.0)),
    (("band 3 (473.5 Nanometers)", "0.66 um", "1.6 µm"), "", (473.5, 660.0, 1600.0)),
])  # fmt: skip
def test_names_that_are_known(bands, sensor, expected):
    assert of_all(bands, (), sensor) == pytest.approx(expected)


@pytest.mark.parametrize("bands, sensor, missing", [
    (("B1", "B4"), "", "B1, B4"),  # of Sentinel-2 or of Landsat
    (("red", "thing"), "", "thing"),
    (("B13",), "sentinel2", "B13"),
    (("b1", "VV"), "sentinel1", "b1"),
])  # fmt: skip
def test_what_is_not_known_is_said_with_what_to_do(bands, sensor, missing):
    with pytest.raises(AmodalError) as error:
        raster(bands=bands, sensor=sensor).read_by_wavelength()
    for text in (f"of {missing} none is known", "wavelengths = [NANOMETRES", "sensor = NAME"):
        assert text in str(error.value)


def test_what_is_written_counts_more_than_names():
    assert known(("B02", "x"), (1.0, 2.0)) == {"B02": 1.0, "x": 2.0}
    assert raster(wavelengths=(1.0, 2.0, 3.0)).band_wavelengths() == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("options, message", [
    ({"sensor": "landsat"}, "Did you mean landsat8"),
    ({"wavelengths": (1.0,)}, "1 numbers for 3 bands"),
    ({"wavelengths": (1.0, 0.0, 2.0)}, "above 0, not 0.0"),
    ({"wavelengths": (1.0, math.inf, 2.0)}, "inf"),
])  # fmt: skip
def test_wrong_options_are_refused(options, message):
    with pytest.raises(AmodalError, match=message):
        raster(**options)


@pytest.mark.parametrize("options, message", [
    ({"wavelengths": (490.0, 490.0, 3.0)}, "'B02' and 'B03' both have 490 nm"),
    ({"patches": (2, 4)}, "patches of one side"),
])  # fmt: skip
def test_bands_that_cannot_be_identified(options, message):
    with pytest.raises(AmodalError, match=message):
        raster(**options).read_by_wavelength()


def test_sensors_have_bands_that_differ():
    for bands in SENSORS.values():
        assert len(set(bands.values())) == len(bands)


@pytest.mark.parametrize("tags, expected", [
    ({"CENTRAL_WAVELENGTH_UM": "0.665"}, 665.0),
    ({"wavelength": "473.5", "wavelength_units": "Nanometers"}, 473.5),
    ({"wavelength": "0.66", "wavelength_units": "Micrometers"}, 660.0),
    ({"wavelength": "473.5"}, 473.5),
    ({"other": "1"}, math.nan),
    ({"wavelength": "unknown"}, math.nan),
])  # fmt: skip
def test_tags_of_files(tags, expected):
    assert of_tags(tags) == pytest.approx(expected, nan_ok=True)


def test_a_file_that_says_its_wavelengths():
    rng = np.random.default_rng(0)
    files = [
        tiff(rng.normal(size=(2, 8, 8)).astype(np.float32), ("p", "q"), nm=(500.0, 612.5))
        for _ in range(3)
    ]
    found = modalities.kind("raster").infer(files)
    assert found.bands == ("p", "q") and found.wavelengths == (500.0, 612.5)
    other = tiff(rng.normal(size=(2, 8, 8)).astype(np.float32), ("p", "q"))
    assert modalities.kind("raster").infer([other]).wavelengths == ()


def test_a_value_as_a_dict_that_says_them():
    values = {"values": np.zeros((2, 8, 8)), "bands": ["p", "q"], "wavelengths": [500, 600]}
    assert modalities.kind("raster").infer([values]).wavelengths == (500.0, 600.0)
    nameless = {"values": np.zeros((2, 8, 8)), "wavelengths": [500, 600]}
    assert modalities.kind("raster").infer([nameless]).wavelengths == (500.0, 600.0)
    with pytest.raises(AmodalError, match="3 wavelengths for values of shape"):
        modalities.kind("raster").infer([values | {"wavelengths": [1, 2, 3]}])


def test_tokens_by_wavelength():
    """One a band that has a pixel there: place, metres, nanometres and the band's pixels alone."""
    single = raster(mean=(1.0, 0.0, 0.0), std=(2.0, 1.0, 1.0)).read_by_wavelength()
    pixels = np.arange(3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)
    pixels[1, :4, :4] = np.nan
    pixels[2, 0, 0] = np.nan
    flat = single.collate([single.decode(pixels)]).flat
    assert flat.shape == (3 * 4 - 1, raster_patches.OF_BAND + 16)
    assert flat[0, raster_patches.PLACE : raster_patches.OF_BAND].tolist() == pytest.approx(
        [40.0, 492.4]
    )
    assert flat[:2, 5].tolist() == pytest.approx([492.4, 664.6])  # the second has no pixel here
    np.testing.assert_allclose(flat[0, 6:].reshape(4, 4), (pixels[0, :4, :4] - 1) / 2)
    assert flat[1, 6:].isnan().tolist() == [True] + [False] * 15
    assert single.targets(single.collate([single.decode(pixels)])).shape == (11, 16)
    assert single.predictor(8).out_features == 16 and single.band_of_targets() == [0] * 16
    assert not single.token_groups
    bag = single.tokenizer(8)(*column(single, [pixels]), "field", 1)
    assert bag.attributes["wavelength"].tolist() == flat[:, 5].tolist()
    assert set(bag.attributes["metres"].tolist()) == {40.0}


def column(single, values):
    return (Column(single.collate([single.decode(v) for v in values]), torch.arange(len(values))),)


def test_without_a_resolution_there_are_no_metres():
    single = raster(resolution=0.0).read_by_wavelength()
    assert single.collate([single.decode(np.zeros((3, 4, 4)))]).flat[:, 4].isnan().all()


def test_a_run_reads_the_bands_of_the_data():
    run = raster(mean=(1.0, 2.0, 3.0)).read_by_wavelength()
    other = modalities.make(
        "raster", bands=("B1", "B2"), sensor="landsat8", size=16, patch=8, resolution=30.0,
        mean=(5.0, 6.0), std=(1.0, 1.0),
    )  # fmt: skip
    here = run.as_in(other)
    assert here.by_wavelength and here.bands == ("B1", "B2") and here.mean == (5.0, 6.0)
    assert here.patch == 4 and here.resolution == 30.0
    # its own bands, or some of them, are standardised as they were
    assert run.as_in(raster(mean=(9.0, 9.0, 9.0))) == run
    assert run.as_in(raster(bands=("B03",), mean=(9.0,))) == run
    assert run.as_in(raster(bands=("band 1", "band 2", "band 3"))) == run
    assert raster().as_in(other) == raster()
    with pytest.raises(AmodalError, match="none is known"):
        run.as_in(modalities.make("raster", bands=("B1", "B2")))


def test_nobody_writes_it_into_the_schema(tmp_path):
    rows = {"s2": [np.zeros((3, 8, 8), dtype=np.float32)] * 4}
    dataset = data.open(rows, fields={"s2": raster()})
    text = data.schema.dumps(dataset.schema)
    assert "by_wavelength" not in text
