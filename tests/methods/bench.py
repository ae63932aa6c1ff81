"""Small batches of every kind of data, for tests of methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from amodal import methods, modalities
from amodal.core import Batch, Column, Ragged
from amodal.nn.encoder import Encoder

SMALL = {  # options that keep a method small; everything else is as its page says
    "barlow_twins": {"width": 32},
    "decur": {"width": 32},
    "dino": {"prototypes": 24, "local_views": 2},
}
SENSES = ("picture", "words", "signal", "facts")


@cache
def fields() -> dict:
    rng = np.random.default_rng(0)
    return {
        "picture": modalities.make("image", size=16, channels=3, patch=8),
        "words": modalities.make("text", max_length=24, patch=4),
        "signal": modalities.kind("series").infer([rng.normal(size=(20, 2)) for _ in range(8)]),
        "facts": modalities.kind("table").infer(
            [{"age": float(i), "colour": "red" if i % 2 else "blue"} for i in range(8)]
        ),
    }


def raw(sense: str, rng: np.random.Generator):
    return {
        "picture": lambda: rng.integers(0, 255, (16, 16, 3), dtype=np.uint8),
        "words": lambda: " ".join(rng.choice(["red", "boat", "on", "the", "sea"], rng.integers(1, 5))),
        "signal": lambda: rng.normal(size=(rng.integers(6, 20), 2)).astype(np.float32),
        "facts": lambda: {"age": float(rng.normal()), "colour": str(rng.choice(["red", "blue"]))},
    }[sense]()


def batch(views: Sequence[str], size: int = 8, absent: Sequence[str] = (), seed: int = 0, patchy: bool = True) -> Batch:
    """`size` rows; `patchy`: each sense is missing from some rows; `absent`: senses that no row has."""
    rng = np.random.default_rng(seed)
    columns = {}
    for k, (name, modality) in enumerate(fields().items()):
        rows = [i for i in range(size) if not (patchy and (i + k) % 4 == 0)] if name not in absent else []
        values = [modality.decode(raw(name, rng)) for _ in rows]
        for v, view in enumerate(views):
            source = name if len(views) == 1 else f"{name}:{v + 1}"
            seen = [
                modality.augment(value, view, np.random.default_rng([seed, i, v])) for i, value in zip(rows, values)
            ]
            columns[source] = Column(modality.collate(seen), torch.tensor(rows, dtype=torch.int64))
    return Batch.of(size, columns, [f"record {seed}-{i}" for i in range(size)])


def exact(module_or_batch):
    """In double precision, where equal means equal and not nearly so."""
    if isinstance(module_or_batch, torch.nn.Module):
        return module_or_batch.double()
    whole = module_or_batch
    return dataclasses.replace(whole, columns={s: Column(_double(c.values), c.rows) for s, c in whole.columns.items()})


def _double(values):
    if isinstance(values, Ragged):
        return Ragged(_double(values.flat), values.lengths)
    return values.double() if values.is_floating_point() else values


def method(name: str, seed: int = 0, **options):
    torch.manual_seed(seed)
    encoder = Encoder(fields(), size="nano", **methods.encoder_options(name))
    return methods.build(name, encoder, **(SMALL.get(name, {}) | options))
