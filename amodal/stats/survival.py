"""Survival analysis: Cox regression with a ridge penalty, Kaplan-Meier curves, the log-rank test,
and concordance.

Cox 1972, with Breslow's 1974 treatment of ties and his baseline; Kaplan and Meier 1958; Mantel 1966
for the test; Harrell et al. 1982 for the index.

Ours: scikit-survival agrees (tests compare them), but its licence is the GPL and it brings solvers
that nothing else here needs; torchsurv has losses and scores, and no fit with a penalty. The
log-rank test is scipy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PENALTIES = (1e0, 1e1, 1e2, 1e3, 1e4)
"""Half the penalty times the squared weights is added to the log likelihood summed over events, for
features of unit variance."""


def concordance(risk_N: np.ndarray, time_N: np.ndarray, event_N: np.ndarray) -> float:
    """Harrell's C, .5 by chance. Agrees with `concordance_index_censored` of scikit-survival.

    It is the share of pairs in which the earlier one has the higher risk, ties of risk counted
    half. Pairs count whose order in time is known: the earlier had the event, or one had it when
    the other was last seen without it.

    Args:
        risk_N: Predicted risks.
        time_N: Times.
        event_N: Whether the event came at that time.

    Returns:
        0 to 1, NaN if no pair can be compared.
    """
    event_N = event_N.astype(bool)
    # last seen at the same time without the event is later, as the event is still to come
    later = (time_N[:, None] < time_N) | (time_N[:, None] == time_N) & ~event_N
    known = event_N[:, None] & later
    higher = (risk_N[:, None] > risk_N) + 0.5 * (risk_N[:, None] == risk_N)
    return float(higher[known].mean()) if known.any() else float("nan")


def cox(
    x_ND: Tensor, time_N: Tensor, event_N: Tensor, penalty: float, *, steps: int = 30
) -> Tensor:
    """Weights (D,) float64 that maximise Breslow's partial log likelihood minus penalty / 2 |w|^2.

    Newton's method with halved steps.

    Args:
        x_ND: Features.
        time_N: Times.
        event_N: Whether the event came at that time.
        penalty: See above.
        steps: Iterations at most.
    """
    x, w = x_ND.double(), torch.zeros(x_ND.shape[1], dtype=torch.float64)
    value = partial_likelihood(x @ w, time_N, event_N) - penalty / 2 * w.square().sum()
    for _ in range(steps):
        gradient, curvature = _derivatives(x, x @ w, time_N, event_N)
        step: Tensor = torch.linalg.solve(
            curvature + penalty * torch.eye(len(w), dtype=w.dtype), gradient - penalty * w
        )
        for _ in range(20):
            new = (
                partial_likelihood(x @ (w + step), time_N, event_N)
                - penalty / 2 * (w + step).square().sum()
            )
            if new >= value:
                break
            step = step / 2
        # no step raises the value: the maximum, as far as rounding lets one see
        else:
            return w
        gain = float(new - value)
        w, value = w + step, new
        if gain < 1e-9:
            break
    return w


def partial_likelihood(risk_N: Tensor, time_N: Tensor, event_N: Tensor) -> Tensor:
    """Breslow's partial log likelihood.

    The sum over events of risk_i - log sum of exp(risk_j) over those at risk at time_i.
    """
    order, last = _falling(time_N)
    risk = risk_N.double()[order]
    log_sum = risk.logcumsumexp(0)[last]
    likelihood: Tensor = ((risk - log_sum) * event_N.double()[order]).sum()
    return likelihood


def _falling(time: Tensor) -> tuple[Tensor, Tensor]:
    """Records by falling times, and the end of each one's risk set among them.

    The set is all records before it, and those of its own time.
    """
    order = time.argsort(descending=True, stable=True)
    falling = time[order]
    return order, torch.searchsorted(-falling, -falling, right=True) - 1


def _derivatives(x: Tensor, risk: Tensor, time: Tensor, event: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the partial log likelihood, and minus its Hessian."""
    order, last = _falling(time)
    x, risk, event = x[order], risk[order], event[order].bool()
    level = risk.max()  # for exp; it cancels
    weight = (risk - level).exp()
    total, moment = weight.cumsum(0)[last][event], (weight[:, None] * x).cumsum(0)[last][event]
    mean = moment / total[:, None]
    # how much of all events' risk sets each record is: those that end where it stands, or later
    share = (
        torch.zeros_like(risk).index_add(0, last[event], 1 / total).flip(0).cumsum(0).flip(0)
        * weight
    )
    return (x[event] - mean).sum(0), (share[:, None] * x).T @ x - mean.T @ mean


