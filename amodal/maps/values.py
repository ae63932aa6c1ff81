"""Values of all patches of all records, which are computed once and stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError
from amodal.maps.dense import Patches, item_grids
from amodal.maps.folder import Folder
from amodal.maps.items import Items
from amodal.maps.modes import MAX_FITTED, MAX_PATCHES, Mode
from amodal.nn.encoder import Encoder
from amodal.progress import Bar
from amodal.stats.otsu import otsu

THRESHOLD_BINS = 1024
LOW, HIGH = 0.02, 0.98
"""Quantiles of a layer that become the darkest and the brightest colour."""


@dataclass(frozen=True)
class Source:
    """What computes values.

    Args:
        encoder: Of the run.
        patches: What is computed of a batch.
        device: Where the encoder is.
        name: Of the folder of the values.
    """

    encoder: Encoder
    patches: Patches
    device: torch.device
    name: str = "values"


def sample(source: Source, items: Items, seed: int, *, progress: bool) -> Tensor:
    """Patches (T, D) of all views of some of the items.

    Args:
        source: What computes them.
        items: What is mapped.
        seed: Of the choice.
        progress: Show a bar.

    Raises:
        AmodalError: If no picture of these can be read.
    """
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(items))[:MAX_FITTED])
    most = max(1, MAX_PATCHES // (len(some) * len(items.views)))
    generator, parts = torch.Generator().manual_seed(seed), list[Tensor]()
    with Bar("fit", len(some), shown=progress) as bar:
        for batch, made in item_grids(source.encoder, items, source.patches, source.device, some):
            for views in made.values():
                for grid in views:
                    x_TD = grid.flatten(0, 1)
                    parts.append(x_TD[torch.randperm(len(x_TD), generator=generator)[:most]])
            bar.step("records", by=len(batch))
    if not parts:
        raise AmodalError("none of the pictures can be read")
    return torch.cat(parts)


def compute(
    source: Source, items: Items, mode: Mode, folder: Folder, *, progress: bool
) -> list[int]:
    """Write the values of the items that have none yet.

    Args:
        source: What computes patches.
        items: What is mapped.
        mode: Makes values of them.
        folder: Where they are stored, as `NAME/KEY.npy`.
        progress: Show a bar.

    Returns:
        The items that have values.

    Raises:
        AmodalError: For a value that is not finite.
    """
    names = items.names
    todo = np.array(
        [n for n, name in enumerate(names) if not folder.has(f"{source.name}/{name}.npy")],
        dtype=np.int64,
    )
    if not len(todo):
        return list(range(len(items)))
    done = len(items) - len(todo)
    with Bar(source.name, len(items), start=done, shown=progress) as bar:
        for batch, made in item_grids(source.encoder, items, source.patches, source.device, todo):
            for n, views in made.items():
                values = mode.values(views)
                if not np.isfinite(values).all():
                    raise AmodalError(
                        f"values of {items.keys[n]} are not finite: the run has diverged"
                    )
                folder.write_array(f"{source.name}/{names[n]}.npy", values)
            bar.step("records", by=len(batch))
    return [n for n, name in enumerate(names) if folder.has(f"{source.name}/{name}.npy")]


@dataclass(frozen=True)
class Range:
    """How far values go, over all items.

    Args:
        low: (C,) below which a layer is dark.
        high: (C,) above which it is bright.
        top: The largest value of the first layer.
        threshold: Of a single layer; of more the user's, or None.
        between: Share of the variance between the groups of the threshold.
    """

    low: np.ndarray
    high: np.ndarray
    top: float
    threshold: float | None = None
    between: float | None = None


def range_of(
    folder: Folder, name: str, items: Items, readable: list[int], mode: Mode, wanted: float | None
) -> Range:
    """The range of stored values, and the threshold of a single layer.

    Args:
        folder: Where they are.
        name: Of their folder.
        items: What is mapped.
        readable: Items that have values.
        mode: Made them.
        wanted: The user's threshold, None for Otsu's.

    Raises:
        AmodalError: For values that are all the same.
    """
    names = items.names
    sampled = readable[:: max(1, len(readable) // MAX_FITTED)]
    values = [folder.array(f"{name}/{names[n]}.npy") for n in sampled]
    flat = np.concatenate([v.reshape(len(v), -1) for v in values], 1)
    low, high = np.quantile(flat, (LOW, HIGH), axis=1)
    top = float(flat[0].max())
    if len(mode.layers) > 1:
        return Range(low, high, top, wanted)
    count, edge = np.histogram(flat[0], THRESHOLD_BINS)
    if wanted is not None:
        return Range(low, high, top, wanted)
    if top - float(flat[0].min()) < 1e-9:
        raise AmodalError(
            f"{mode.layers[0]!r} has one value at all places, so that there is no threshold; set "
            "one by --threshold"
        )
    return Range(low, high, top, *otsu(count, edge))
