"""Batches of hard negatives: groups of classes that the model so far finds similar."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def similarity_groups(z_ND: Tensor, class_N: Tensor, size: int) -> Tensor:
    """Group whole classes whose mean unit vectors lie together.

    Classes are halved across the direction in which they differ most, until a half is small enough.
    Groups with neighbouring numbers are halves that were cut last.

    Args:
        z_ND: Vectors.
        class_N: int64, -1 where unknown (such a row is a class of its own).
        size: About the largest number of rows in a group.

    Returns:
        (N,) int64, the group of each row.

    Raises:
        ValueError: For a size below 1.
    """
    if size < 1:
        raise ValueError(f"a group needs at least 1 row, not {size}")
    # numbers past the last class, one for each row
    alone = class_N.max() + 1 + torch.arange(len(class_N), device=class_N.device)
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
        # eigenvalues ascend: the last is that of the first principal direction
        along = apart @ torch.linalg.eigh(apart.T @ apart).eigenvectors[:, -1]
        ordered = classes[along.argsort(stable=True)]
        rows = count[ordered].cumsum(0)
        cut = max(int((rows <= rows[-1] / 2).sum()), 1)
        waiting += [ordered[cut:], ordered[:cut]]
    return group[number]
