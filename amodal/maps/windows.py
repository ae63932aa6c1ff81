"""Pictures with more pixels than the encoder reads at once: windows that slide over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Tokens
from amodal.maps.dense import Patches
from amodal.modalities import Modality
from amodal.nn.patch_vectors import token_grids

OVERLAP = 0.5
"""Share of a window's side that the next one has in common with it, at least."""


def enlarged(modality: Modality, resolution: int) -> Modality:
    """A field of pictures that reads more pixels.

    Args:
        modality: Of the encoder.
        resolution: Side in pixels.

    Raises:
        AmodalError: For fewer pixels than the encoder reads, and for pictures that keep their
            shape.
    """
    # asked by attribute: a modality of a plug-in may have pictures too
    field: Any = modality
    if getattr(field, "fit", "native") == "native":
        raise AmodalError(
            "windows slide over squares, and this run reads each picture in its own shape; leave "
            "--resolution out"
        )
    if resolution <= field.size:
        raise AmodalError(
            f"--resolution {resolution} is not above the {field.size} pixels a side that this run "
            "reads at once; leave it out"
        )
    return cast(Modality, replace(field, size=resolution))


def sliding(patches: Patches, field: str, side: int) -> Patches:
    """Patches of larger pictures: the mean over all windows that show a patch.

    Args:
        patches: Of pictures of the encoder's size.
        field: Of the pictures.
        side: Of a window in pixels, the encoder's.

    Returns:
        A function of a batch of square pictures with at least `side` pixels.
    """

    def of_batch(batch: Batch) -> Tokens:
        column = batch.columns[field]
        images = cast(Tensor, column.values)

        def window(y: int, x: int) -> tuple[Tokens, Tensor]:
            cut = Column(images[..., y : y + side, x : x + side].contiguous(), column.rows)
            tokens = patches(replace(batch, columns={field: cut}))
            return tokens, torch.stack([*token_grids(tokens).values()])

        if not len(images):
            return patches(batch)
        tokens, corner = window(0, 0)
        cells, whole = corner.shape[1], images.shape[-1]
        size = side / cells  # of a patch, in pixels
        if corner.shape[1] != corner.shape[2] or (whole / size) % 1 or size % 1:
            raise AmodalError(
                f"patches of this run have {size:g} pixels a side, and windows lie on their grid: "
                f"--resolution {whole} should be a multiple of it, such as "
                f"{math.ceil(whole / size) * math.ceil(size)}"
            )
        pixels, rows = int(size), round(whole / size)
        total = corner.new_zeros(len(images), rows, rows, corner.shape[3])
        count = corner.new_zeros(rows, rows, 1)
        for y in starts(rows, cells):
            for x in starts(rows, cells):
                grid = window(y * pixels, x * pixels)[1] if y or x else corner
                total[:, y : y + cells, x : x + cells] += grid
                count[y : y + cells, x : x + cells] += 1
        return _tokens(total / count, column.rows, tokens)

    return of_batch


def starts(whole: int, window: int) -> Sequence[int]:
    """Where windows begin, in patches: evenly, from the first to the last place.

    Args:
        whole: Patches of a picture's side.
        window: Patches of a window's side.
    """
    room = whole - window
    steps = math.ceil(room / max(1, int(window * (1 - OVERLAP))))
    return [round(i * room / max(steps, 1)) for i in range(steps + 1)]


def _tokens(grid_NRCD: Tensor, rows_N: Tensor, like: Tokens) -> Tokens:
    """The cells of grids in reading order."""
    n, rows, columns, _ = grid_NRCD.shape
    place = torch.cartesian_prod(*(torch.arange(n).float() for n in (1, rows, columns)))
    return Tokens.of(
        grid_NRCD.flatten(0, 2),
        rows_N,
        torch.full((n,), rows * columns, dtype=torch.int64),
        place.repeat(n, 1).to(grid_NRCD.device),
        like.names[0],
        like.size,
    )
