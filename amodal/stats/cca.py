"""Canonical correlation analysis as a layer: maps that whiten two fields and turn them so that they
correlate, with a gradient.

Hotelling 1936; as a layer between towers and a ranking loss: Dorfer et al. 2018, arXiv:1705.06979.
Turning both fields into canonical directions, or leaving the first whitened as it is and turning
only the other, differs by one rotation of both, which no cosine sees. The latter has a gradient
that equal correlations do not make infinite, and takes more than two fields.

Ours: scikit-learn's `CCA` has no gradient, takes two fields and all records at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core.column import Column, shared_rows

LEAST = 1e-3
"""Squared correlation under which a direction of one field has hardly a counterpart in the other.
"""


@dataclass(frozen=True)
class Moments:
    """mean (D,), cov (D, D) of one field; cross (D, D) with the anchor: rows are the anchor's
    dimensions, None without shared rows."""

    mean: Tensor
    cov: Tensor
    cross: Tensor | None = None

    @staticmethod
    def of(field: Column, anchor: Column) -> Moments | None:
        """Of (N, D) vectors; None for fewer than two rows."""
        if len(field) < 2:
            return None
        at, at_anchor = shared_rows(field, anchor)
        both = covariance(anchor.values[at_anchor], field.values[at]) if len(at) > 1 else None
        return Moments(field.values.mean(0), covariance(field.values, field.values), both)


def covariance(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    return (a_ND - a_ND.mean(0)).T @ (b_ND - b_ND.mean(0)) / (len(a_ND) - 1)


def whitener(cov_DD: Tensor, ridge: float) -> Tensor:
    """(D, D) W with W^T (cov + ridge * its mean variance) W = 1."""
    size = cov_DD.diagonal().mean() * ridge + torch.finfo(cov_DD.dtype).tiny ** 0.5
    eye = torch.eye(len(cov_DD), dtype=cov_DD.dtype, device=cov_DD.device)
    return torch.linalg.solve_triangular(
        torch.linalg.cholesky(cov_DD + size * eye), eye, upper=False
    ).T


def canonical_maps(
    anchor: Moments, other: Moments | None = None, *, ridge: float = 1e-3, least: float = LEAST
) -> Tensor:
    """(D, D) to multiply centred rows with, from the right: of the anchor, or of `other` into the
    anchor's whitened space. The cosine of two mapped rows is that of CCA with all directions kept
    whose squared correlation is well above `least`."""
    if other is None:
        return whitener(anchor.cov, ridge)
    own = whitener(other.cov, ridge)
    return own @ Polar.apply(whitener(anchor.cov, ridge).T @ other.cross @ own, least).T


class Polar(torch.autograd.Function):
    """T (T^T T + least)^(-1/2) of a square T = U S V^T: the nearest orthogonal matrix, but for
    directions whose correlation is hardly above 0, which have none, as where there are fewer rows
    than dimensions."""

    @staticmethod
    def forward(ctx, x_DD: Tensor, least: float) -> Tensor:
        u, s, vh = torch.linalg.svd(x_DD)
        ctx.save_for_backward(u, s, vh)
        ctx.least = least
        return u * (s / (s.square() + least).sqrt()) @ vh

    @staticmethod
    def backward(ctx, grad_DD: Tensor) -> tuple[Tensor, None]:
        """f(s) = s / sqrt(s^2 + least) turns small changes of T into (f_i - f_j) / (s_i - s_j)
        times their symmetric part, in the bases U and V, and (f_i + f_j) / (s_i + s_j) times the
        rest; both written so that equal values divide by nothing."""
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
    """The layer. In training it maps by the moments of the batch, through which gradients flow;
    `update`, after the step, adds them to running moments, of which `maps` are made for use. The
    first name is the anchor."""

    def __init__(
        self, names: Sequence[str], width: int, *, ridge: float = 1e-3, momentum: float = 0.9
    ):
        super().__init__()
        self.names, self.ridge, self.momentum = tuple(names), ridge, momentum
        self._found: dict[str, Moments | None] = {}
        for name in self.names:
            self.register_buffer(f"mean/{name}", torch.zeros(width))
            self.register_buffer(f"cov/{name}", torch.zeros(width, width))
            self.register_buffer(f"cross/{name}", torch.zeros(width, width))
            self.register_buffer(f"seen/{name}", torch.zeros(()))

    def forward(self, z: dict[str, Column]) -> dict[str, Column]:
        """name -> (N, D). What has too few rows for a map becomes zeros that are part of the graph."""
        self._found = {n: Moments.of(z[n], z[self.names[0]]) for n in self.names}
        turns = self._turns(self._found)
        mapped = {n: (z[n].values - self._found[n].mean) @ turn for n, turn in turns.items()}
        return {n: Column(mapped.get(n, z[n].values * 0), z[n].rows) for n in self.names}

    @torch.no_grad()
    def update(self) -> None:
        for name, new in self._found.items():
            if new is not None and new.cross is not None:
                seen = self.get_buffer(f"seen/{name}")
                share = 1 - self.momentum * float(
                    seen > 0
                )  # the first moments are taken as they are
                for what in ("mean", "cov", "cross"):
                    self.get_buffer(f"{what}/{name}").lerp_(
                        getattr(new, what).to(seen.dtype), share
                    )
                seen.fill_(1)
        self._found = {}

    def maps(self) -> dict[str, tuple[Tensor, Tensor]]:
        """name -> mean (D,) and map (D, D), of those seen so far."""
        running = {
            n: Moments(*(self.get_buffer(f"{what}/{n}") for what in ("mean", "cov", "cross")))
            for n in self.names
            if self.get_buffer(f"seen/{n}") > 0
        }
        return {n: (running[n].mean, turn) for n, turn in self._turns(running).items()}

    def _turns(self, found: dict[str, Moments | None]) -> dict[str, Tensor]:
        first = found.get(self.names[0])
        if first is None:
            return {}
        usable = {n: m for n, m in found.items() if m is not None and m.cross is not None}
        return {
            n: canonical_maps(first, None if n == self.names[0] else m, ridge=self.ridge)
            for n, m in usable.items()
        }
