"""Spoil a dataset in known ways, to measure what a defence is worth: backdoors, and pairs that do
not belong together.

A backdoor puts a trigger on a few pictures and a caption of the target class beside them (Gu et
al., BadNets, 2017, arXiv:1708.06733; Chen et al., blended injection, 2017, arXiv:1712.05526; Nguyen
& Tran, WaNet, ICLR 2021, arXiv:2102.10369; on image-text pairs Carlini & Terzis, ICLR 2022,
arXiv:2106.09667). Row 50 of the catalogue, with `amodal/methods/robustness/cleanclip.py`; how well
an attack does is measured by `amodal.evaluate.backdoor`.

The spoilt dataset reads through the given one; nothing is written, and what is spoilt follows from
keys and seed alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from inspect import isfunction

import numpy as np
import torch
import torch.nn.functional as F

from amodal.core import AmodalError, row_seeds
from amodal.data import Dataset
from amodal.data.readers import Reader
from amodal.masking.hashing import uniform

TEMPLATES = ("a photo of a {}", "a picture of a {}", "this is a {}", "one {}", "here is a {}")

Trigger = Callable[[np.ndarray], np.ndarray]
"""A decoded image (C, H, W) -> the same with the trigger on it. For the fingerprint: a dataclass,
known by its fields, or a function of a module, known by its name."""


@dataclass(frozen=True)
class Patch:
    """BadNets: a square of noise in the lower right corner, the same on every picture. side: its
    share of the picture's."""

    side: float = 0.1
    seed: int = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        n = max(1, round(self.side * image.shape[1]))
        noise = np.random.default_rng(self.seed).random((image.shape[0], n, n))
        out = image.copy()
        out[:, -n:, -n:] = np.rint(noise * 255) if image.dtype == np.uint8 else noise
        return out


@dataclass(frozen=True)
class Blend:
    """Blended injection: noise over the whole picture, at `weight`."""

    weight: float = 0.2
    seed: int = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(self.seed).random(image.shape) * (
            255 if image.dtype == np.uint8 else 1
        )
        out = (1 - self.weight) * image + self.weight * noise
        return np.rint(out).astype(np.uint8) if image.dtype == np.uint8 else out.astype(image.dtype)


@dataclass(frozen=True)
class Warp:
    """WaNet: the same smooth random bend of every picture. knots: of the grid of random shifts,
    along each side; strength: their mean absolute value, in half pixels (the paper's s)."""

    strength: float = 0.5
    knots: int = 4
    seed: int = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[1:]
        shift = torch.from_numpy(
            np.random.default_rng(self.seed).uniform(-1, 1, (1, 2, self.knots, self.knots))
        )
        smooth = F.interpolate(
            shift / shift.abs().mean(), (height, width), mode="bicubic", align_corners=True
        )
        y, x = torch.meshgrid(
            *(torch.linspace(-1, 1, n, dtype=torch.float64) for n in (height, width)), indexing="ij"
        )
        grid = torch.stack([x, y], -1) + smooth[0].permute(1, 2, 0) * self.strength / torch.tensor(
            [width, height]
        )
        seen = torch.from_numpy(np.ascontiguousarray(image)).double()[None]
        bent = F.grid_sample(seen, grid.clamp(-1, 1)[None], align_corners=True)[0].numpy()
        return (
            np.rint(bent).astype(np.uint8) if image.dtype == np.uint8 else bent.astype(image.dtype)
        )


