"""The optimizers of a method: one, or one for each player of a game."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.core.protocols import Optimizers
from amodal.core.recipe import Recipe
from amodal.methods.contract import Method
from amodal.train import optim


class Players:
    """by_prefix: the beginning of the names of a player's loss terms -> its optimizer.

    "" where there is but one.
    """

    def __init__(self, method: Method, recipe: Recipe):
        self.method, self.recipe = method, recipe
        make = partial(optim.make, recipe, method, rates=method.lr_multipliers)
        if not isinstance(method, Optimizers):
            self.by_prefix: dict[str, torch.optim.Optimizer] = {"": make()}
            return
        self.by_prefix = dict(method.optimizers(lambda parameters: make(only=list(parameters))))
        self._check()

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        return list(self.by_prefix.values())

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """Prefix -> what its player changes."""
        return {
            prefix: [p for group in optimizer.param_groups for p in group["params"]]
            for prefix, optimizer in self.by_prefix.items()
        }

    def total_of(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Prefix -> the sum of its player's terms.

        Raises AmodalError for a term of none or of two players.
        """
        players: dict[str, list[Tensor]] = {prefix: [] for prefix in self.by_prefix}
        for name, term in terms.items():
            prefixes = [prefix for prefix in players if name.startswith(prefix)]
            if len(prefixes) != 1:
                raise AmodalError(
                    f"the loss term {name!r} belongs to {len(prefixes)} players; its name must "
                    "begin with one of "
                    f"{', '.join(map(repr, players))}"
                )
            players[prefixes[0]].append(term)
        return {prefix: torch.stack(own).sum() for prefix, own in players.items() if own}

    def set(self, lr: float, factor: float, weight_decay: float) -> None:
        """The learning rate, peak and factor, and the weight decay of the next step."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["times"] * factor
                group["weight_decay"] = weight_decay if group["decays"] else 0.0

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def _check(self) -> None:
        owners: dict[int, str] = {}
        for prefix, parameters in self.parameters().items():
            for p in parameters:
                if owners.setdefault(id(p), prefix) != prefix:
                    raise AmodalError(
                        f"{self._name(p)} is changed by two players, {owners[id(p)]!r} and {prefix!r}"
                    )
        idle = [
            n for n, p in self.method.named_parameters() if p.requires_grad and id(p) not in owners
        ]
        if idle:
            raise AmodalError(
                f"{idle[0]} learns, and no player changes it; freeze it or give it to one"
            )

    def _name(self, parameter: Tensor) -> str:
        named: Iterable[tuple[str, Tensor]] = self.method.named_parameters()
        return next(name for name, p in named if p is parameter)
