"""Runs of LESS ViT on rasters of another sensor. Apart from the tests of the page, which mutants
run in forks, where a whole run cannot be started."""

import numpy as np
import pytest

import amodal
from amodal import data, modalities
from amodal.core import AmodalError
from amodal.errors import AmodalWarning
from amodal.export.dense_encoder import why_not_exportable


def places(bands, count, sensor, resolution=20.0, seed=0):
    rng = np.random.default_rng(seed)
    values = [
        {"values": rng.normal(size=(len(bands), 16, 16)).astype(np.float32), "bands": list(bands)}
        for _ in range(count)
    ]
    made = modalities.make(
        "raster", bands=bands, size=16, patch=4, sensor=sensor, resolution=resolution,
        mean=(0.0,) * len(bands), std=(1.0,) * len(bands),
    )  # fmt: skip
    return data.open({"sensor": values}, fields={"sensor": made})


def test_a_run_embeds_another_sensor_without_new_weights(tmp_path):
    """Landsat's seven bands and pixels of 30 m, after three bands of Sentinel-2."""
    run = amodal.pretrain(
        "less_vit", places(("B02", "B03", "B8A"), 24, ""), tmp_path / "run", size="nano", steps=2,
        batch_size=8, progress=False,
    )  # fmt: skip
    bands = tuple(f"B{i}" for i in range(1, 8))
    landsat = places(bands, 6, "landsat8", resolution=30.0)
    with pytest.warns(AmodalWarning, match="pixels of 30 m"):
        found = amodal.load(tmp_path / "run").embed(landsat)
    assert found.features["sensor"].values.shape == (6, 64) == found.features["fused"].values.shape
    with pytest.raises(AmodalError, match="of B1, B2.* none is known"):
        run.embed(places(bands, 6, ""))
    assert "cells attend along channels" in why_not_exportable(run.encoder, "sensor")
    with pytest.raises(AmodalError, match="no dense form"):
        run.export(tmp_path / "graphs", to="onnx")


def test_a_band_without_a_wavelength_is_refused_before_training(tmp_path):
    with pytest.raises(AmodalError, match="the field 'sensor' of .*sensor = NAME"):
        amodal.pretrain("less_vit", places(("B1", "x"), 8, ""), tmp_path / "run", steps=1)
