"""1,600 generated tiles of farmland in four bands over a year: what grows shows by when it is green.

Source: computed here, the same in every process. Licence: CC0-1.0. `tile`: 12 x 12 pixels at a day
of each month, reflectance in blue, red, near infrared and short wave. A field of one of six crops,
beside a strip of bare soil or of forest. Cover of the field follows the season of its crop, a few
weeks earlier or later; a pixel mixes soil and leaves by it. Soil is darker or brighter in each
record, light in each picture, in all bands alike. One date in five is cloudy and missing, and of
one in ten half of the tile. Label: `crop`. Tiles are drawn independently, so any split is fair.
Left out: weather of a year that fields share, terrain, mixed fields, atmosphere by band.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = ()
LICENCE = "CC0-1.0"
RECORDS, SIDE, DATES = 1600, 12, 12
BANDS = ("blue", "red", "nir", "swir")
SOIL = np.array([0.08, 0.15, 0.22, 0.30])
LEAVES = np.array([0.03, 0.04, 0.45, 0.18])
CROPS = {  # day of the year of each peak of cover, its width in days, and cover beside it
    "winter cereal": (((125, 35),), 0.15),
    "spring cereal": (((165, 28),), 0.05),
    "maize": (((205, 32),), 0.05),
    "beet": (((235, 50),), 0.05),
    "two crops": (((120, 25), (260, 25)), 0.05),
    "grass": (((140, 80), (250, 60)), 0.35),
}
SHIFT = 10.0
"""Days, the standard deviation of a record's season."""
LIGHT = 0.25
"""Of the logarithm of the light of a picture."""


def write(out: Path, archives: list[Path]) -> None:
    rows = [record(i) for i in range(RECORDS)]
    records(out, {name: [row[name] for row in rows] for name in rows[0]})
    fields = {
        "tile": field("raster", bands=list(BANDS), size=SIDE, patch=4, resolution=10.0, dates=DATES)
    }
    title = "Generated farmland: six crops by their seasons"
    describe(out, fields, {"crop": "category"}, title=title, licence=LICENCE)


def record(i: int) -> dict[str, Any]:
    """Record i: its key, its tile and its label."""
    rng = np.random.default_rng([18, i])
    crop = str(rng.choice(list(CROPS)))
    days = np.array([30.4 * month + rng.integers(1, 28) for month in range(DATES)])
    cover_T = season(crop, days, rng)
    other = float(rng.choice([0.0, 0.85]))  # of the strip: soil, or forest
    at_border = rng.random() < 0.5
    width = int(rng.integers(2, 5))
    strip = np.zeros((SIDE, SIDE), dtype=bool)
    strip[:width] = True
    strip = np.rot90(strip, int(rng.integers(4))) if at_border else np.roll(strip, SIDE // 2, 0)
    cover = np.where(strip, other, cover_T[:, None, None]) + rng.normal(
        0, 0.03, (DATES, SIDE, SIDE)
    )
    cover = np.clip(cover, 0, 1)[:, None]
    soil = SOIL * rng.lognormal(0, 0.2)
    pixels = cover * LEAVES[:, None, None] + (1 - cover) * soil[:, None, None]
    pixels = pixels * rng.lognormal(0, LIGHT, (DATES, 1, 1, 1))
    pixels += rng.normal(0, 0.005, pixels.shape)
    pixels = clouded(pixels, rng).astype(np.float32)
    packed = io.BytesIO()
    texts = [
        f"2023-{month + 1:02d}-{int(day - 30.4 * month):02d}" for month, day in enumerate(days)
    ]
    np.savez_compressed(packed, values=pixels, dates=np.array(texts), bands=np.array(BANDS))
    return {"key": f"tile-{i:04d}", "tile": packed.getvalue(), "crop": crop}


def season(crop: str, days: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(days,) the share of the ground that leaves of a crop cover."""
    peaks, least = CROPS[crop]
    shift, height = rng.normal(0, SHIFT), rng.uniform(0.5, 0.9)
    grown = [np.exp(-0.5 * ((days - day - shift) / width) ** 2) for day, width in peaks]
    return np.asarray(np.maximum(least, height * np.max(grown, 0)))


def clouded(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pictures (T, C, H, W) with NaN where clouds are; one of them at least is clear."""
    out = pixels.copy()
    hidden = rng.random(len(out)) < 0.2
    hidden[rng.integers(len(out))] = False
    out[hidden] = np.nan
    half = rng.random(len(out)) < 0.1
    out[half, :, : SIDE // 2] = np.nan
    return out
