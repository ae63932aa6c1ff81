"""Poison a dataset in known ways, to measure a defence: backdoors and mismatched pairs.

A backdoor puts a trigger on a few images and a caption of the target class beside them (Gu et al.,
BadNets, 2017, arXiv:1708.06733; Chen et al., blended injection, 2017, arXiv:1712.05526; Nguyen &
Tran, WaNet, ICLR 2021, arXiv:2102.10369; on image-text pairs Carlini & Terzis, ICLR 2022,
arXiv:2106.09667). Row 50 of the catalogue, with `amodal/methods/robustness/cleanclip.py`. The
success of an attack is measured by `amodal.evaluate.backdoor`.

The poisoned dataset reads through the original one. Nothing is written, and what is poisoned is a
function of keys and seed alone.
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
"""A decoded image (C, H, W) -> the image with the trigger. For the fingerprint it is a dataclass,
identified by its fields, or a function of a module, identified by its name."""


@dataclass(frozen=True)
class Patch:
    """BadNets: a square of noise in the lower right corner, the same on every image.

    Attributes:
        side: share of the image's side.
        seed: of the noise.
    """

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
    """Blended injection: noise over the whole image.

    Attributes:
        weight: of the noise.
        seed: of the noise.
    """

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
    """WaNet: the same smooth random warp of every image.

    Attributes:
        strength: mean absolute displacement in half pixels (the paper's s).
        knots: of the grid of random displacements, along each side.
        seed: of the displacements.
    """

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
        image_1CHW = torch.from_numpy(np.ascontiguousarray(image)).double()[None]
        warped = F.grid_sample(image_1CHW, grid.clamp(-1, 1)[None], align_corners=True)[0].numpy()
        return (
            np.rint(warped).astype(np.uint8)
            if image.dtype == np.uint8
            else warped.astype(image.dtype)
        )


class PoisonedReader(Reader):
    """The cells of another dataset, some of them replaced.

    Args:
        dataset: the original.
        pictures: field -> records that get the trigger.
        trigger: on these images.
        cells: column -> record -> replacement.
    """

    reader: Reader

    def __init__(
        self,
        dataset: Dataset,
        *,
        pictures: Mapping[str, Sequence[int]] | None = None,
        trigger: Trigger | None = None,
        cells: Mapping[str, Mapping[int, object]] | None = None,
    ):
        self.dataset, self.trigger, self.reader = dataset, trigger, dataset.reader
        self.trigger_id = "None" if trigger is None else _trigger_id(trigger)
        self.keys, self.columns = self.reader.keys, self.reader.columns
        self.base, self.ignored = self.reader.base, self.reader.ignored
        self.pictures = {
            dataset.columns[f]: (f, frozenset(map(int, rows)))
            for f, rows in (pictures or {}).items()
        }
        self.replaced = {
            c: {int(i): cell for i, cell in column.items()} for c, column in (cells or {}).items()
        }

    def get(self, i: int, column: str) -> object:
        if i in self.replaced.get(column, ()):
            return self.replaced[column][i]
        field, rows = self.pictures.get(column, ("", ()))
        if i not in rows or self.trigger is None:
            return self.reader.get(i, column)
        image = self.dataset.value(i, field)
        if image is None:
            return None
        return np.ascontiguousarray(self.trigger(image).transpose(1, 2, 0))

    def present(self, column: str) -> np.ndarray:
        mask = self.reader.present(column).copy()
        for i, cell in self.replaced.get(column, {}).items():
            mask[i] = cell is not None
        return mask

    def check(self, column: str) -> str:
        return self.reader.check(column)

    def stamp(self) -> str:
        changed = {c: (f, sorted(rows)) for c, (f, rows) in self.pictures.items()}
        content = f"{self.reader.stamp()} {self.trigger_id} {changed} {self.replaced}"
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _trigger_id(trigger: Trigger) -> str:
    """The trigger in words that are the same in every process, unlike an address in memory."""
    if is_dataclass(trigger) and not isinstance(trigger, type):
        return repr(trigger)
    if (
        isfunction(trigger) and "<" not in trigger.__qualname__
    ):  # neither a lambda nor made by another function
        return f"{trigger.__module__}.{trigger.__qualname__}"
    raise AmodalError(
        "a trigger is a dataclass with __call__, such as Patch(), or a function of a module, so "
        f"that the fingerprint can identify it; got {trigger!r}"
    )


def sample_rows(
    dataset: Dataset, rows: Sequence[int], share: float, *, seed: int = 0
) -> np.ndarray:
    """Sample rows, a pure function of each row's key and the seed.

    Args:
        dataset: whose keys are used.
        rows: candidates.
        share: expected share of the candidates.
        seed: of the sample.

    Returns:
        (n,) int64
    """
    candidates = np.asarray(rows, dtype=np.int64)
    seeds = row_seeds([dataset.keys[i] for i in candidates], salt=seed)
    sample: np.ndarray = candidates[uniform(seeds).numpy() < share]
    return sample


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
    """The dataset with a trigger on some images and captions of a target class in place of theirs.

    Args:
        dataset: the original.
        rows: records to poison.
        image, text: the fields.
        target: name of the class.
        trigger: on the images.
        templates: captions with {} for the class, used in turn.

    Raises:
        AmodalError: unknown fields, or a text made of more than one column.
    """
    captions = {int(i): templates[n % len(templates)].format(target) for n, i in enumerate(rows)}
    return replace_cells(
        dataset, pictures={image: rows}, trigger=trigger, cells={_column(dataset, text): captions}
    )


def triggered(
    dataset: Dataset, rows: Sequence[int] | None = None, *, image: str, trigger: Trigger
) -> Dataset:
    """The dataset with the trigger on images and everything else as it is: the attacker's input.

    With images of the target class as `rows` it is the label-consistent backdoor, whose captions
    are right.

    Args:
        dataset: the original.
        rows: records; None for all.
        image: the field.
        trigger: on the images.
    """
    return replace_cells(
        dataset, pictures={image: range(len(dataset)) if rows is None else rows}, trigger=trigger
    )


def mismatched(dataset: Dataset, rows: Sequence[int], *, field: str, seed: int = 0) -> Dataset:
    """The dataset with the values of a field permuted among some records, none at its own place.

    Args:
        dataset: the original.
        rows: two or more records.
        field: whose values move.
        seed: of the permutation.

    Raises:
        AmodalError: fewer than two records.
    """
    order = np.random.default_rng(seed).permutation(np.asarray(rows, dtype=np.int64))
    if len(order) < 2:
        raise AmodalError(f"to mismatch records takes two or more, not {len(order)}")
    column = _column(dataset, field)
    # one ring through all of them: nobody keeps its own
    return replace_cells(
        dataset,
        cells={
            column: {
                int(i): dataset.reader.get(int(j), column) for i, j in zip(order, np.roll(order, 1))
            }
        },
    )


def _column(dataset: Dataset, field: str) -> str:
    column = dataset.columns[dataset.find_field(field)]
    if isinstance(column, tuple):
        raise AmodalError(f"{field!r} is made of more than one column; choose a field of one")
    return column


def replace_cells(
    dataset: Dataset,
    *,
    pictures: Mapping[str, Sequence[int]] | None = None,
    trigger: Trigger | None = None,
    cells: Mapping[str, Mapping[int, object]] | None = None,
) -> Dataset:
    """The dataset with other cells: see `PoisonedReader`."""
    reader = PoisonedReader(dataset, pictures=pictures, trigger=trigger, cells=cells)
    return Dataset(reader, dataset.schema, dataset.path, dataset.name, parts=dataset.parts)
