"""Batches of look-alikes: hard negatives by the vectors of the model so far, whole classes at a
time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


@torch.no_grad()
def look_alikes(z_ND: Tensor, class_N: Tensor, size: int) -> Tensor:
    """(N,) int64, a group for each row: of at most about `size` rows, whole classes, those whose
    mean unit vectors lie together.

    class_N: int64, -1 where unknown (such a row is a class of its own). Classes are halved across
    the direction in which they differ most, until a half is small enough; neighbouring numbers are
    halves that were cut last. Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"a group needs at least 1 row, not {size}")
    alone = class_N.max().clamp(min=-1) + 1 + torch.arange(len(class_N), device=class_N.device)
    number, count = torch.where(class_N < 0, alone, class_N).unique(
        return_inverse=True, return_counts=True
    )[1:]
    unit = normalize(z_ND.double(), dim=1)
    middle = unit.new_zeros(len(count), unit.shape[1]).index_add(0, number, unit) / count[:, None]
    group, made = torch.zeros_like(count), 0
    waiting = [torch.arange(len(count), device=count.device)]
    while waiting:
        classes = waiting.pop()
        if int(count[classes].sum()) <= size or len(classes) == 1:
            group[classes], made = made, made + 1
            continue
        apart = middle[classes] - middle[classes].mean(0)
        along = apart @ torch.linalg.eigh(apart.T @ apart).eigenvectors[:, -1]
        ordered = classes[along.argsort(stable=True)]
        rows = count[ordered].cumsum(0)
        cut = int((rows <= rows[-1] / 2).sum()).__index__()
        cut = min(max(cut, 1), len(ordered) - 1)
        waiting += [ordered[cut:], ordered[:cut]]
    return group[number]
