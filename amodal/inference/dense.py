"""Features of the places of one value of any size, by windows that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, cast

import numpy as np
import torch

from amodal.core import AmodalError, Batch, Column, Tokens
from amodal.core.matmul import fast_products
from amodal.inference.forward_passes import eval_mode
from amodal.modalities import Modality
from amodal.modalities.shared.protocols import OnGround, ResizesPatches, Tiled
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
        name: Of a field whose values are read in windows.
        value: Decoded, with data.
        device: Where the encoder is.
        bar: Of windows.

    Returns:
        (*cells, D) float32, such as (rows, columns, D): means of the tokens of one cell, as of more
        than one date; NaN where there is no data.
    """
    modality: Any = encoder.fields[name]
    cells = modality.token_cells(value)
    mean = GridMean(*cells)
    corners = window_corners(cells, modality)
    with eval_mode(encoder):
        for begin in range(0, len(corners), WINDOWS):
            chunk = corners[begin : begin + WINDOWS]
            if bar is not None:
                bar.step("windows", by=len(chunk))
            found = [modality.window(value, corner) for corner in chunk]
            windows = {i: window for i, window in enumerate(found) if window is not None}
            if not windows:
                continue
            column = Column(modality.collate([*windows.values()]), torch.tensor([*windows]))
            batch = Batch.of(len(chunk), {name: column}).to(device)
            tokens = patch_features(encoder, batch, name)
            place, share = _places(tokens, chunk, windows, modality)
            mean.add(tokens.x.float().cpu().numpy(), place, share)
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
        cells: Of the grid along each axis, such as rows and columns.
    """

    def __init__(self, *cells: int):
        self.weight = np.zeros((*cells, 1), dtype=np.float64)
        self.total: np.ndarray | None = None

    def add(self, x_TD: np.ndarray, place_TA: np.ndarray, share_T: np.ndarray) -> None:
        """Add vectors (T, D) at places (T, A) of the grid, which count by their shares."""
        if self.total is None:
            self.total = np.zeros((*self.weight.shape[:-1], x_TD.shape[1]), dtype=np.float64)
        place = tuple(place_TA.T)
        np.add.at(self.total, place, x_TD * share_T[:, None])
        np.add.at(self.weight[..., 0], place, share_T)

    def grid(self) -> np.ndarray:
        """(*cells, D) float32, NaN where nothing was added."""
        assert self.total is not None, "a decoded value has a pixel"
        known = self.weight > 0
        mean = np.where(known, self.total / np.where(known, self.weight, 1), np.nan)
        return mean.astype(np.float32)


def window_corners(cells: Sequence[int], modality: Tiled) -> list[tuple[int, ...]]:
    """Where the windows of a value begin, in tokens along each axis.

    Args:
        cells: tokens of the value along each axis.
        modality: of its field.
    """
    return [*product(*map(starts, cells, modality.window_cells))]


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
    tokens: Tokens,
    corners: Sequence[tuple[int, ...]],
    windows: Mapping[int, np.ndarray],
    modality: Tiled,
) -> tuple[np.ndarray, np.ndarray]:
    """(T, A) where each token is on the grid of the whole value, and (T,) how much it counts."""
    row, position = tokens.row.cpu().numpy(), tokens.position.cpu().numpy()
    within = np.concatenate([modality.cells(w, position[row == i]) for i, w in windows.items()])
    # highest in the middle of a window, which ends with its value, and nowhere 0
    cells = np.concatenate(
        [np.tile(modality.token_cells(w), ((row == i).sum(), 1)) for i, w in windows.items()]
    )
    middle = (cells - 1) / 2
    share = 1 - (np.abs(within - middle) / (middle + 1)).max(1)
    return np.array(corners)[row] + within, share
