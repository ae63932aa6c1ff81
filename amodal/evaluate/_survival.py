"""How long until an event, when for some only a lower bound is known: Cox regression with a ridge penalty, and concordance.

Cox 1972, with Breslow's 1974 treatment of ties; Harrell et al. 1982 for the index.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

PENALTIES = (1e0, 1e1, 1e2, 1e3, 1e4)
"""Half the penalty times the squared weights is added to the log likelihood summed over events, for features of unit variance."""


def concordance(risk_N: np.ndarray, time_N: np.ndarray, event_N: np.ndarray) -> float:
    """Harrell's C: of the pairs whose order in time is known (the earlier of the two had the event, or one had it when the other was last
    seen without it), the share in which the earlier has the higher risk; ties of risk count half. .5 by chance. NaN if no pair can be
    compared. Agrees with `concordance_index_censored` of scikit-survival."""
    event_N = event_N.astype(bool)
    later = (time_N[:, None] < time_N) | (time_N[:, None] == time_N) & ~event_N
    known = event_N[:, None] & later
    higher = (risk_N[:, None] > risk_N) + 0.5 * (risk_N[:, None] == risk_N)
    return float(higher[known].mean()) if known.any() else float("nan")


def cox(x_ND: Tensor, time_N: Tensor, event_N: Tensor, penalty: float, *, steps: int = 30) -> Tensor:
    """Weights (D,) float64 that maximise Breslow's partial log likelihood minus penalty / 2 |w|^2, by Newton's method with halved steps."""
    x, w = x_ND.double(), torch.zeros(x_ND.shape[1], dtype=torch.float64)
    value = partial_likelihood(x @ w, time_N, event_N) - penalty / 2 * w.square().sum()
    for _ in range(steps):
        gradient, curvature = _derivatives(x, x @ w, time_N, event_N)
        step = torch.linalg.solve(curvature + penalty * torch.eye(len(w), dtype=w.dtype), gradient - penalty * w)
        for _ in range(20):
            new = partial_likelihood(x @ (w + step), time_N, event_N) - penalty / 2 * (w + step).square().sum()
            if new >= value:
                break
            step = step / 2
        else:
            return w
        w, gain, value = w + step, float(new - value), new
        if gain < 1e-9:
            return w
    return w


def partial_likelihood(risk_N: Tensor, time_N: Tensor, event_N: Tensor) -> Tensor:
    """Breslow's partial log likelihood: over events, risk_i - log sum of exp(risk_j) over those still there at time_i."""
    there = time_N[None] >= time_N[:, None]
    log_sum = risk_N.double()[None].masked_fill(~there, -torch.inf).logsumexp(1)
    return ((risk_N.double() - log_sum) * event_N.double()).sum()


def _derivatives(x: Tensor, risk: Tensor, time: Tensor, event: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the partial log likelihood, and minus its Hessian."""
    there = time[None] >= time[:, None]
    weight = risk[None].masked_fill(~there, -torch.inf).softmax(1)[event.bool()]  # (events, N)
    mean = weight @ x
    gradient = (x[event.bool()] - mean).sum(0)
    return gradient, (weight.sum(0)[:, None] * x).T @ x - mean.T @ mean


def survival(
    train: tuple[Tensor, np.ndarray, np.ndarray],
    test: tuple[Tensor, np.ndarray, np.ndarray],
    *,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """C of the test records, from a Cox regression on the training ones whose penalty has the best held-out partial likelihood (that of
    everybody minus that of the training folds: Verweij and van Houwelingen 1993). train, test: features (N, D), times, events."""
    x, time, event = train[0].double(), torch.from_numpy(train[1]).double(), torch.from_numpy(train[2]).double()
    mean, spread = x.mean(0), x.std(0, correction=0)
    kept = spread > 1e-6 * spread.max()
    x, unseen = (((v.double() - mean) / spread)[:, kept] for v in (x, test[0]))
    fold = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)) % folds

    def held_out(penalty: float) -> float:
        total = 0.0
        for f in range(folds):
            rest = fold != f
            w = cox(x[rest], time[rest], event[rest], penalty)
            inside = partial_likelihood(x[rest] @ w, time[rest], event[rest])
            total += float(partial_likelihood(x @ w, time, event) - inside)
        return total

    w = cox(x, time, event, max(penalties, key=held_out))
    return concordance((unseen @ w).numpy(), test[1], test[2])
