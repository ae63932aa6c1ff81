"""The handwritten digits as small pictures: what several claims train on where any real pictures
with a label will do."""

from __future__ import annotations

import numpy as np
from PIL import Image as Picture

from amodal import data
from amodal.data import Dataset
from amodal.modalities.image import Image

DATA = "digits"
FIELD = "digit"


def ink(digits: Dataset, size: int = 16) -> list[np.ndarray]:
    """(size, size) uint8 of each record; the source has 16 x 15 windows with 0 to 6."""
    windows = [digits.value(i, "pix").reshape(16, 15) * (255 / 6) for i in range(len(digits))]
    return [np.asarray(Picture.fromarray(w.astype(np.uint8)).resize((size, size))) for w in windows]


def pictures(digits: Dataset, *, size: int = 16, patch: int = 4) -> tuple[Dataset, np.ndarray]:
    """A dataset of the one field "digit" with the split of the source, and its labels "0" to "9"."""
    images = ink(digits, size)
    field = Image.infer(images, channels=1, size=size, patch=patch, flip=False)
    return data.open(
        {FIELD: images}, name="pictures of digits", fields={FIELD: field}
    ), digits.label("digit")


def halves(digits: Dataset, labels: dict[str, list[str]]) -> Dataset:
    """A dataset of two modalities, the left and the right half of each digit, stretched to 16 x 16, and
    these labels."""
    pixels = ink(digits, 16)
    raw = {
        "left": [p[:, :8].repeat(2, 1) for p in pixels],
        "right": [p[:, 8:].repeat(2, 1) for p in pixels],
    }
    fields = {s: Image.infer(v, channels=1, size=16, patch=4, flip=False) for s, v in raw.items()}
    return data.open(raw | labels, name="halves of digits").with_fields(fields)
