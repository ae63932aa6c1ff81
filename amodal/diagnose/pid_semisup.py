"""Bounds on the synergy of two fields from labels of single fields and unlabelled pairs.

Liang, Ling, Cheng, Obolenskiy, Liu, Pandey, Wilf, Morency and Salakhutdinov, ICLR 2024,
arXiv:2306.04539. Row 10 of the catalogue. Synergy is what both fields say together of a label y and
neither says alone.

Known are p(x1, y) and p(x2, y) from labels of single fields and p(x1, x2) from unlabelled pairs,
all of discrete values (clusters, see `amodal.stats.kmeans`). Redundancy and unique information
follow from them (Bertschinger et al. 2014). Synergy S lies between two lower bounds and an upper
bound. All in bits.

`amodal evaluate RUN --data DIR --protocols synergy --label NAME` cuts the vectors of a run into
clusters and bounds every two fields (docs/evaluating.md).

Differs:

- unique information: from alternating projections (Banerjee et al. 2018, arXiv:1709.07487), not
  from a conic solver.
- redundancy: the bound is the value of the dual problem, so it holds wherever the iteration stops.
- disagreement: the bound has a constant of its own, see `disagreement_bound`.
- upper bound: the greedy coupling may miss the least entropy by up to a bit, so its bound is no
  guarantee. Beside it is a bound that is one.
- accuracy: bounds by Feder and Merhav and by Fano, as in the paper. What a classifier of one field
  reaches is counted from its table, in place of a network that is trained.
- training: the paper also relaxes masked prediction, so that fields may disagree; that is not here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

TINY = 1e-300


@dataclass(frozen=True)
class Bounds:
    """Terms of the decomposition, (...) bits each.

    Args:
        redundancy: What both fields say of y.
        unique1: What field 1 alone says.
        unique2: What field 2 alone says.
        by_redundancy: Lower bound of synergy.
        by_disagreement: Lower bound of synergy.
        upper: Upper bound of synergy, certain as far as the iteration has come.
        upper_greedy: The paper's upper bound, tighter but not certain.
        entropy: H(Y).
        classes: Values of y.
    """

    redundancy: Tensor
    unique1: Tensor
    unique2: Tensor
    by_redundancy: Tensor
    by_disagreement: Tensor
    upper: Tensor
    upper_greedy: Tensor
    entropy: Tensor
    classes: int

    @property
    def lower(self) -> Tensor:
        """The larger of both lower bounds."""
        return torch.maximum(self.by_redundancy, self.by_disagreement).clamp(min=0)

    def accuracy(self) -> tuple[Tensor, Tensor]:
        """Bounds on the accuracy of the best classifier of both fields (Feder and Merhav 1994; Fano
        1961).

        Returns:
            The least and the largest, (...) each.
        """
        known = self.redundancy + self.unique1 + self.unique2
        left = [(self.entropy - known - s).clamp(min=0) for s in (self.lower, self.upper)]
        return 2.0 ** -left[0], fano(left[1], self.classes)


def pid_semisup(p_x1y: Tensor, p_x2y: Tensor, p_x1x2: Tensor, *, steps: int = 1000) -> Bounds:
    """Decompose the information of two fields, for any number of problems at once.

    Counts of different records are first brought to the same p(y), p(x1), p(x2). It is then not
    certain that some p(x1, x2, y) has all three tables, and the redundancy bound is not certain
    either.

    Args:
        p_x1y: (..., A, Y) probabilities or counts.
        p_x2y: (..., B, Y)
        p_x1x2: (..., A, B)
        steps: Of both iterations; tables with zeros need many.

    Raises:
        ValueError: For shapes that do not fit, and for empty or negative tables.
    """
    tables = [t.double() for t in (p_x1y, p_x2y, p_x1x2)]
    (a, y), (b, y2) = (t.shape[-2:] for t in tables[:2])
    if y != y2 or tables[2].shape[-2:] != (a, b):
        shapes = ", ".join(str(tuple(t.shape)) for t in tables)
        raise ValueError(f"tables (A, Y), (B, Y) and (A, B) are needed, got {shapes}.")
    if any(bool((t.sum((-2, -1)) <= 0).any()) or bool((t < 0).any()) for t in tables):
        raise ValueError("each table needs something in it, and nothing below 0.")
    p1, p2, p12 = agreeing(tables[0], tables[1], tables[2])
    p_y = p1.sum(-2)
    known = information(unique_projection(p1, p2, steps).flatten(-3, -2))
    i1, i2 = information(p1), information(p2)
    pairs, labels = entropy(p12.flatten(-2)), entropy(p_y)
    redundancy = i1 + i2 - known
    by_redundancy = redundancy - information(p12) + least_conditional(p1, p2, p12, steps)
    by_disagreement = disagreement_bound(p1, p2, p12) - (2 * known - i1 - i2) / 2
    least = torch.maximum(torch.maximum(pairs, labels), entropy(meet(p12.flatten(-2), p_y)))
    upper, greedy = (
        pairs + labels - h - known for h in (least, entropy(greedy_coupling(p12.flatten(-2), p_y)))
    )
    return Bounds(
        redundancy=redundancy,
        unique1=known - i2,
        unique2=known - i1,
        by_redundancy=by_redundancy,
        by_disagreement=by_disagreement,
        upper=upper,
        upper_greedy=greedy,
        entropy=labels,
        classes=y,
    )


def synergy(p_x1x2y: Tensor, *, steps: int = 1000) -> Tensor:
    """The synergy itself, from labelled pairs.

    Args:
        p_x1x2y: (..., A, B, Y)
        steps: Of the iteration.

    Returns:
        (...) bits.
    """
    p = p_x1x2y.double() / p_x1x2y.double().sum((-3, -2, -1), keepdim=True)
    known = information(unique_projection(p.sum(-2), p.sum(-3), steps).flatten(-3, -2))
    return (information(p.flatten(-3, -2)) - known).clamp(min=0)


def entropy(p: Tensor) -> Tensor:
    """(..., K) -> (...) bits."""
    nats: Tensor = torch.special.xlogy(p, p).sum(-1)
    return -nats / math.log(2)


def information(p: Tensor) -> Tensor:
    """Mutual information of a table, (..., A, B) -> (...) bits."""
    return entropy(p.sum(-1)) + entropy(p.sum(-2)) - entropy(p.flatten(-2))


def agreeing(
    p1: Tensor, p2: Tensor, p12: Tensor, sweeps: int = 200
) -> tuple[Tensor, Tensor, Tensor]:
    """The tables with one p(y), the mean of both, and p(x1, x2) with the others' marginals."""
    p1, p2, p12 = (t / t.sum((-2, -1), keepdim=True) for t in (p1, p2, p12))
    p_y = (p1.sum(-2, keepdim=True) + p2.sum(-2, keepdim=True)) / 2
    p1, p2 = (p * p_y / p.sum(-2, keepdim=True).clamp(min=TINY) for p in (p1, p2))
    p1, p2 = (p / p.sum((-2, -1), keepdim=True) for p in (p1, p2))
    rows, columns = p1.sum(-1)[..., :, None], p2.sum(-1)[..., None, :]
    for _ in range(sweeps):
        p12 = p12 * rows / p12.sum(-1, keepdim=True).clamp(min=TINY)
        p12 = p12 * columns / p12.sum(-2, keepdim=True).clamp(min=TINY)
        if (p12.sum(-1, keepdim=True) - rows).abs().max() < 1e-14:
            break
    return p1, p2, p12


