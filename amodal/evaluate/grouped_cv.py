"""Repeated cross-validation that keeps groups (a patient, a surgeon, a day) on one side.

As in Gupta et al., ML4H 2024, arXiv:2411.10919: AUROC of a class-weighted probe of concatenated
vectors, its mean and spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, cast

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
    """Divide records into folds, with whole groups and balanced classes.

    Greedy: each group goes where it leaves the classes spread most evenly over the folds, the
    groups with the most uneven classes first. Ties are in an order drawn by the seed.

    Args:
        label_N: Classes.
        group_N: Groups.
        parts: How many folds.
        seed: Of the order.

    Returns:
        (N,) int64 fold of each record.

    Raises:
        AmodalError: For fewer than two folds, and for fewer groups than folds.
    """
    groups, group_index = np.unique(np.asarray(group_N).astype(str), return_inverse=True)
    classes, class_index = np.unique(np.asarray(label_N).astype(str), return_inverse=True)
    if len(groups) < parts or parts < 2:
        raise AmodalError(
            f"{parts} folds need at least as many groups, and there are {len(groups)} "
            "(and 2 folds or more)"
        )
    count = np.zeros((len(groups), len(classes)))
    np.add.at(count, (group_index, class_index), 1)
    # shares: a rare class is spread as carefully as a frequent one
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
    return placed[group_index]


@dataclass(frozen=True)
class GroupedScores:
    """AUROC of grouped cross-validation.

    Args:
        values: Of each fold that has both classes.
        repeats: The mean of each repetition.
    """

    values: tuple[float, ...]
    repeats: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over folds."""
        return mean(self.values)

    @property
    def std(self) -> float:
        """The standard deviation over folds, NaN for one."""
        return stdev(self.values) if len(self.values) > 1 else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean over repetitions (Student).

        Folds of one repetition share their training records. So it says how much the division
        matters, not how much other records would.
        """
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
) -> GroupedScores:
    """AUROC on each fold of a probe fitted to the others, for repeated divisions.

    Args:
        x_ND: Vectors.
        wanted_N: bool, the class.
        group_N: Groups.
        fit: The probe, see `probe`.
        parts: Folds. Those without both classes do not count.
        repeats: Divisions.
        seed: Of the divisions.

    Raises:
        AmodalError: If no fold has both classes.
    """
    wanted = np.asarray(wanted_N, dtype=bool)
    repetitions: list[list[float]] = []
    for r in range(repeats):
        scores = []
        for train, test in _splits(folds(wanted, group_N, parts, seed + r), parts):
            if 0 < wanted[test].sum() < len(test) and 0 < wanted[train].sum() < len(train):
                score = fit(x_ND[train], torch.from_numpy(wanted[train]))(x_ND[test])
                scores.append(auroc(score.detach().numpy(), wanted[test]))
        repetitions.append(scores)
    values = [score for scores in repetitions for score in scores]
    if not values:
        raise AmodalError("no fold has records of both kinds; take fewer folds")
    return GroupedScores(tuple(values), tuple(mean(scores) for scores in repetitions if scores))


def _splits(fold_N: np.ndarray, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    for k in range(parts):
        train, test = np.flatnonzero(fold_N != k), np.flatnonzero(fold_N == k)
        yield torch.from_numpy(train), torch.from_numpy(test)


def probe(
    *,
    hidden: int = 0,
    components: int = 0,
    weight_decay: float = 1e-2,
    steps: int = 60,
    seed: int = 0,
) -> Fit:
    """A logistic classifier, or a perceptron with one hidden layer, of standardised vectors.

    Both classes weigh the same. It is fitted by L-BFGS on all records at once.

    Args:
        hidden: Width of the hidden layer, 0 for none.
        components: Principal components that are used, 0 for all dimensions.
        weight_decay: Of the matrices.
        steps: Iterations of L-BFGS.
        seed: Of the initial weights.
    """

    def fit(x_ND: Tensor, wanted_N: Tensor) -> Callable[[Tensor], Tensor]:
        center, spread = x_ND.mean(0), x_ND.std(0).clamp(min=1e-6)
        turn = torch.eye(x_ND.shape[1])
        if 0 < components < min(x_ND.shape):
            v = torch.linalg.svd((x_ND - center) / spread, full_matrices=False)[2]
            turn = v[:components].T
            # each component of variance 1, so that the penalty is the same for all
            turn = turn / (((x_ND - center) / spread) @ turn).std(0).clamp(min=1e-6)

        def prepared(x: Tensor) -> Tensor:
            return ((x - center) / spread) @ turn

        # the random numbers of the caller stay as they are
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = turn.shape[1]
            net: nn.Module = nn.Linear(width, 1)
            if hidden:
                net = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        y, x = wanted_N.float(), prepared(x_ND)
        weight = (len(y) - y.sum()) / y.sum()
        optimizer = torch.optim.LBFGS(
            net.parameters(), max_iter=steps, line_search_fn="strong_wolfe"
        )

        matrices = [p for n, p in net.named_parameters() if n.endswith("weight")]

        def loss() -> Tensor:
            optimizer.zero_grad()
            entropy = binary_cross_entropy_with_logits(net(x).squeeze(1), y, pos_weight=weight)
            total = entropy + weight_decay * sum(p.square().sum() for p in matrices) / 2
            torch.autograd.backward(total)
            return total

        cast(Any, optimizer).step(loss)  # torch's LBFGS has no types

        def score(x_ND: Tensor) -> Tensor:
            logits: Tensor = net(prepared(x_ND))
            return logits.squeeze(1).detach()

        return score

    return fit


def side_by_side(vectors: Sequence[Tensor]) -> Tensor:
    """Concatenate the vectors of all fields.

    Each is standardised and divided by the root of its width, so that no field counts more because
    it is wide or large.

    Args:
        vectors: (N, D) of each field.

    Returns:
        (N, sum of D).
    """
    scaled = [(x - x.mean(0)) / x.std(0).clamp(min=1e-6) / x.shape[1] ** 0.5 for x in vectors]
    return torch.cat(scaled, 1)
