"""A common space of the simple features of two fields.

Its directions are pairs of columns, or directions of a regularised CCA (Vinod 1976), weighted by
their correlation on a held-out fifth of the training pairs, by which these and the penalty are
chosen too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.stats.canonical import PENALTIES, Spectra
from amodal.stats.ranking import ranks, reciprocal_ranks

MIN_PAIRS = 20
"""Of training, below which two fields have no common space."""
MAX_DIRECTIONS = 64
MATCHED = (1, 4, 16)
"""Pairs of single columns that are tried as directions."""
MAX_CORRELATION = 0.995
RADIUS = 0.5
"""Typical length of vectors beside the constant 1 that makes cosines compare distances."""


@dataclass(frozen=True)
class Map:
    """Of one field into the space of two.

    Args:
        mean: (F,)
        w: (F, D)
        constant: A further coordinate: 0, or 1 so that cosines compare distances.
    """

    mean: Tensor
    w: Tensor
    constant: float

    @property
    def width(self) -> int:
        """D, with the constant."""
        return self.w.shape[1] + 1

    def __call__(self, x_NF: Tensor) -> Tensor:
        """(N, D + 1) unit vectors, or zeros where the two fields share nothing."""
        z = (x_NF.double() - self.mean) @ self.w
        last = torch.full((len(z), 1), self.constant, dtype=z.dtype)
        return normalize(torch.cat([z, last], 1), dim=1).float()


def pair_maps(a_NF: Tensor, b_NG: Tensor, seed: int = 0) -> tuple[Map, Map]:
    """Fit maps of two fields into a common space.

    Args:
        a_NF: Features of the first field.
        b_NG: Of the second field of the same records.
        seed: Of the held-out fifth.

    Returns:
        A map for each.
    """
    a, b = a_NF.double(), b_NG.double()
    none = tuple(Map(x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], 1), 0.0) for x in (a, b))
    if len(a) < MIN_PAIRS:
        return none[0], none[1]
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(a)))
    held, fit = order[: len(a) // 5], order[len(a) // 5 :]
    means = a[fit].mean(0), b[fit].mean(0)
    x, y = a[fit] - means[0], b[fit] - means[1]
    best, chosen = 0.0, (none[0], none[1])
    for w_a, w_b in itertools.chain(_columns(x, y), _canonical(x, y)):
        w_a, w_b = (w / (z @ w).std(0).clamp_min(1e-9) for z, w in ((x, w_a), (y, w_b)))
        weight = _weights((a[held] - means[0]) @ w_a, (b[held] - means[1]) @ w_b)
        if not weight.any():
            continue
        scale = RADIUS / weight.sum().sqrt()
        for constant in (0.0, 1.0):
            maps = (
                Map(means[0], w_a * weight.sqrt() * scale, constant),
                Map(means[1], w_b * weight.sqrt() * scale, constant),
            )
            score = _mean_reciprocal_rank(maps[0](a[held]), maps[1](b[held]))
            if score > best:
                best, chosen = score, maps
    return chosen


def _columns(x_NF: Tensor, y_NG: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of one column each that correlate most, such as two durations.

    Canonical directions are never as clean where columns without a counterpart are many.
    """
    x, y = (z / z.std(0).clamp_min(1e-9) for z in (x_NF, y_NG))
    correlation = x.T @ y / len(x)
    left, columns = correlation.abs(), list[tuple[int, int]]()
    for _ in range(min(max(MATCHED), *left.shape)):
        i, j = divmod(int(left.argmax()), left.shape[1])
        left[i], left[:, j] = -1.0, -1.0
        columns.append((i, j))
    for most in MATCHED:
        w_a, w_b = (z.new_zeros(z.shape[1], len(columns[:most])) for z in (x, y))
        for d, (i, j) in enumerate(columns[:most]):
            w_a[i, d], w_b[j, d] = 1.0, 1.0 if correlation[i, j] > 0 else -1.0
        yield w_a, w_b


def _canonical(x_NF: Tensor, y_NG: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Directions of a CCA for each penalty."""
    own = {"x": x_NF.T @ x_NF / len(x_NF), "y": y_NG.T @ y_NG / len(y_NG)}
    spectra = Spectra(own, {("x", "y"): x_NF.T @ y_NG / len(x_NF)})
    for penalty in PENALTIES:
        maps = spectra.directions(dict.fromkeys(own, penalty)).maps
        yield maps["x"][:, :MAX_DIRECTIONS], maps["y"][:, :MAX_DIRECTIONS]


def _weights(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """(D,) weights of squared distances: the log ratio of the densities of pairs and of others.

    Directions whose correlation is within the error of these few pairs get 0.
    """
    a, b = ((z - z.mean(0)) / z.std(0).clamp_min(1e-9) for z in (a_ND, b_ND))
    r = (a * b).mean(0).clamp(0, MAX_CORRELATION)
    r = torch.where(r > len(a) ** -0.5, r, 0)
    return r / (1 - r.square())


def _mean_reciprocal_rank(a_ND: Tensor, b_ND: Tensor) -> float:
    most = slice(0, 1000)
    both = ((a_ND[most], b_ND[most]), (b_ND[most], a_ND[most]))
    return sum(float(reciprocal_ranks(*ranks(q, g)).mean()) for q, g in both)
