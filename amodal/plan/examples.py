"""Records to count with where there is no data yet: noise of the right shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from amodal import data, modalities
from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.modalities import Modality

DEFAULT = {"image": 196, "text": 64}
PATCH = 16  # pixels


def made_up(tokens: dict[str, int], records: int) -> Dataset:
    """kind of data -> about how many tokens a value has; every record has all. Raises AmodalError for kinds that it cannot make."""
    rng = np.random.default_rng(0)
    columns, fields = {}, {}
    for name, count in tokens.items():
        if name not in MAKERS:
            raise unknown("kind of data to make up", name, MAKERS, "For others give real records: --data DIR.")
        if count < 1:
            raise AmodalError(f"--tokens {name}={count}: a value has at least one token")
        fields[name], raw = MAKERS[name](count, rng)
        columns[name] = [raw() for _ in range(records)]
    return data.open(columns, fields=fields)


def _image(tokens: int, rng: np.random.Generator) -> tuple[Modality, Callable]:
    side = PATCH * max(round(math.sqrt(tokens)), 1)
    return modalities.make("image", size=side, patch=PATCH), lambda: rng.integers(
        0, 255, (side, side, 3), dtype=np.uint8
    )


def _text(tokens: int, rng: np.random.Generator) -> tuple[Modality, Callable]:
    letters = np.array(list("abcdefgh "))
    return modalities.make(
        "text", max_length=tokens, patch=4
    ), lambda: "".join(rng.choice(letters, 4 * tokens - 1)) + "x"


def _audio(tokens: int, rng: np.random.Generator) -> tuple[Modality, Callable]:
    rate, frames = 16000, 16 * math.ceil(tokens / 4)  # tokens of 16 frames and 16 of 64 bands
    samples = round(rate * (0.025 + 0.01 * (frames - 1)))
    audio = modalities.make("audio", rate=rate, max_seconds=samples / rate)
    return audio, lambda: rng.normal(0, 0.1, samples).astype(np.float32)


def _series(tokens: int, rng: np.random.Generator) -> tuple[Modality, Callable]:
    channels = tuple(f"channel {i}" for i in range(8))
    series = modalities.make("series", channels=channels, max_steps=tokens, mean=(0.0,) * 8, std=(1.0,) * 8)
    return series, lambda: rng.normal(size=(tokens, 8)).astype(np.float32)


MAKERS = {"image": _image, "text": _text, "audio": _audio, "series": _series}
