"""Patches of one field: as the trunk leaves them, and in the space where fields are compared."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Tokens
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projection_tower import ProjectionTower
from amodal.nn.multi_vector import per_source
from amodal.nn.pooling import Pool


def patch_features(encoder: Encoder, batch: Batch, field: str) -> Tokens:
    """The tokens of a field after the trunk, without those that pooling added; x (T, D)."""
    tokens = per_source(encoder, batch.only(field))[field]
    return _pool(encoder, field).strip(tokens)


def patch_vectors(encoder: Encoder, batch: Batch, field: str) -> Tokens:
    """Unit vectors of the patches of a field in the space of the heads; x (T, D).

    A patch has the vector that a value of this patch alone would be pooled into. With a mean it is
    the token through the head; with attention it is the value that attention would add up, without
    the query (MaskCLIP, Zhou, Loy and Dai 2022, arXiv:2112.01071); with a class token it is the
    token in the place of that one.

    Args:
        encoder: Has a head for the field.
        batch: The values.
        field: Of layout "grid".

    Raises:
        AmodalError: For a projection tower, whose patches are its method's to read.
    """
    pool = _pool(encoder, field)
    if isinstance(pool, ProjectionTower):
        raise AmodalError(
            f"patches of {field} are read by the method that put a projection tower behind it, and "
            "this run was opened without its method"
        )
    tokens = patch_features(encoder, batch, field)
    heads = encoder.heads
    assert heads is not None
    z_TD: Tensor = heads[field](pool.single(tokens))
    return tokens.with_x(normalize(z_TD.float(), dim=1))


def token_grids(tokens: Tokens) -> dict[int, Tensor]:
    """The tokens of each row as a grid.

    Args:
        tokens: Of one source, in reading order.

    Returns:
        row -> (rows, columns, D); rows whose tokens form no grid are left out.
    """
    grids = {}
    ends = torch.bincount(tokens.row, minlength=tokens.size).cumsum(0).tolist()
    for row, (start, end) in enumerate(zip([0, *ends[:-1]], ends)):
        shape = _shape(tokens.position[start:end])
        if shape is not None:
            grids[row] = tokens.x[start:end].view(*shape, -1)
    return grids


def token_boxes(tokens: Tokens) -> dict[int, list[tuple[float, float, float, float]]]:
    """Which part of a value each token stands for.

    Args:
        tokens: As of `token_grids`.

    Returns:
        row -> for each of its tokens left, top, right and bottom, as shares of the value; rows
        whose tokens form no grid are left out.
    """
    boxes = {}
    for row, grid in token_grids(tokens).items():
        rows, columns = grid.shape[:2]
        boxes[row] = [
            (x / columns, y / rows, (x + 1) / columns, (y + 1) / rows)
            for y in range(rows)
            for x in range(columns)
        ]
    return boxes


def _shape(position_TP: Tensor) -> tuple[int, int] | None:
    """Rows and columns; a module of the user's own does not say where its tokens lie, which are
    then those of a square."""
    count = len(position_TP)
    rows, columns = (len(position_TP[:, axis].unique()) for axis in (1, 2))
    if count and rows * columns == count:
        return rows, columns
    side = round(count**0.5)
    return (side, side) if count and rows == columns == 1 and side**2 == count else None


def _pool(encoder: Encoder, field: str) -> Pool:
    return cast(Pool, encoder.pools[field])
