"""Contrast as spectral clustering: a graph of what counts as similar, its Laplacian, and how far
embeddings span the same space as the Laplacian's smooth functions. Tan, Zhang, Yang and Yuan, ICLR
2024, arXiv:2303.15103. The loss on a graph is `amodal.objectives.kernel_nce.graph_info_nce`. Graphs
are (N, N) float64 weights, held whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from amodal.diagnose.neighbours import nearest

Value = TypeVar("Value", int, str)


def neighbour_graph(x_ND: Tensor, k: int) -> Tensor:
    """pi (N, N): each row is a neighbour of its k nearest by cosine and they of it, with equal
    weights; rows sum to one or more in all (twice the mass of a mutual pair), and the whole is
    symmetric. Raises ValueError unless 1 <= k < N."""
    index = nearest(x_ND, k)
    graph = torch.zeros(len(x_ND), len(x_ND), dtype=torch.float64)
    graph.scatter_(1, index, 1.0 / k)
    return (graph + graph.T) / 2


def drawn_graph(a: Sequence[Value], b: Sequence[Value]) -> tuple[list[Value], Tensor]:
    """(the different values, pi): how often two values came up as two views of one thing, in either
    order; entries sum to one.

    a, b: of the same n draws, two views each, as values that can be compared (ids or codes of what
    was seen). It estimates the graph of augmentations where those are few, and converges as 1 /
    sqrt(n).
    """
    values = sorted(set(a) | set(b))
    number = {value: k for k, value in enumerate(values)}
    i, j = torch.tensor([number[v] for v in a]), torch.tensor([number[v] for v in b])
    graph = torch.zeros(len(values), len(values), dtype=torch.float64)
    graph.index_put_((i, j), torch.ones(len(i), dtype=torch.float64), accumulate=True)
    return values, (graph + graph.T) / (2 * len(i))


def laplacian(graph_NN: Tensor) -> Tensor:
    """D - W of a symmetric graph, float64. Raises ValueError for one that is not symmetric or has a
    negative weight."""
    w = graph_NN.double()
    if w.dim() != 2 or w.shape[0] != w.shape[1] or not torch.allclose(w, w.T) or (w < 0).any():
        raise ValueError(
            f"a graph is a symmetric matrix without negative weights, got {tuple(w.shape)}."
        )
    return torch.diag(w.sum(1)) - w


def smooth_functions(graph_NN: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """((count,) eigenvalues, (N, count) functions): those of the normalised Laplacian that change
    least along edges, without the constant one; what spectral clustering embeds nodes by. Nodes
    without an edge are an error."""
    lap = laplacian(graph_NN)
    degree = lap.diagonal() + graph_NN.double().diagonal()
    if (degree <= 0).any():
        raise ValueError(
            f"the nodes {(degree <= 0).nonzero().flatten().tolist()} have no edge; leave them out."
        )
    root = degree.rsqrt()
    values, vectors = torch.linalg.eigh(root[:, None] * lap * root)
    return values[1 : count + 1], root[:, None] * vectors[:, 1 : count + 1]


def roughness(z_ND: Tensor, graph_NN: Tensor) -> Tensor:
    """trace(Z^T L Z) = half the sum of w_ij |z_i - z_j|^2, over the sum of weights: the attraction
    in the loss (times 1 / temperature)."""
    z = z_ND.double()
    return (z * (laplacian(graph_NN) @ z)).sum() / graph_NN.double().sum()


def subspace_alignment(a_ND: Tensor, b_NE: Tensor) -> float:
    """The mean squared cosine of the principal angles between the column spaces of centred a and b,
    over the smaller number of dimensions: 1 if one lies in the other, about max(D, E) / N for
    spaces that have nothing to do with each other."""
    bases = [_basis(x) for x in (a_ND, b_NE)]
    cosines = torch.linalg.svdvals(bases[0].T @ bases[1])
    return float(cosines.square().sum() / max(min(q.shape[1] for q in bases), 1))


def _basis(x_ND: Tensor) -> Tensor:
    """(N, rank) orthonormal columns that span those of the centred x."""
    x = x_ND.double()
    u: Tensor
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return u[:, s > s.max() * len(x) * torch.finfo(torch.float64).eps]
