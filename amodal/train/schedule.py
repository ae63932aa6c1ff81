"""The learning rate and weight decay of each step, as functions of step and recipe.

So a run can resume anywhere.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from amodal.core import AmodalError
from amodal.core.protocols import Staged
from amodal.core.recipe import Recipe
from amodal.methods.contract import Method
from amodal.train import distributed
from amodal.train.loss_monitor import StepLosses


@dataclass(frozen=True)
class Stages:
    """The stages of a run.

    Args:
        ends: The last step of each stage, counted from 1.
    """

    ends: tuple[int, ...]

    @staticmethod
    def of(shares: Sequence[float], steps: int) -> Stages:
        """Stages that end at these shares of the steps."""
        # the last stage ends with the run, whatever rounding does
        return Stages((*(max(1, round(share * steps)) for share in shares[:-1]), steps))

    def stage_of(self, step: int) -> int:
        """The stage 0, 1, … of a step 1, 2, …"""
        return bisect.bisect_left(self.ends, step)

    def position(self, step: int) -> tuple[int, int]:
        """(number of the step in its stage, from 0; steps of that stage)."""
        stage = self.stage_of(step)
        start = self.ends[stage - 1] if stage else 0
        return step - start - 1, self.ends[stage] - start


def stages_of(method: Method, recipe: Recipe) -> Sequence[float]:
    """Where stages end, as shares of the steps.

    Raises:
        AmodalError: If the recipe has another number of stages than the method.
    """
    shares = method.stages if isinstance(method, Staged) else (1.0,)
    if recipe.stages is None:
        return shares
    if len(recipe.stages) != len(shares):
        raise AmodalError(
            f"stages has {len(recipe.stages)} shares, "
            f"and this method learns in {len(shares)} stages"
        )
    return recipe.stages


def start_stage(method: Method, stage: int) -> None:
    """Call `on_stage_start` of a method that learns in stages."""
    if isinstance(method, Staged):
        method.on_stage_start(stage)


def warmup_cosine(step: int, steps: int, *, warmup: int, floor: float = 0.01) -> float:
    """The factor of the learning rate at step 0, 1, …: linear warm-up, half a cosine to `floor`.

    floor + (1 - floor) (1 + cos(pi t)) / 2, where t rises from 0 to 1 after the warm-up (SGDR,
    Loshchilov & Hutter 2017). A floor of a hundredth, so that the last steps still move, is a
    choice by convention and not measured.
    """
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(steps - warmup, 1)
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def factor(recipe: Recipe, step: int, steps: int) -> float:
    """The factor of the peak learning rate at step 0, 1, … of `steps`, without plateaus."""
    warmup = recipe.warmup_of(steps)
    if recipe.schedule == "cosine":
        return warmup_cosine(step, steps, warmup=warmup)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule == "linear":
        return (steps - step) / max(steps - warmup, 1)
    if recipe.schedule == "step":
        return recipe.decay_rate ** sum(step >= share * steps for share in recipe.milestones)
    if recipe.schedule == "wsd":
        start = branch_of(recipe, steps)
        return 1 - math.sqrt(max(step - start, 0) / (steps - start))
    return 1.0


def branch_of(recipe: Recipe, steps: int) -> int:
    """The steps in which a run of `steps` does the same as any longer one.

    The rate of `wsd` is constant until its last part, and falls there by 1 - sqrt(t) (Hägele et al.
    2024, arXiv:2405.18392, for which this and a fifth of the steps did best).
    """
    return steps - recipe.decay_of(steps) if recipe.schedule == "wsd" else steps


def weight_decay(recipe: Recipe, step: int, steps: int) -> float:
    """The weight decay of step 1, 2, … of all steps: a half cosine to `weight_decay_end`."""
    if recipe.weight_decay_end is None:
        return recipe.weight_decay
    share = (step - 1) / max(steps - 1, 1)
    end = recipe.weight_decay_end
    return end + (recipe.weight_decay - end) * (1 + math.cos(math.pi * share)) / 2


class Plateau:
    """Lowers the learning rate when the loss stops falling.

    It looks at the mean loss between two entries of the log. After `patience` intervals in a row
    without a new minimum, the rate is multiplied by `decay_rate`.

    Attributes:
        factor: What the learning rate is multiplied by now.
    """

    def __init__(self, recipe: Recipe):
        self.recipe, self.active = recipe, recipe.schedule == "plateau"
        self.factor, self.best, self.bad_intervals = 1.0, math.inf, 0
        self.total, self.count = 0.0, 0
        self.pending: list[StepLosses] = []

    def update(self, step_losses: StepLosses) -> None:
        """Add a step, without waiting for its loss."""
        if self.active:
            self.pending.append(step_losses)

    def end_interval(self) -> None:
        """Compare the steps since the last entry of the log. Every process must call it."""
        if not self.active:
            return
        self._read()
        loss = float(distributed.mean(torch.tensor(self.total / self.count, dtype=torch.float64)))
        self.total, self.count = 0.0, 0
        self.bad_intervals = 0 if loss < self.best else self.bad_intervals + 1
        self.best = min(self.best, loss)
        if self.bad_intervals >= self.recipe.patience:
            self.factor, self.bad_intervals = self.factor * self.recipe.decay_rate, 0

    def _read(self) -> None:
        self.total += sum(step_losses.loss for step_losses in self.pending)
        self.count += len(self.pending)
        self.pending = []

    def state(self) -> dict[str, float]:
        """Its entry in a checkpoint."""
        if not self.active:
            return {}
        self._read()
        state = {
            "factor": self.factor,
            "waited": self.bad_intervals,
            "total": self.total,
            "count": self.count,
        }
        # JSON has no infinity
        return state if math.isinf(self.best) else state | {"best": self.best}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from a `state`."""
        if self.active:
            self.factor, self.bad_intervals = float(state["factor"]), int(state["waited"])
            self.total, self.count = float(state["total"]), int(state["count"])
            self.best = float(state.get("best", math.inf))