def kaplan_meier(
    time_N: np.ndarray,
    event_N: np.ndarray,
    query_T: np.ndarray,
    weight_N: np.ndarray | None = None,
    *,
    censoring: bool = False,
) -> np.ndarray:
    """The Kaplan-Meier estimate of the share without the event.

    Args:
        time_N: Times.
        event_N: Whether the event came at that time.
        query_T: Times that the curve is read after.
        weight_N: Weights of the records, 1 unless given.
        censoring: The curve of censoring instead: the share still observed. Those who have the
            event at a time are no longer at risk of censoring then.

    Returns:
        (T,)
    """
    event, weight = event_N.astype(bool), np.ones(len(time_N)) if weight_N is None else weight_N
    times, place = np.unique(time_N, return_inverse=True)
    came, censored = (np.bincount(place, weight * which, len(times)) for which in (event, ~event))
    at_risk = (came + censored)[::-1].cumsum()[::-1].astype(np.float64)
    if censoring:
        at_risk, came = at_risk - came, censored
    hazard = np.divide(came, at_risk, out=np.zeros_like(at_risk), where=at_risk > 0)
    curve = np.concatenate([[1.0], np.cumprod(1 - hazard)])
    return curve[np.searchsorted(times, query_T, side="right")]


def log_rank(time_N: np.ndarray, event_N: np.ndarray, second_N: np.ndarray) -> tuple[float, float]:
    """The log-rank test: whether a second group has the event as the others do (Mantel 1966).

    Args:
        time_N: Times.
        event_N: Whether the event came at that time.
        second_N: bool, who is in the second group.

    Returns:
        Chi-squared with one degree of freedom, and p; (0, 1) without events or without one group.
    """
    from scipy.stats import CensoredData, logrank  # takes half a second to import

    event, second = event_N.astype(bool), second_N.astype(bool)
    groups = (
        CensoredData(time_N[members & event], right=time_N[members & ~event])
        for members in (second, ~second)
    )
    with np.errstate(invalid="ignore"):
        result = logrank(*groups)
    if not np.isfinite(result.statistic):
        return 0.0, 1.0
    return float(result.statistic**2), float(result.pvalue)


Patients = tuple[Tensor, np.ndarray, np.ndarray]
"""Features (N, D), times, events."""


@dataclass(frozen=True)
class CoxModel:
    """A fitted Cox regression with Breslow's baseline.

    Args:
        mean: (D,) of the features.
        spread: (D,) their standard deviations.
        varying: (D,) bool, the features that vary.
        w: Weights of these.
        times: Times of events, ascending.
        hazard: Cumulative hazard of a record of risk 0, after each of `times`.
    """

    mean: Tensor
    spread: Tensor
    varying: Tensor
    w: Tensor
    times: np.ndarray
    hazard: np.ndarray

    def risk(self, x_ND: Tensor) -> np.ndarray:
        """(N,) log hazards of (N, D) features."""
        x = ((x_ND.double() - self.mean) / self.spread)[:, self.varying]
        return (x @ self.w).numpy()

    def curves(self, risk_N: np.ndarray, query_T: np.ndarray) -> np.ndarray:
        """(N, T) probability to be without the event after each time.

        Args:
            risk_N: Log hazards.
            query_T: Times.
        """
        place = np.searchsorted(self.times, query_T, side="right")
        hazard = np.concatenate([[0.0], self.hazard])[place]
        curves: np.ndarray = np.exp(-np.exp(np.clip(risk_N, -50, 50))[:, None] * hazard)
        return curves


def fit_cox(
    train: Patients, *, penalties: Sequence[float] = PENALTIES, folds: int = 5, seed: int = 0
) -> CoxModel:
    """Fit a Cox regression whose penalty has the best cross-validated partial likelihood.

    The held-out likelihood is that of everybody minus that of the training folds (Verweij and van
    Houwelingen 1993).

    Args:
        train: Features, times, events.
        penalties: To choose from.
        folds: Of the cross-validation.
        seed: Of the folds.
    """
    x, time, event = train[0].double(), *(torch.from_numpy(y).double() for y in train[1:])
    mean, spread = x.mean(0), x.std(0, correction=0)
    varying = spread > 1e-6 * spread.max()
    x, basis = _row_space(((x - mean) / spread)[:, varying])
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
    return CoxModel(mean, spread, varying, basis @ w, *_baseline(x @ w, time, event))


def _row_space(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, R) in an orthonormal basis (D, R) of what they span, R at most N.

    A ridge penalty does not change under rotation, and its weights lie in that span, so what is
    fitted there is the same; Newton's steps cost R^3 in place of D^3.
    """
    if x_ND.shape[1] <= len(x_ND):
        return x_ND, torch.eye(x_ND.shape[1], dtype=x_ND.dtype)
    left, sizes, right = torch.linalg.svd(x_ND, full_matrices=False)
    return left * sizes, right.T


def _baseline(risk: Tensor, time: Tensor, event: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Times of events, ascending, and Breslow's cumulative hazard after each."""
    order, last = _falling(time)
    log_at_risk = risk[order].logcumsumexp(0)[last]
    came = event[order].bool()
    times, place = np.unique(time[order][came].numpy(), return_inverse=True)
    return times, np.bincount(place, (-log_at_risk[came]).exp().numpy(), len(times)).cumsum()


def survival(
    train: Patients,
    test: Patients,
    *,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """Harrell's C of the test records, from the Cox regression fitted to the training records.

    Args:
        train: Features, times, events.
        test: The same.
        penalties: See `fit_cox`.
        folds: See `fit_cox`.
        seed: See `fit_cox`.
    """
    model = fit_cox(train, penalties=penalties, folds=folds, seed=seed)
    return concordance(model.risk(test[0]), test[1], test[2])
