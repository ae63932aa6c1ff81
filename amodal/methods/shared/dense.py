"""Dense prediction: maps of fields, and the labels of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Tokens, unknown
from amodal.methods.shared.regions import alone
from amodal.methods.shared.typed_parts import field_pool, grid_modality
from amodal.modalities.shared.protocols import is_pixel_map
from amodal.nn.encoder import Encoder
from amodal.nn.heads.segmenter import DEEP, EARLY
from amodal.objectives.deep_supervision import IGNORE_INDEX


@torch.no_grad()
def grid_side(encoder: Encoder, field: str) -> int:
    """Side of the square that the tokens of a picture form; 1 where they form none.

    Args:
        encoder: Its tokenizer or backbone makes the tokens.
        field: Of any kind.
    """
    if not is_pixel_map(encoder.fields[field]):
        return 1
    image = grid_modality(encoder, field)
    weight = next(encoder.tokenizers[field].parameters())
    picture = weight.new_zeros(1, image.channels, image.size, image.size)
    tokens = len(
        encoder.tokenizers[field](
            Column(picture, torch.zeros(1, dtype=torch.int64, device=weight.device)), field, 1
        )
    )
    side = math.isqrt(tokens)
    return side if side * side == tokens else 1


def as_map(tokens: Tokens, side: int) -> Column:
    """The tokens of pictures as maps.

    Args:
        tokens: side * side of each row, from left to right and top to bottom.
        side: Of the map; with 1 it is the mean of the tokens, however many there are.

    Returns:
        (N, D, side, side).
    """
    if side == 1:
        mean = tokens.pool()
        return Column(mean.flat[:, :, None, None], mean.rows)
    rows, width = tokens.rows(), tokens.x.shape[1]
    x_NDHW = tokens.x.view(len(rows), side, side, width).permute(0, 3, 1, 2)
    return Column(x_NDHW.contiguous(), rows)


def maps_of(encoder: Encoder, batch: Batch, sides: dict[str, int]) -> dict[str, Column]:
    """The tokens of each field before and after the trunk, as maps.

    Args:
        encoder: Reads each field alone.
        batch: B rows.
        sides: field -> `grid_side`.

    Returns:
        `early/FIELD` and `deep/FIELD` -> (N, D, side, side).
    """
    tokens = encoder.tokenize(batch.only(*sides))
    context, columns = alone(encoder, batch, tokens), {}
    for field, side in sides.items():
        columns[f"{DEEP}/{field}"] = as_map(field_pool(encoder, field).strip(context[field]), side)
        columns[f"{EARLY}/{field}"] = as_map(tokens[field], side)
    return columns


def is_dense(encoder: Encoder, label: str) -> bool:
    """Whether the label is a field of class maps, which is then taken out of the encoder.

    Args:
        encoder: Loses the field of the label.
        label: A field, or a label of records.

    Raises:
        AmodalError: For a field that can hold no class map, or that is all there is.
    """
    if label not in encoder.fields:
        return False
    is_grid = is_pixel_map(encoder.fields[label])
    if not is_grid or grid_modality(encoder, label).channels != 1 or len(encoder.fields) < 2:
        raise AmodalError(
            f"{label!r} should hold classes: a square image of one channel, beside at least one "
            "other field"
        )
    encoder.drop(label)
    return True


def dense_labels(batch: Batch, label: str, classes: int) -> Column:
    """The labels of records, or of pixels.

    Args:
        batch: Holds the label, or pictures of 8-bit class numbers as 0 … 1.
        label: Its name.
        classes: Numbers from here on become `IGNORE_INDEX`.

    Returns:
        (N,) of records, or (N, H, W) of pixels.

    Raises:
        AmodalError: For a label that the batch does not bring.
    """
    if label in batch.labels:
        return batch.labels[label]
    if label not in batch.columns:
        raise unknown("label of this batch", label, [*batch.labels, *batch.columns])
    number = class_map(batch[label].flat)
    return Column(torch.where(number < classes, number, IGNORE_INDEX), batch[label].rows)


def class_map(values_N1HW: Tensor) -> Tensor:
    """Class numbers (N, H, W) int64 of pictures of 8 bits, which batches hold as 0 … 1."""
    return (values_N1HW[:, 0] * 255).round().long()