def unique_projection(p1: Tensor, p2: Tensor, steps: int, sweeps: int = 3) -> Tensor:
    """Of all q with the given q(x1, y) and q(x2, y), the one with the least I_q(X1, X2; Y).

    That is the least mean over y of KL(q(x1, x2 | y) || r) over both q and r. r is the mean of the
    q, and each q the projection of r on its marginals.

    Args:
        p1: p(x1, y).
        p2: p(x2, y).
        steps: Of alternating projections.
        sweeps: Of proportional fitting in each.

    Returns:
        (..., A, B, Y).
    """
    p_y = p1.sum(-2).clamp(min=TINY)[..., None, :]
    # p(x1 | y) and p(x2 | y)
    p1_y, p2_y = (p1 / p_y)[..., :, None, :], (p2 / p_y)[..., None, :, :]
    u, v = torch.ones_like(p1_y), torch.ones_like(p2_y)
    q = p1_y * p2_y
    for step in range(steps + 1):
        r = (q * p_y[..., None, :, :]).sum(-1, keepdim=True)
        for _ in range(sweeps if step < steps else 50 * sweeps):
            u = p1_y / (r * v).sum(-2, keepdim=True).clamp(min=TINY)
            v = p2_y / (r * u).sum(-3, keepdim=True).clamp(min=TINY)
        q = r * u * v
    return q * p_y[..., None, :, :]