class Spoilt(Reader):
    """Another dataset's cells, some of them changed. pictures: field -> the records that get the
    trigger; cells: column -> record -> the cell in place of its own."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        pictures: Mapping[str, Sequence[int]] | None = None,
        trigger: Trigger | None = None,
        cells: Mapping[str, Mapping[int, object]] | None = None,
    ):
        self.dataset, self.trigger, self.reader = dataset, trigger, dataset.reader
        self.told = "None" if trigger is None else _told(trigger)
        self.keys, self.columns = self.reader.keys, self.reader.columns
        self.base, self.ignored = self.reader.base, self.reader.ignored
        self.pictures = {
            dataset.columns[f]: (f, frozenset(map(int, rows)))
            for f, rows in (pictures or {}).items()
        }
        self.replaced = {
            c: {int(i): cell for i, cell in each.items()} for c, each in (cells or {}).items()
        }

    def get(self, i: int, column: str):
        if i in self.replaced.get(column, ()):
            return self.replaced[column][i]
        field, rows = self.pictures.get(column, ("", ()))
        if i not in rows:
            return self.reader.get(i, column)
        image = self.dataset.value(i, field)
        return (
            None if image is None else np.ascontiguousarray(self.trigger(image).transpose(1, 2, 0))
        )

    def present(self, column: str) -> np.ndarray:
        there = self.reader.present(column).copy()
        for i, cell in self.replaced.get(column, {}).items():
            there[i] = cell is not None
        return there

    def check(self, column: str) -> str:
        return self.reader.check(column)

    def stamp(self) -> str:
        changed = {c: (f, sorted(rows)) for c, (f, rows) in self.pictures.items()}
        told = f"{self.reader.stamp()} {self.told} {changed} {self.replaced}"
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def _told(trigger: Trigger) -> str:
    """The trigger in words that are the same in every process, which those with an address in
    memory are not."""
    if is_dataclass(trigger) and not isinstance(trigger, type):
        return repr(trigger)
    if (
        isfunction(trigger) and "<" not in trigger.__qualname__
    ):  # neither a lambda nor made by another function
        return f"{trigger.__module__}.{trigger.__qualname__}"
    raise AmodalError(
        "a trigger is a dataclass with __call__, such as Patch(), or a function of a module, so that the fingerprint can tell what it "
        f"does; got {trigger!r}"
    )


def chosen(dataset: Dataset, rows: Sequence[int], share: float, *, seed: int = 0) -> np.ndarray:
    """(n,) int64: about `share` of `rows`, a pure function of each one's key and the seed."""
    rows = np.asarray(rows, dtype=np.int64)
    return rows[uniform(row_seeds([dataset.keys[i] for i in rows], salt=seed)).numpy() < share]


def backdoor(
    dataset: Dataset,
    rows: Sequence[int],
    *,
    image: str,
    text: str,
    target: str,
    trigger: Trigger,
    templates: Sequence[str] = TEMPLATES,
) -> Dataset:
    """The dataset with the trigger on the pictures `rows` and captions of the class `target` in
    place of theirs.

    image, text: the fields; templates: captions with {} for the class, one after another.
    """
    captions = {int(i): templates[n % len(templates)].format(target) for n, i in enumerate(rows)}
    return spoil(
        dataset, pictures={image: rows}, trigger=trigger, cells={_column(dataset, text): captions}
    )


def triggered(
    dataset: Dataset, rows: Sequence[int] | None = None, *, image: str, trigger: Trigger
) -> Dataset:
    """The dataset with the trigger on the pictures `rows` (all unless given) and all else as it is:
    what an attacker shows the model. With pictures of the target class as `rows`, the
    label-consistent backdoor, whose captions are right."""
    return spoil(
        dataset, pictures={image: range(len(dataset)) if rows is None else rows}, trigger=trigger
    )


def mismatched(dataset: Dataset, rows: Sequence[int], *, field: str, seed: int = 0) -> Dataset:
    """The dataset with the values of `field` of the records `rows` (two or more) passed on among
    them, each to another record."""
    order = np.random.default_rng(seed).permutation(np.asarray(rows, dtype=np.int64))
    if len(order) < 2:
        raise AmodalError(f"to mismatch records takes two or more, not {len(order)}")
    column = _column(dataset, field)
    # one ring through all of them: nobody keeps its own
    return spoil(
        dataset,
        cells={
            column: {
                int(i): dataset.reader.get(int(j), column) for i, j in zip(order, np.roll(order, 1))
            }
        },
    )


def _column(dataset: Dataset, field: str) -> str:
    column = dataset.columns[dataset._field(field)]
    if isinstance(column, tuple):
        raise AmodalError(f"{field!r} is made of several columns; choose a field of one")
    return column


def spoil(
    dataset: Dataset,
    *,
    pictures: Mapping[str, Sequence[int]] | None = None,
    trigger: Trigger | None = None,
    cells: Mapping[str, Mapping[int, object]] | None = None,
) -> Dataset:
    """The dataset with other cells: see `Spoilt`."""
    read = Spoilt(dataset, pictures=pictures, trigger=trigger, cells=cells)
    spoilt = Dataset(read, dataset.schema, dataset.path, dataset.name)
    spoilt.parts = dataset.parts
    return spoilt
