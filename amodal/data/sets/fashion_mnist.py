"""Fashion-MNIST: 70,000 grey photographs of clothes, 28 x 28 pixels, in ten classes.

The split is the source's: 10,000 to test; a tenth of the 60,000 others, by hash, is for validation.
"""

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.fetch import Debian
from amodal.data.sets.shared.archives import deb
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Debian(
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        30.9,
    ),
)
LICENCE = "MIT"
RECORDS = 70000
CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def write(out: Path, archives: list[Path]) -> None:
    files = {
        path.rpartition("/")[2]: gzip.decompress(content)
        for path, content in deb(archives[0], "usr/share/datasets/")
    }
    columns: dict[str, list[Any]] = {name: [] for name in ("key", "image", "class", "part")}
    for part, stem in (("train", "train"), ("test", "t10k")):
        pictures = np.frombuffer(
            files[f"{stem}-images-idx3-ubyte.gz"], np.uint8, offset=16
        ).reshape(-1, 28, 28)
        labels = np.frombuffer(files[f"{stem}-labels-idx1-ubyte.gz"], np.uint8, offset=8)
        columns["key"] += [f"{part}-{i:05d}" for i in range(len(pictures))]
        columns["image"] += [_png(picture) for picture in pictures]
        columns["class"] += [CLASSES[label] for label in labels]
        columns["part"] += [part] * len(pictures)
    records(out, columns)
    described = {
        "title": "Fashion-MNIST: photographs of clothes",
        "licence": LICENCE,
        "split": "part",
    }
    describe(out, {"image": field("image", size=28)}, {"class": "category"}, **described)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG", compress_level=6)
    return packed.getvalue()
