"""Features of the places of one value of any size, by windows that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

from amodal.core import AmodalError, Batch, Column, Tokens
from amodal.core.matmul import fast_products
from amodal.inference.forward_passes import eval_mode
from amodal.modalities import Modality
from amodal.modalities.shared.protocols import OnGround, ResizesPatches
from amodal.nn.encoder import Encoder
from amodal.nn.patch_vectors import patch_features
from amodal.progress import Bar

WINDOWS = 16
"""Windows of one forward pass."""
OVERLAP = 0.5
"""Of neighbouring windows, as a share of their side."""


@fast_products()
@torch.no_grad()
def dense_features(
    encoder: Encoder,
    name: str,
    value: np.ndarray,
    device: torch.device | str = "cpu",
    bar: Bar | None = None,
) -> np.ndarray:
    """Features of the tokens of one value of any size.

    Args:
        encoder: What embeds.
        name: Of a field on the ground.
        value: (T, planes, H, W), decoded, with a finite pixel.
        device: Where the encoder is.
        bar: Of windows.

    Returns:
        (rows, columns, D) float32, means over dates; NaN where there is no data.
    """
    modality: Any = encoder.fields[name]
    tile, side = modality.tile, _whole(modality.size, modality.tile)
    rows, columns = (-(-length // tile) for length in value.shape[2:])
    mean = GridMean(rows, columns)
    corners = window_corners(value.shape[2:], modality)
    with eval_mode(encoder):
        for begin in range(0, len(corners), WINDOWS):
            chunk = corners[begin : begin + WINDOWS]
            if bar is not None:
                bar.step("windows", by=len(chunk))
            windows = [
                value[:, :, y * tile : y * tile + side, x * tile : x * tile + side]
                for y, x in chunk
            ]
            filled = [i for i, w in enumerate(windows) if np.isfinite(w[:, 1:]).any()]
            if not filled:
                continue
            column = Column(modality.collate([windows[i] for i in filled]), torch.tensor(filled))
            batch = Batch.of(len(chunk), {name: column}).to(device)
            tokens = patch_features(encoder, batch, name)
            mean.add(tokens.x.float().cpu().numpy(), *_places(tokens, chunk, side // tile))
    return mean.grid()


@contextmanager
def patch_side(fields: dict[str, Modality], name: str, side: int | None) -> Iterator[None]:
    """Read a field of an encoder in patches of another side inside the `with`.

    Args:
        fields: Of the encoder.
        name: Of the field.
        side: Pixels; None leaves it as it is.

    Raises:
        AmodalError: For a side that it has not learnt.
    """
    modality = fields[name]
    if side is None or side == getattr(modality, "tile", None):
        yield
        return
    if not isinstance(modality, ResizesPatches) or side not in modality.patches:
        learnt = sorted({*getattr(modality, "patches", ()), cast(OnGround, modality).tile})
        raise AmodalError(
            f"{name} has learnt patches of {', '.join(map(str, learnt))} pixels, not of {side}. "
            f"Train it with others: patches = [{side}, …] in dataset.toml, and galileo"
        )
    fields[name] = modality.with_patch(side)
    try:
        yield
    finally:
        fields[name] = modality


class GridMean:
    """Weighted means of vectors by their places on a grid.

    Args:
        rows, columns: Of the grid.
    """

    def __init__(self, rows: int, columns: int):
        self.weight = np.zeros((rows, columns, 1), dtype=np.float64)
        self.total: np.ndarray | None = None

    def add(self, x_TD: np.ndarray, y_T: np.ndarray, x_T: np.ndarray, share_T: np.ndarray) -> None:
        """Add vectors (T, D) at rows y and columns x, which count by their shares."""
        if self.total is None:
            self.total = np.zeros((*self.weight.shape[:2], x_TD.shape[1]), dtype=np.float64)
        np.add.at(self.total, (y_T, x_T), x_TD * share_T[:, None])
        np.add.at(self.weight[..., 0], (y_T, x_T), share_T)

    def grid(self) -> np.ndarray:
        """(rows, columns, D) float32, NaN where nothing was added."""
        assert self.total is not None, "a decoded value has a pixel"
        known = self.weight > 0
        mean = np.where(known, self.total / np.where(known, self.weight, 1), np.nan)
        return mean.astype(np.float32)


def _whole(side: int, tile: int) -> int:
    """The side of a window: whole tokens, at least one."""
    return max(side // tile, 1) * tile


def window_corners(shape: Sequence[int], modality: Any) -> list[tuple[int, int]]:
    """Rows and columns, in tokens, where the windows of a value begin.

    Args:
        shape: height and width of the value in pixels.
        modality: of a field on the ground.
    """
    window = _whole(modality.size, modality.tile) // modality.tile
    rows, columns = (starts(-(-length // modality.tile), window) for length in shape)
    return [(top, left) for top in rows for left in columns]


def starts(length: int, window: int) -> list[int]:
    """Where windows begin that cover a length with an overlap of at least `OVERLAP`.

    Args:
        length: tokens to cover.
        window: tokens of a window.
    """
    if length <= window:
        return [0]
    count = 1 + -(-(length - window) // max(int(window * (1 - OVERLAP)), 1))
    return [round(start) for start in np.linspace(0, length - window, count).tolist()]


def _places(
    tokens: Tokens, corners: Sequence[tuple[int, int]], side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of each token in the whole value, and how much it counts."""
    row = tokens.row.cpu().numpy()
    within = tokens.position[:, 1:].cpu().numpy().round().astype(int)
    corner = np.array(corners)[row]
    # highest in the middle of a window, and nowhere 0
    middle = (side - 1) / 2
    share = 1 - np.abs(within - middle).max(1) / (middle + 1)
    place = corner + within
    return place[:, 0], place[:, 1], share
