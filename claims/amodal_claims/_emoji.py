"""Emoji as frozen models see them, as triplets: picture, name and tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from amodal import data
from amodal.data import Dataset, sets
from amodal.train.packaged import sentence_encoder
from amodal_claims import _frozen

ANCHOR = "name"
FIELDS = {"image": "image", "name": "annotation", "tags": "tags"}
"""Vectors, and the fields of OpenMoji that they are of."""


@lru_cache(1)
def home() -> tuple[Dataset, np.ndarray]:
    """OpenMoji, and the records that have all three."""
    sets.ensure(_frozen.EMOJI)
    emoji = data.open(_frozen.EMOJI)
    return emoji, np.flatnonzero(np.all([emoji.present(f) for f in FIELDS.values()], axis=0))


def originals(fields: Sequence[str]) -> Dataset:
    """The emoji themselves, in the order of `triplets`, with some of the fields."""
    emoji, rows = home()
    return emoji.select([FIELDS[f] for f in fields]).subset(rows)


SEEN: dict[str, Dataset] = {}


def triplets(dataset: Dataset) -> Dataset:
    """Three vectors of each emoji: of its picture by EfficientNet-lite0, as the set has it, of its
    name and of its tags by MiniLM, which are as long."""
    if dataset.fingerprint not in SEEN:
        emoji, rows = home()
        pictures = {key: i for i, key in enumerate(dataset.reader.keys)}
        keys = [f"{_frozen.EMOJI}-{emoji.reader.keys[i]}" for i in rows]
        columns = {"image": [dataset.value(pictures[key], "image") for key in keys]}
        for field in ("name", "tags"):
            x = sentence_encoder()([emoji.raw(int(i), FIELDS[field]) for i in rows])
            columns[field] = list((np.sqrt(x.shape[1]) * x)[:, None])
        three = data.open(columns, name="emoji as three vectors")
        plain = {f: replace(three.fields[f], mean=(), std=()) for f in FIELDS}
        SEEN[dataset.fingerprint] = three.with_fields(plain)
    return SEEN[dataset.fingerprint]
