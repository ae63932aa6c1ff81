"""800 generated scenes of eight minerals, as two sensors see them that have no wavelength in common.

Source: computed here, the same in every process. Licence: CC0-1.0. `seen` and `unseen`: 12 x 12
pixels in eight bands each, of one ground; the first sensor's bands go from 480 to 2250 nm, the
second's from 430 to 1000. A mineral is a smooth spectrum, a slope with three broad bands of
absorption. A scene is of one mineral mostly, mixed pixel by pixel with two others by smooth maps of
abundance; its light differs between pixels and scenes, in all bands alike, and each band has noise.
Label: `mineral`, which is most abundant. Scenes are drawn independently, so any split is fair.
Left out: atmosphere, water, responses of bands that are wider than a line.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = ()
LICENCE = "CC0-1.0"
RECORDS, SIDE, MINERALS = 800, 12, 8
SENSORS = {
    "seen": (480.0, 650.0, 830.0, 1050.0, 1250.0, 1600.0, 2000.0, 2250.0),
    "unseen": (430.0, 500.0, 560.0, 610.0, 700.0, 760.0, 870.0, 1000.0),
}
"""Field -> nanometres of its bands."""
LIGHT, NOISE = 0.3, 0.02
"""Of the logarithm of the light, and of reflectance."""


def write(out: Path, archives: list[Path]) -> None:
    rows = [record(i) for i in range(RECORDS)]
    records(out, {name: [row[name] for row in rows] for name in rows[0]})
    fields = {
        name: field(
            "raster",
            bands=[f"{n:g} nm" for n in nanometres],
            wavelengths=list(nanometres),
            size=SIDE,
            patch=4,
            resolution=10.0,
        )
        for name, nanometres in SENSORS.items()
    }
    title = "Generated scenes of minerals, by two sensors"
    describe(out, fields, {"mineral": "category"}, title=title, licence=LICENCE)


def record(i: int) -> dict[str, Any]:
    """Record i: its key, its scenes and its label."""
    rng = np.random.default_rng([70, i])
    chosen = rng.choice(MINERALS, 3, replace=False)
    logits = np.stack([smooth(rng) + bonus for bonus in (0.7, 0.0, 0.0)])
    share = np.exp(logits) / np.exp(logits).sum(0)
    light = np.exp(LIGHT * (rng.normal() + smooth(rng)))
    row: dict[str, Any] = {"key": f"{i:04d}"}
    for name, nanometres in SENSORS.items():
        pixels = np.einsum("mb,mhw->bhw", spectra(np.array(nanometres))[chosen], share) * light
        pixels = pixels + NOISE * rng.normal(size=pixels.shape)
        packed = io.BytesIO()
        bands = np.array([f"{n:g} nm" for n in nanometres])
        np.savez_compressed(packed, values=pixels[None].astype(np.float32), bands=bands)
        row[name] = packed.getvalue()
    row["mineral"] = f"mineral {chosen[share.mean((1, 2)).argmax()] + 1}"
    return row


def spectra(nanometres_B: np.ndarray) -> np.ndarray:
    """(MINERALS, B) reflectance at wavelengths."""
    rng = np.random.default_rng(70)
    level, slope = rng.uniform(0.3, 0.6, MINERALS), rng.uniform(-0.15, 0.25, MINERALS)
    centre = rng.uniform(420, 2400, (MINERALS, 3))
    width, depth = rng.uniform(80, 250, (MINERALS, 3)), rng.uniform(0.05, 0.25, (MINERALS, 3))
    far = (nanometres_B - centre[..., None]) / width[..., None]
    line = level[:, None] + slope[:, None] * (nanometres_B - 1400) / 1000
    out: np.ndarray = line - (depth[..., None] * np.exp(-(far**2) / 2)).sum(1)
    return out


def smooth(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) a map of waves, with deviation 1."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = [
        np.cos(2 * np.pi * (a * y + b * x) + rng.uniform(0, 2 * np.pi))
        for a, b in rng.uniform(-1.2, 1.2, (4, 2))
    ]
    made = np.sum(waves, 0)
    out: np.ndarray = (made - made.mean()) / max(made.std(), 1e-9)
    return out
