"""Cross-validation in which no group (a patient, a surgeon, a day) is on both sides, repeated, and
a probe of vectors of several fields.

As in Gupta et al., ML4H 2024, arXiv:2411.10919: AUROC of a class-weighted probe of concatenated
vectors, its mean and spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from amodal.core import AmodalError
from amodal.stats.auroc import auroc
from amodal.stats.interval import half_width

Fit = Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]
"""(vectors (N, D), bool (N,)) -> a scorer of vectors."""


def folds(label_N: np.ndarray, group_N: np.ndarray, parts: int, seed: int = 0) -> np.ndarray:
    """(N,) int64, the fold of each record: groups stay whole, and each goes where it leaves the
    classes spread most evenly over the folds, the groups in which classes differ most first (ties
    in the order of a draw by the seed). Raises AmodalError for too few groups."""
    groups, of = np.unique(np.asarray(group_N).astype(str), return_inverse=True)
    classes, which = np.unique(np.asarray(label_N).astype(str), return_inverse=True)
    if len(groups) < parts or parts < 2:
        raise AmodalError(
            f"{parts} folds need at least as many groups, and there are {len(groups)} (and 2 folds or more)"
        )
    count = np.zeros((len(groups), len(classes)))
    np.add.at(count, (of, which), 1)
    share, fold = count / count.sum(0), np.zeros((parts, len(classes)))
    drawn = np.random.default_rng(seed).permutation(len(groups))
    placed = np.zeros(len(groups), dtype=np.int64)
    for g in drawn[np.argsort(-count[drawn].std(1), kind="stable")]:
        uneven = [
            (np.delete(fold, k, 0).tolist() + [(fold[k] + share[g]).tolist()]) for k in range(parts)
        ]
        score = [
            (float(np.std(np.array(u), axis=0).mean()), float(fold[k].sum()))
            for k, u in enumerate(uneven)
        ]
        placed[g] = min(range(parts), key=score.__getitem__)
        fold[placed[g]] += share[g]
    return placed[of]


@dataclass(frozen=True)
class Grouped:
    """AUROC of each fold of each repetition that has both classes."""

    values: tuple[float, ...]
    repeats: tuple[float, ...]

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def std(self) -> float:
        return stdev(self.values) if len(self.values) > 1 else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean over repetitions (Student). Folds of one repetition share their
        training records, so that it says how much the division matters, and not how much other
        records would."""
        half = half_width(self.repeats)
        return mean(self.repeats) - half, mean(self.repeats) + half


def grouped(
    x_ND: Tensor,
    wanted_N: np.ndarray,
    group_N: np.ndarray,
    *,
    fit: Fit,
    parts: int = 5,
    repeats: int = 5,
    seed: int = 0,
) -> Grouped:
    """AUROC on each fold of a probe fitted on the others, for `repeats` divisions. Folds without
    both classes do not count."""
    wanted, values, each = np.asarray(wanted_N, dtype=bool), [], []
    for train, test in _divisions(wanted, group_N, parts, repeats, seed):
        if train is None:
            each.append([])
        elif 0 < wanted[test].sum() < len(test) and 0 < wanted[train].sum() < len(train):
            score = fit(x_ND[train], torch.from_numpy(wanted[train]))(x_ND[test])
            each[-1].append(auroc(score.detach().numpy(), wanted[test]))
            values.append(each[-1][-1])
    if not values:
        raise AmodalError("no fold has records of both kinds; take fewer folds")
    return Grouped(tuple(values), tuple(mean(e) for e in each if e))


def _divisions(wanted, group_N, parts, repeats, seed) -> Iterator[tuple]:
    for r in range(repeats):
        yield None, None
        place = folds(wanted, group_N, parts, seed + r)
        for k in range(parts):
            yield (
                torch.from_numpy(np.flatnonzero(place != k)),
                torch.from_numpy(np.flatnonzero(place == k)),
            )


def probe(
    *, hidden: int = 0, keep: int = 0, decay: float = 1e-2, steps: int = 60, seed: int = 0
) -> Fit:
    """A logistic classifier, or a perceptron with a hidden layer of `hidden`, of standardised
    vectors; both classes weigh the same. keep: of how many principal components, 0 for all
    dimensions. Fitted on everything at once by limited-memory BFGS with weight decay."""

    def fit(x_ND: Tensor, wanted_N: Tensor) -> Callable[[Tensor], Tensor]:
        center, spread = x_ND.mean(0), x_ND.std(0).clamp(min=1e-6)
        turn = torch.eye(x_ND.shape[1])
        if 0 < keep < min(x_ND.shape):
            turn = torch.linalg.svd((x_ND - center) / spread, full_matrices=False)[2][:keep].T
            turn = turn / (((x_ND - center) / spread) @ turn).std(0).clamp(min=1e-6)
        prepared = lambda x: ((x - center) / spread) @ turn  # noqa: E731
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = turn.shape[1]
            net = (
                nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1))
                if hidden
                else nn.Linear(width, 1)
            )
        y, x = wanted_N.float(), prepared(x_ND)
        weight = (len(y) - y.sum()) / y.sum()
        optimizer = torch.optim.LBFGS(
            net.parameters(), max_iter=steps, line_search_fn="strong_wolfe"
        )

        def loss():
            optimizer.zero_grad()
            entropy = binary_cross_entropy_with_logits(net(x).squeeze(1), y, pos_weight=weight)
            total = (
                entropy
                + decay
                * sum(p.square().sum() for n, p in net.named_parameters() if n.endswith("weight"))
                / 2
            )
            total.backward()
            return total

        optimizer.step(loss)
        return lambda x: net(prepared(x)).squeeze(1).detach()

    return fit


def side_by_side(vectors: Sequence[Tensor]) -> Tensor:
    """(N, sum of D): each field's vectors, standardised, so that none counts for more because it is
    wide or large."""
    scaled = [(x - x.mean(0)) / x.std(0).clamp(min=1e-6) / x.shape[1] ** 0.5 for x in vectors]
    return torch.cat(scaled, 1)