def least_conditional(p1: Tensor, p2: Tensor, p12: Tensor, steps: int) -> Tensor:
    """The least I_r(X1; X2 | Y) of any r with all three tables of pairs, in bits.

    Iterative scaling approaches it from below. It is the divergence of r from p(x1, y) p(x2, y) /
    p(y), and the sum of p log(factor) over all factors is the dual's value.

    Args:
        p1: p(x1, y).
        p2: p(x2, y).
        p12: p(x1, x2).
        steps: Of the iteration.

    Returns:
        (...)
    """
    r = p1[..., :, None, :] * p2[..., None, :, :] / p1.sum(-2).clamp(min=TINY)[..., None, None, :]
    total = torch.zeros_like(r.sum((-3, -2, -1)))
    for _ in range(steps):
        for want, axis in ((p1, -2), (p2, -3), (p12, -1)):
            factor = want / r.sum(axis).clamp(min=TINY)
            total = total + torch.special.xlogy(want, factor).sum((-2, -1))
            r = r * factor.unsqueeze(axis)
    return ((total - r.sum((-3, -2, -1)) + 1) / math.log(2)).clamp(min=0)


def disagreement_bound(p1: Tensor, p2: Tensor, p12: Tensor) -> Tensor:
    """E |p(y | x1) - p(y | x2)|^2 / (8 ln 2), where |.| is the sum of absolute values.

    S exceeds this minus the mean of the unique information. By Pinsker, I(X2; Y | X1) = U2 + S is
    at least E |p(y | x1, x2) - p(y | x1)|^2 / (2 ln 2), likewise U1 + S; and |f1 - f2|^2 is at most
    twice the sum of both squares.

    Returns:
        (...) bits.
    """
    f1, f2 = (p / p.sum(-1, keepdim=True).clamp(min=TINY) for p in (p1, p2))
    apart = (f1[..., :, None, :] - f2[..., None, :, :]).abs().sum(-1).square()
    return (p12 * apart).sum((-2, -1)) / (8 * math.log(2))


def greedy_coupling(p: Tensor, q: Tensor) -> Tensor:
    """The masses of a coupling of small entropy (Kocaoglu et al. 2017, arXiv:1611.04035).

    In each step as much as possible of the two largest masses is coupled.

    Args:
        p: (..., N)
        q: (..., M)

    Returns:
        (..., N + M).
    """
    masses = []
    for _ in range(p.shape[-1] + q.shape[-1]):
        (top_p, i), (top_q, j) = p.max(-1, keepdim=True), q.max(-1, keepdim=True)
        masses.append(torch.minimum(top_p, top_q))
        p, q = p.scatter_add(-1, i, -masses[-1]), q.scatter_add(-1, j, -masses[-1])
    return torch.cat(masses, -1).clamp(min=0)


def meet(p: Tensor, q: Tensor) -> Tensor:
    """The largest lower bound of p and q in the order of majorisation.

    No coupling has less entropy (Cicalese et al. 2019, arXiv:1901.07530).
    """
    size = max(p.shape[-1], q.shape[-1])
    falling = (pad(t.sort(-1, descending=True).values, (0, size - t.shape[-1])) for t in (p, q))
    low = torch.minimum(*(t.cumsum(-1) for t in falling))
    return low.diff(dim=-1, prepend=torch.zeros_like(low[..., :1])).clamp(min=0)


def fano(left: Tensor, classes: int) -> Tensor:
    """The highest accuracy that is compatible with H(Y | X) = left bits.

    There h(e) + e log(classes - 1) = left; solved by bisection.
    """
    low, high = torch.zeros_like(left), torch.full_like(left, 1 - 1 / classes)
    for _ in range(60):
        error = (low + high) / 2
        enough = (
            entropy(torch.stack([error, 1 - error], -1)) + error * math.log2(max(classes - 1, 1))
            >= left
        )
        low, high = torch.where(enough, low, error), torch.where(enough, error, high)
    return 1 - (low + high) / 2
