"""What positive pairs say about labels: how often they cross classes, how well they connect a
class, and the bound for a linear probe.

Zhang, Wang and Wang, ICML 2023, arXiv:2306.04272: contrast of pictures with texts factorises the
table of which comes with which, and so contrasts pictures that are linked by a text. Tables are (X,
Y) float64, how often x and y come together; graphs are (N, N), how often two things are a positive
pair. The loss on a table is `amodal.objectives.spectral.graph_spectral`. The singular values of a
normalised table, on which the bound rests, are `amodal.diagnose.balance.dependence`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from amodal.diagnose.balance import dependence

Label = TypeVar("Label", str, int)


def linked(joint_XY: Tensor, *, alone: bool = False) -> Tensor:
    """The graph of pairs of x that come with the same y: P D_y^-1 P', of mass one.

    Its normalised matrix is A A' for the normalised table A.

    Args:
        joint_XY: The table.
        alone: Leave out pairs of a thing with itself, which say nothing about labels.

    Returns:
        (X, X)
    """
    p = joint_XY.double() / joint_XY.sum()
    graph = p @ (p.T / p.sum(0)[:, None].clamp_min(torch.finfo(torch.float64).tiny))
    if alone:
        graph = graph.clone().fill_diagonal_(0)
        graph = graph / graph.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return graph


def labelling_error(graph_NN: Tensor, labels: Sequence[Label]) -> float:
    """alpha: the probability that the two of a positive pair have different labels.

    Args:
        graph_NN: Positive pairs.
        labels: N labels.

    Returns:
        0 to 1, NaN for a graph without a pair.
    """
    code = _codes(labels, graph_NN)
    differ = code[:, None] != code
    if not graph_NN.any():
        return math.nan
    return float(graph_NN.double()[differ].sum() / graph_NN.double().sum())


def joined(graph_NN: Tensor, labels: Sequence[Label]) -> float:
    """The share of ordered pairs of different things of one label that positive pairs connect.

    A chain of positive pairs within the label connects two things.

    Args:
        graph_NN: Positive pairs.
        labels: N labels.

    Returns:
        0 where no class is connected, 1 where every class is.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    code = _codes(labels, graph_NN)
    inside = (graph_NN * (code[:, None] == code)).numpy()
    _, component = connected_components(coo_array(inside + inside.T), directed=False)
    sizes = torch.bincount(torch.from_numpy(component.astype(np.int64))).double()
    classes = torch.bincount(code).double()
    return float((sizes * (sizes - 1)).sum() / (classes * (classes - 1)).sum())


def gaps(graph_NN: Tensor, labels: Sequence[Label]) -> dict[Label, float]:
    """The eigengap of each class's part of the graph: how fast chains of positives mix within it.

    It is 1 - the second largest singular value of the normalised matrix, and 0 where the class is
    not connected. Things without a pair in their class are left out.

    Args:
        graph_NN: Positive pairs.
        labels: N labels.

    Returns:
        label -> eigengap.
    """
    code, names = _codes(labels, graph_NN), sorted(set(labels))
    eigengaps = {}
    for number, name in enumerate(names):
        members = (code == number).nonzero().squeeze(1)
        part = graph_NN.double()[members][:, members]
        part = part + part.T
        part = part[part.sum(1) > 0][:, part.sum(1) > 0]
        eigengaps[name] = 1 - float(dependence(part)[1]) if len(part) > 1 else math.nan
    return eigengaps


def bound(alpha: float, joint_XY: Tensor, width: int) -> float:
    """alpha / (1 - s_{width + 1}^2).

    It bounds the error of a linear probe on the best `width` dimensions, up to constants. s are the
    singular values of the normalised table.

    Args:
        alpha: See `labelling_error`.
        joint_XY: The table.
        width: Dimensions.

    Returns:
        The bound; infinite if more than `width` of the s are 1, as where the data falls into more
        parts than there are dimensions.
    """
    values = dependence(joint_XY)
    left = 1 - float(values[width]) ** 2 if width < len(values) else 1.0
    return alpha / left if left > 1e-12 else math.inf


def _codes(labels: Sequence[Label], graph_NN: Tensor) -> Tensor:
    """(N,) int64, labels by number."""
    if graph_NN.shape != (len(labels), len(labels)):
        raise ValueError(f"a graph of {tuple(graph_NN.shape)} does not fit {len(labels)} labels.")
    number = {name: i for i, name in enumerate(sorted(set(labels)))}
    return torch.tensor([number[label] for label in labels])
