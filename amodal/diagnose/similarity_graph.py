"""Contrast as spectral clustering: similarity graphs, their Laplacian, and how far embeddings span
its smooth functions.

Tan, Zhang, Yang and Yuan, ICLR 2024, arXiv:2303.15103. The loss on a graph is
`amodal.objectives.kernel_nce.graph_info_nce`. Graphs are (N, N) float64 weights, held whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from amodal.diagnose.neighbours import nearest

Value = TypeVar("Value", int, str)


def neighbour_graph(x_ND: Tensor, k: int) -> Tensor:
    """pi: the symmetric graph of k nearest neighbours by cosine, with equal weights.

    Rows sum to one or more in all (twice the mass of a mutual pair).

    Args:
        x_ND: Vectors.
        k: Neighbours.

    Returns:
        (N, N)

    Raises:
        ValueError: Unless 1 <= k < N.
    """
    index = nearest(x_ND, k)
    graph = torch.zeros(len(x_ND), len(x_ND), dtype=torch.float64)
    graph.scatter_(1, index, 1.0 / k)
    return (graph + graph.T) / 2


def drawn_graph(a: Sequence[Value], b: Sequence[Value]) -> tuple[list[Value], Tensor]:
    """Estimate the graph of augmentations: how often two values were two views of one thing.

    For values that are few. It converges as 1 / sqrt(n).

    Args:
        a: The first view of each of n draws, as values that can be compared (ids or codes).
        b: The second view of each.

    Returns:
        The different values, N; pi (N, N), symmetric, whose entries sum to one.
    """
    values = sorted(set(a) | set(b))
    number = {value: k for k, value in enumerate(values)}
    i, j = torch.tensor([number[v] for v in a]), torch.tensor([number[v] for v in b])
    graph = torch.zeros(len(values), len(values), dtype=torch.float64)
    graph.index_put_((i, j), torch.ones(len(i), dtype=torch.float64), accumulate=True)
    return values, (graph + graph.T) / (2 * len(i))


def laplacian(graph_NN: Tensor) -> Tensor:
    """D - W of a symmetric graph, float64.

    Raises:
        ValueError: For a graph that is not symmetric or has a negative weight.
    """
    w = graph_NN.double()
    if w.dim() != 2 or w.shape[0] != w.shape[1] or not torch.allclose(w, w.T) or (w < 0).any():
        raise ValueError(
            f"a graph is a symmetric matrix without negative weights, got {tuple(w.shape)}."
        )
    return torch.diag(w.sum(1)) - w


def smooth_functions(graph_NN: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The functions that change least along edges, without the constant one.

    They are eigenfunctions of the normalised Laplacian, by which spectral clustering embeds nodes.

    Args:
        graph_NN: The graph.
        count: How many.

    Returns:
        (count,) eigenvalues, (N, count) functions.

    Raises:
        ValueError: If a node has no edge.
    """
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
    """trace(Z^T L Z) over the sum of weights: the attraction in the loss (times 1 / temperature).

    trace(Z^T L Z) is half the sum of w_ij |z_i - z_j|^2.
    """
    z = z_ND.double()
    return (z * (laplacian(graph_NN) @ z)).sum() / graph_NN.double().sum()


def subspace_alignment(a_ND: Tensor, b_NE: Tensor) -> float:
    """The mean squared cosine of the principal angles between the column spaces of centred a and b.

    The mean is over the smaller number of dimensions.

    Args:
        a_ND: Vectors.
        b_NE: Other vectors of the same rows.

    Returns:
        1 if one space lies in the other, about max(D, E) / N for unrelated spaces.
    """
    bases = [_basis(x) for x in (a_ND, b_NE)]
    cosines = torch.linalg.svdvals(bases[0].T @ bases[1])
    return float(cosines.square().sum() / max(min(q.shape[1] for q in bases), 1))


def _basis(x_ND: Tensor) -> Tensor:
    """(N, rank) orthonormal columns that span those of the centred x."""
    x = x_ND.double()
    u: Tensor
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return u[:, s > s.max() * len(x) * torch.finfo(torch.float64).eps]
