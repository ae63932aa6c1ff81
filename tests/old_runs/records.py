"""The records that the stored runs were trained on and asked about, the same on every machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 60, 220),
    "yellow": (230, 220, 40),
}


def pictures(root: Path, count: int = 48) -> Path:
    """A folder of pictures in sub-folders by colour, two thirds of them with a caption."""
    rng = np.random.default_rng(0)
    for i in range(count):
        name = list(COLOURS)[i % 4]
        (root / name).mkdir(parents=True, exist_ok=True)
        noise = rng.normal(0, 25, (16, 16, 3)) + COLOURS[name]
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / name / f"{i:03d}.png")
        if i % 3:
            (root / name / f"{i:03d}.txt").write_text(
                f"a {name} picture, number {i}", encoding="utf-8"
            )
    return root
