"""Names of towns as a scanner and an OCR program see them: GENERATED pictures and texts of real
names (GeoNames, in the bundled globe).

A rendering is a name set in one of several typefaces, wrapped, turned and blurred a little, with
specks and faded ink, beside the text that a noisy reader made of it
(`amodal.modalities.shared.ocr`).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFilter, ImageFont

from amodal import data
from amodal.data import Dataset
from amodal.modalities.image import Image
from amodal.modalities.shared.ocr import garble
from amodal.modalities.text import Text

FACES = (
    "DejaVuSans",
    "DejaVuSerif",
    "DejaVuSansMono",
    "DejaVuSans-Oblique",
    "STIXGeneral",
    "STIXGeneralItalic",
    "cmr10",
    "cmss10",
    "cmtt10",
)
SIDE, LINE, INK = 48, 8, 11
"""Pixels, letters to a line, size of the letters in pixels."""


def towns(dataset: Dataset) -> list[str]:
    """The different names of 5 to 14 ASCII letters among the places of the globe, sorted."""
    rows = np.flatnonzero(dataset.present("places"))
    every = {name for i in rows for name in re.split("[;,]", dataset.raw(int(i), "places"))[2:]}
    return sorted(n for n in map(str.strip, every) if 5 <= len(n) <= 14 and n.isascii())


@cache
def face(name: str) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / f"fonts/ttf/{name}.ttf", INK)


def rendered(name: str, noise: float, rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) uint8. noise: from 0, of blur, specks and fading alike."""
    page = Picture.new("L", (SIDE, SIDE), 255)
    draw, x, y = ImageDraw.Draw(page), *rng.integers(1, 5, 2)
    ink = int(rng.integers(0, 60 + int(200 * noise)))
    chosen = face(FACES[rng.integers(len(FACES))])
    for i in range(0, len(name), LINE):
        draw.text(
            (x, y + 2 * INK * i // LINE + rng.integers(0, 5)),
            name[i : i + LINE],
            fill=ink,
            font=chosen,
        )
    page = page.rotate(float(rng.normal(0, 2)), Picture.Resampling.BILINEAR, fillcolor=255)
    page = page.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.5 + 2 * noise))))
    pixels = np.asarray(page).astype(np.float32) + rng.normal(0, 10 + 100 * noise, (SIDE, SIDE))
    specks = rng.random((SIDE, SIDE)) < noise / 5
    return (
        np.where(specks, rng.integers(0, 256, (SIDE, SIDE)), pixels).clip(0, 255).astype(np.uint8)
    )


def clippings(
    names: list[str], times: int, rate: float, rng: np.random.Generator
) -> tuple[dict[str, list], list[str]]:
    """Columns `crop` and `ocr` of `times` renderings of each name, and whose they are."""
    whose = [name for name in names for _ in range(times)]
    crops = [rendered(name, rate, rng) for name in whose]
    return {"crop": crops, "ocr": [garble(name, rate, rng) for name in whose]}, whose


def fields() -> dict:
    return {
        "crop": Image(size=SIDE, channels=1, patch=8, flip=False, mean=(0.9,), std=(0.2,)),
        "ocr": Text(max_length=20, patch=1),
    }


def opened(columns: dict[str, list], whose: list[str]) -> Dataset:
    return data.open(columns | {"label": whose}, name="names of towns, rendered", fields=fields())
