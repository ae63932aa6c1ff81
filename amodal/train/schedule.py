"""The learning rate and the weight decay of each step.

Functions of step and recipe, so that a run can resume anywhere.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from amodal.core.recipe import Recipe
from amodal.train import distributed
from amodal.train.loss_monitor import Numbers


@dataclass(frozen=True)
class Stages:
    """ends: the last step of each stage, 1, 2, …"""

    ends: tuple[int, ...]

    @staticmethod
    def of(shares: Sequence[float], steps: int) -> Stages:
        return Stages((*(max(1, round(share * steps)) for share in shares[:-1]), steps))

    def at(self, step: int) -> int:
        """The stage that step 1, 2, … belongs to."""
        return bisect.bisect_left(self.ends, step)

    def place(self, step: int) -> tuple[int, int]:
        """(step of its stage 0, 1, …, steps of that stage)."""
        stage = self.at(step)
        start = self.ends[stage - 1] if stage else 0
        return step - start - 1, self.ends[stage] - start


def warm_cosine(step: int, steps: int, *, warmup: int, floor: float = 0.01) -> float:
    """The learning rate's factor at step 0, 1, ….

    Up in a line, then down half a cosine to `floor`.
    """
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(steps - warmup, 1)
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def factor(recipe: Recipe, step: int, steps: int) -> float:
    """What the peak learning rate is multiplied by at step 0, 1, … of `steps`, but for a
    plateau.
    """
    warmup = recipe.warmup_of(steps)
    if recipe.schedule == "cosine":
        return warm_cosine(step, steps, warmup=warmup)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule == "step":
        return recipe.decay_rate ** sum(step >= share * steps for share in recipe.milestones)
    return 1.0


def weight_decay(recipe: Recipe, step: int, steps: int) -> float:
    """The weight decay of step 1, 2, … of all steps."""
    if recipe.weight_decay_end is None:
        return recipe.weight_decay
    share = (step - 1) / max(steps - 1, 1)
    end = recipe.weight_decay_end
    return end + (recipe.weight_decay - end) * (1 + math.cos(math.pi * share)) / 2


class Plateau:
    """Drops the learning rate when the mean loss between two entries of the log has not fallen
    `patience` times in a row.
    """

    def __init__(self, recipe: Recipe):
        self.recipe, self.active = recipe, recipe.schedule == "plateau"
        self.factor, self.best, self.waited = 1.0, math.inf, 0
        self.total, self.count = 0.0, 0
        self.unread: list[Numbers] = []

    def note(self, numbers: Numbers) -> None:
        """Take in a step without waiting for its loss."""
        if self.active:
            self.unread.append(numbers)

    def entry(self) -> None:
        """An entry of the log: judge the steps since the last one. Every process takes part."""
        if not self.active:
            return
        self._read()
        loss = float(distributed.mean(torch.tensor(self.total / self.count, dtype=torch.float64)))
        self.total, self.count = 0.0, 0
        self.waited = 0 if loss < self.best else self.waited + 1
        self.best = min(self.best, loss)
        if self.waited >= self.recipe.patience:
            self.factor, self.waited = self.factor * self.recipe.decay_rate, 0

    def _read(self) -> None:
        self.total += sum(numbers.loss for numbers in self.unread)
        self.count += len(self.unread)
        self.unread = []

    def state(self) -> dict[str, float]:
        """What a checkpoint holds of it."""
        if not self.active:
            return {}
        self._read()
        names = ("factor", "waited", "total", "count")
        best = {} if math.isinf(self.best) else {"best": self.best}
        return {name: getattr(self, name) for name in names} | best

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what `state` said."""
        if self.active:
            self.factor, self.waited = float(state["factor"]), int(state["waited"])
            self.total, self.count = float(state["total"]), int(state["count"])
            self.best = float(state.get("best", math.inf))
