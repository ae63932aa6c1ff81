"""What positive pairs tell about labels: how often they cross classes, how well they join a class,
and what follows for a linear probe.

Zhang, Wang and Wang, ICML 2023, arXiv:2306.04272: contrast of pictures with texts factorises the
table of which comes with which, and so contrasts pictures that are linked by a text. Tables are (X,
Y) float64, how often x and y come together; graphs (N, N), how often two things are a positive
pair. The loss on a table is `amodal.objectives.spectral.graph_spectral`; the singular values of a
normalised table, on which the bound rests, are `amodal.diagnose.balance.dependence`."""

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
    """(X, X) the pairs of x that come with the same y: P D_y^-1 P', a graph of mass one, whose
    normalised matrix is A A' of the normalised table A. alone: leave out the pairs of a thing with
    itself, which say nothing about labels."""
    p = joint_XY.double() / joint_XY.sum()
    graph = p @ (p.T / p.sum(0)[:, None].clamp_min(torch.finfo(torch.float64).tiny))
    if alone:
        graph = graph.clone().fill_diagonal_(0)
        graph = graph / graph.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return graph


def labelling_error(graph_NN: Tensor, labels: Sequence[Label]) -> float:
    """alpha: the probability that the two of a positive pair have different labels. NaN for a graph
    without a pair."""
    code = _codes(labels, graph_NN)
    differ = code[:, None] != code
    if not graph_NN.any():
        return math.nan
    return float(graph_NN.double()[differ].sum() / graph_NN.double().sum())


def joined(graph_NN: Tensor, labels: Sequence[Label]) -> float:
    """The share, over ordered pairs of different things of one label, that a chain of positive
    pairs within the label joins: 0 where no class holds together, 1 where every class does."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    code = _codes(labels, graph_NN)
    inside = (graph_NN * (code[:, None] == code)).numpy()
    _, component = connected_components(coo_array(inside + inside.T), directed=False)
    sizes = torch.bincount(torch.from_numpy(component.astype(np.int64))).double()
    classes = torch.bincount(code).double()
    return float((sizes * (sizes - 1)).sum() / (classes * (classes - 1)).sum())


def gaps(graph_NN: Tensor, labels: Sequence[Label]) -> dict[Label, float]:
    """label -> the eigengap of its part of the graph, 1 - the second largest singular value of the
    normalised matrix: how fast chains of positives mix within it. 0 where the class falls apart;
    things without a pair in their class are left out."""
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
    """alpha / (1 - s_{width + 1}^2), to which the error of a linear probe on the best `width`
    dimensions is bounded up to constants; s are the singular values of the normalised table.
    Infinite if more than `width` of them are 1, as where the data falls into more parts than there
    are dimensions."""
    values = dependence(joint_XY)
    left = 1 - float(values[width]) ** 2 if width < len(values) else 1.0
    return alpha / left if left > 1e-12 else math.inf


def _codes(labels: Sequence[Label], graph_NN: Tensor) -> Tensor:
    """(N,) int64, labels by number."""
    if graph_NN.shape != (len(labels), len(labels)):
        raise ValueError(f"a graph of {tuple(graph_NN.shape)} does not fit {len(labels)} labels.")
    number = {name: i for i, name in enumerate(sorted(set(labels)))}
    return torch.tensor([number[label] for label in labels])
