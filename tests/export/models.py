"""Models and records that the tests of this folder share."""

import numpy as np
import torch

from amodal import modalities
from amodal.model import Model
from amodal.nn.encoder import Encoder

FIELDS = {
    "photo": modalities.make("image", size=16, mean=(0.3, 0.4, 0.5), std=(0.2, 0.2, 0.3)),
    "caption": modalities.make("text", patch=2, max_length=32),
    "watch": modalities.make(
        "series", channels=("x", "y"), patch=3, mean=(1.0, -2.0), std=(2.0, 0.5)
    ),
    "speech": modalities.make("audio", rate=4000, mels=32),
    "barcode": modalities.make("sequence", k=3, max_length=32),
    "visits": modalities.make(
        "events",
        columns=("item", "price"),
        categories={"item": ("a", "b")},
        step=0.5,
        mean=(0, 3, 0.7),
        std=(1, 2, 0.5),
    ),
    "field": modalities.make(
        "raster", bands=("red", "nir"), size=16, patch=4, mean=(1.0, 2.0), std=(0.5, 2.0)
    ),
    "scan": modalities.make(
        "volume", size=(8, 8, 4), patch=(4, 4, 2), spacing=(1.0, 1.0, 2.0), mean=1.0, std=2.0
    ),
    "cloud": modalities.make(
        "points", channels=("intensity",), points=48, groups=6, neighbours=8, radius=2.0
    ),
    "facts": modalities.make(
        "table", columns=("size", "kind", "age"), categories={"kind": ("a", "b")}, frequencies=2
    ),
}


def encoder(*names: str, **shape) -> Encoder:
    torch.manual_seed(0)
    return Encoder({n: FIELDS[n] for n in names or FIELDS}, size="nano", **shape)


def model(made: Encoder) -> Model:
    return Model(made, {"encoder": made.spec})


def records(n: int = 30, seed: int = 0) -> dict[str, list]:
    """Pictures, two thirds of them with a caption."""
    rng = np.random.default_rng(seed)
    photos = list(rng.integers(0, 255, (n, 16, 16, 3), dtype=np.uint8))
    return {
        "photo": photos,
        "caption": [f"picture number {i} of many" if i % 3 else None for i in range(n)],
    }
