"""Canonical correlation analysis as a layer: maps that whiten fields and rotate them so that they
correlate, with a gradient.

Hotelling 1936; as a layer between towers and a ranking loss: Dorfer et al. 2018, arXiv:1705.06979.
One may rotate both fields into canonical directions, or leave the first whitened and rotate the
other only. The two differ by one rotation of both, which no cosine sees. The latter is used here:
its gradient stays finite for equal correlations, and it takes more than two fields.

Ours: scikit-learn's `CCA` has no gradient, takes two fields and all records at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from amodal.core.column import Column, shared_rows
from amodal.core.embeddings import vectors as vectors_of

MIN_SQUARED_CORRELATION = 1e-3
"""Below which a direction of one field has hardly a counterpart in the other."""


@dataclass(frozen=True)
class Moments:
    """Moments of one field.

    Args:
        mean: (D,)
        cov: (D, D) covariance.
        cross: (D, D) covariance with the anchor, rows are the anchor's dimensions; None without
            shared rows.
    """

    mean: Tensor
    cov: Tensor
    cross: Tensor | None = None

    @staticmethod
    def of(field: Column, anchor: Column) -> Moments | None:
        """Moments of (N, D) vectors; None for fewer than two rows."""
        if len(field) < 2:
            return None
        x, y = vectors_of(field), vectors_of(anchor)
        index, anchor_index = shared_rows(field, anchor)
        cross = covariance(y[anchor_index], x[index]) if len(index) > 1 else None
        return Moments(x.mean(0), covariance(x, x), cross)


def covariance(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """(D, E) covariance of paired rows."""
    return (a_ND - a_ND.mean(0)).T @ (b_ND - b_ND.mean(0)) / (len(a_ND) - 1)


def whitener(cov_DD: Tensor, ridge: float) -> Tensor:
    """(D, D) W with W^T (cov + ridge * its mean variance) W = 1."""
    # `tiny` keeps a field that does not vary from a Cholesky of zeros
    size = cov_DD.diagonal().mean() * ridge + torch.finfo(cov_DD.dtype).tiny ** 0.5
    eye = torch.eye(len(cov_DD), dtype=cov_DD.dtype, device=cov_DD.device)
    # W = L^-T where L L^T = cov; other roots (as the symmetric one) differ by an orthogonal factor,
    # which no cosine sees
    root: Tensor = torch.linalg.cholesky(cov_DD + size * eye)
    inverse: Tensor = torch.linalg.solve_triangular(root, eye, upper=False)
    return inverse.T


def canonical_maps(
    anchor: Moments,
    other: Moments | None = None,
    *,
    ridge: float = 1e-3,
    least: float = MIN_SQUARED_CORRELATION,
) -> Tensor:
    """The map of one field, to be multiplied with centred rows from the right.

    The cosine of two mapped rows is that of CCA with all directions whose squared correlation is
    well above `least`.

    Args:
        anchor: The field that is whitened only.
        other: The field to map into the anchor's whitened space; None for the anchor's own map.
        ridge: Share of the mean variance that is added to each.
        least: See `Polar`.

    Returns:
        (D, D).
    """
    if other is None:
        return whitener(anchor.cov, ridge)
    assert other.cross is not None, "callers pass fields that share rows with the anchor"
    own = whitener(other.cov, ridge)
    whitened = whitener(anchor.cov, ridge).T @ other.cross @ own
    polar = cast(Callable[[Tensor, float], Tensor], Polar.apply)  # which torch leaves untyped
    return own @ polar(whitened, least).T


class Polar(torch.autograd.Function):
    """T (T^T T + least)^(-1/2) for a square T = U S V^T.

    It is the nearest orthogonal matrix, except for directions whose correlation is hardly above 0.
    These have none, as where there are fewer rows than dimensions.
    """

    @staticmethod
    def forward(ctx: Any, x_DD: Tensor, least: float) -> Tensor:
        """Compute the matrix, (D, D)."""
        u, s, vh = torch.linalg.svd(x_DD)
        ctx.save_for_backward(u, s, vh)
        ctx.least = least
        polar: Tensor = u * (s / (s.square() + least).sqrt()) @ vh
        return polar

    @staticmethod
    def backward(ctx: Any, grad_DD: Tensor) -> tuple[Tensor, None]:
        """The gradient with respect to T.

        f(s) = s / sqrt(s^2 + least) turns small changes of T into (f_i - f_j) / (s_i - s_j) times
        their symmetric part, in the bases U and V, and (f_i + f_j) / (s_i + s_j) times the rest.
        Both are written so that equal values divide by nothing.
        """
        u, s, vh = ctx.saved_tensors
        s = s + torch.finfo(s.dtype).eps
        g = (s.square() + ctx.least).sqrt()
        total, crossed, product = s[:, None] + s, s[:, None] * g + g[:, None] * s, g[:, None] * g
        inner = u.T @ grad_DD @ vh.T
        even, odd = (inner + inner.T) / 2, (inner - inner.T) / 2
        return u @ (
            even * ctx.least * total / (crossed * product) + odd * crossed / (total * product)
        ) @ vh, None


class CCA(nn.Module):
    """The layer.

    In training it maps by the moments of the batch, through which gradients flow. `update`, after
    the step, adds them to running moments, of which `maps` are made for inference.

    Args:
        names: Fields; the first is the anchor.
        width: D.
        ridge: See `whitener`.
        momentum: Of the running moments.
    """

    def __init__(
        self, names: Sequence[str], width: int, *, ridge: float = 1e-3, momentum: float = 0.9
    ):
        super().__init__()
        self.names, self.ridge, self.momentum = tuple(names), ridge, momentum
        self._batch: dict[str, Moments] = {}
        for name in self.names:
            self.register_buffer(f"mean/{name}", torch.zeros(width))
            self.register_buffer(f"cov/{name}", torch.zeros(width, width))
            self.register_buffer(f"cross/{name}", torch.zeros(width, width))
            self.register_buffer(f"seen/{name}", torch.zeros(()))

    def forward(self, z: dict[str, Column]) -> dict[str, Column]:
        """Map each field.

        Args:
            z: name -> (N, D).

        Returns:
            name -> (N, D). A field with too few rows becomes zeros that are part of the graph.
        """
        moments = {n: Moments.of(z[n], z[self.names[0]]) for n in self.names}
        self._batch = {n: m for n, m in moments.items() if m is not None}
        x = {n: vectors_of(z[n]) for n in self.names}
        mapped = {n: (x[n] - self._batch[n].mean) @ w for n, w in self._maps(self._batch).items()}
        return {n: Column(mapped.get(n, x[n] * 0), z[n].rows) for n in self.names}

    @torch.no_grad()
    def update(self) -> None:
        """Add the moments of the last batch to the running ones."""
        for name, new in self._batch.items():
            if new.cross is None:
                continue
            seen = self.get_buffer(f"seen/{name}")
            # the first moments are taken as they are
            share = 1 - self.momentum * float(seen > 0)
            for moment, value in (("mean", new.mean), ("cov", new.cov), ("cross", new.cross)):
                self.get_buffer(f"{moment}/{name}").lerp_(value.to(seen.dtype), share)
            seen.fill_(1)
        self._batch = {}

    def maps(self) -> dict[str, tuple[Tensor, Tensor]]:
        """name -> running mean (D,) and map (D, D), of the fields seen so far."""
        running = {
            n: Moments(*(self.get_buffer(f"{moment}/{n}") for moment in ("mean", "cov", "cross")))
            for n in self.names
            if self.get_buffer(f"seen/{n}") > 0
        }
        return {n: (running[n].mean, map_DD) for n, map_DD in self._maps(running).items()}

    def _maps(self, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        anchor = moments.get(self.names[0])
        if anchor is None:
            return {}
        return {
            n: canonical_maps(anchor, None if n == self.names[0] else m, ridge=self.ridge)
            for n, m in moments.items()
            if m.cross is not None
        }
