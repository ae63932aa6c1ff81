"""What pages that tell something of each place of a picture share: maps of fields, and what is
known of each pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Tokens, unknown
from amodal.methods.shared.regions import alone
from amodal.nn.encoder import Encoder
from amodal.nn.heads.segmenter import DEEP, EARLY
from amodal.objectives.deep_supervision import IGNORE_INDEX


@torch.no_grad()
def grid_side(encoder: Encoder, field: str) -> int:
    """Side of the square that the tokens of a picture form, as its tokeniser or backbone makes
    them; 1 for what is no picture, or where they form none."""
    image = encoder.fields[field]
    if image.layout != "grid":
        return 1
    weight = next(encoder.tokenizers[field].parameters())
    picture = weight.new_zeros(1, image.channels, image.size, image.size)
    tokens = len(
        encoder.tokenizers[field](
            Column(picture, torch.zeros(1, dtype=torch.int64, device=weight.device)), field, 1
        )
    )
    side = math.isqrt(tokens)
    return side if side * side == tokens else 1


def as_map(bag: Tokens, side: int) -> Column:
    """(N, D, side, side) of tokens row by row, in each row from left to right and top to bottom;
    their mean where side is 1."""
    if side == 1:
        mean = bag.pool()
        return Column(mean.values[:, :, None, None], mean.rows)
    rows = bag.rows()
    return Column(
        bag.x.view(len(rows), side, side, bag.x.shape[1]).permute(0, 3, 1, 2).contiguous(), rows
    )


def maps_of(encoder: Encoder, batch: Batch, sides: dict[str, int]) -> dict[str, Column]:
    """`early/` and `deep/` of each field: its tokens before and after the trunk, seen alone, as
    maps. sides: field -> `grid_side`."""
    bags = encoder.tokenize(batch.only(*sides))
    context, columns = alone(encoder, batch, bags), {}
    for field, side in sides.items():
        columns[f"{DEEP}/{field}"] = as_map(encoder.pools[field].strip(context[field]), side)
        columns[f"{EARLY}/{field}"] = as_map(bags[field], side)
    return columns


def is_dense(encoder: Encoder, label: str) -> bool:
    """Whether what is to be told are maps of classes, a field; which is then taken out of the
    encoder, being no field. Raises AmodalError for a field that can hold no such map, or that is
    all there is."""
    if label not in encoder.fields:
        return False
    field = encoder.fields[label]
    if field.layout != "grid" or field.channels != 1 or len(encoder.fields) < 2:
        raise AmodalError(
            f"{label!r} is to hold classes: an image of one channel, beside at least one other field"
        )
    encoder.drop(label)
    return True


def truth(batch: Batch, label: str, classes: int) -> Column:
    """What is known: (N,) labels of records, or (N, H, W) class numbers of pictures of 8 bits,
    which batches hold as 0 … 1; numbers from `classes` on are `UNKNOWN`. Raises AmodalError for a
    label that the batch does not bring."""
    if label in batch.labels:
        return batch.labels[label]
    if label not in batch.columns:
        raise unknown("label of this batch", label, [*batch.labels, *batch.columns])
    number = class_map(batch[label].values)
    return Column(torch.where(number < classes, number, IGNORE_INDEX), batch[label].rows)


def class_map(values_N1HW: Tensor) -> Tensor:
    """(N, H, W) int64."""
    return (values_N1HW[:, 0] * 255).round().long()
