"""Raw samples of every kind of data, as readers hand them over."""

import io

import numpy as np
import soundfile
from PIL import Image as Pillow

from amodal import modalities

NAMES = (
    "image",
    "text",
    "audio",
    "series",
    "table",
    "sequence",
    "events",
    "raster",
    "volume",
    "points",
)


def samples(kind: str, lengths=(5, 1, 40, 17), seed: int = 0) -> list:
    """One raw value for each of `lengths`; kinds without a length make as many values of one size."""
    rng = np.random.default_rng(seed)
    make = {
        "image": lambda n: rng.integers(0, 256, (20, 30, 3), dtype=np.uint8),
        "text": lambda n: "".join(rng.choice(list("abc déλ中 "), n - 1)) + "x",
        "audio": lambda n: (rng.standard_normal(n * 50) * 0.1).astype(np.float32),
        "series": lambda n: (
            np.where(rng.random((n, 3)) < 0.2, np.nan, rng.standard_normal((n, 3)) * (1, 5, 9) + 7)
            + [[0, 0, 0]]
        ),
        "table": lambda n: {
            "age": n,
            "colour": ("red", "blue", None)[n % 3],
            "height": (1.5, None)[n % 2],
        },
        "sequence": lambda n: (
            "".join(rng.choice(list("ACGTN-"), 20 * n - 1, p=(0.24, 0.24, 0.24, 0.24, 0.02, 0.02)))
            + "G"
        ),
        "events": lambda n: [
            {
                "time": float(t),
                "item": (None, "tea", "milk")[rng.integers(3)],
                "price": float(rng.normal(5, 2)),
            }
            for t in rng.exponential(1, n).cumsum()
        ],
        "raster": lambda n: {
            "values": np.where(
                rng.random((1 + n % 3, 5, 12, 8 + n % 5)) < 0.2,
                np.nan,
                rng.standard_normal((1 + n % 3, 5, 12, 8 + n % 5)) * 3 + n,
            ),
            "dates": [f"2020-0{month + 1}-15" for month in range(1 + n % 3)],
        },
        "volume": lambda n: {
            "values": np.where(
                rng.random((7 + n % 4, 9, 5 + n % 3)) < 0.2,
                np.nan,
                rng.standard_normal((7 + n % 4, 9, 5 + n % 3)) * 3 + n % 7,
            ),
            "spacing": (1.0, 1.0 + n % 2, 2.0),
        },
        "points": lambda n: {
            "points": rng.standard_normal((n, 3)) * (1, 2, 5) + 100 * n,
            "intensity": np.where(rng.random(n) < 0.2, np.nan, rng.random(n)),
        },
    }[kind]
    raw = [make(n) for n in lengths]
    if kind == "series":
        for table in raw:
            table[0, 0] = 7.0  # a series without any sample is no series
    return raw


def inferred(kind: str, **options):
    return modalities.kind(kind).infer(samples(kind), **options)


def variants() -> dict[str, modalities.Modality]:
    """Every modality in more than one setting."""
    return {
        "image": inferred("image"),
        "image, one channel": inferred("image", channels=1, size=24, patch=6),
        "text": inferred("text"),
        "text, 3 bytes a token": inferred("text", patch=3),
        "audio": inferred("audio", rate=1000),
        "audio, waveform": inferred("audio", rate=1000, features="waveform", patch=(7,)),
        "series": inferred("series"),
        "series, 4 steps a token": inferred("series", patch=4),
        "table": inferred("table"),
        "sequence": inferred("sequence"),
        "sequence, words of 3": inferred("sequence", k=3),
        "events": inferred("events"),
        "raster": inferred("raster"),
        "raster, one date": inferred("raster", dates=1, patch=5, turn=False),
        "volume": inferred("volume", patch=(4, 3, 2)),
        "volume, each by itself": inferred("volume", patch=(4, 4, 2), by_scan=True, flip=True),
        "points": inferred("points"),
        "points, in metres": inferred("points", scale="metres", channels=(), neighbours=5, up=""),
        "events, gaps as they are": inferred("events", log=False),
        "table, periodic": inferred("table", frequencies=3),
    }


def png(picture: Pillow.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def wav(samples: np.ndarray, rate: int, format: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()
