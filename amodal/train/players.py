"""The optimizers of a method: one, or one for each player of a game such as a GAN."""

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
    """The optimizers of all players.

    Attributes:
        by_prefix: Prefix of the names of a player's loss terms -> its optimizer. The prefix is ""
            where there is only one.
    """

    def __init__(self, method: Method, recipe: Recipe):
        self.method, self.recipe = method, recipe
        make = partial(optim.make, recipe, method, lr_multipliers=method.lr_multipliers)
        if not isinstance(method, Optimizers):
            self.by_prefix: dict[str, torch.optim.Optimizer] = {"": make()}
            return
        self.by_prefix = dict(method.optimizers(lambda parameters: make(only=list(parameters))))
        self._check()

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        return list(self.by_prefix.values())

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """Prefix -> the parameters that its player changes."""
        return {
            prefix: [p for group in optimizer.param_groups for p in group["params"]]
            for prefix, optimizer in self.by_prefix.items()
        }

    def total_of(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum the loss terms of each player.

        Returns:
            Prefix -> scalar, of the players that have a term.

        Raises:
            AmodalError: If a term belongs to no player or to two.
        """
        players: dict[str, list[Tensor]] = {prefix: [] for prefix in self.by_prefix}
        for name, term in terms.items():
            prefixes = [prefix for prefix in players if name.startswith(prefix)]
            if len(prefixes) != 1:
                raise AmodalError(
                    f"the loss term {name!r} belongs to {len(prefixes)} players; its name must "
                    f"begin with one of {', '.join(map(repr, players))}"
                )
            players[prefixes[0]].append(term)
        return {prefix: torch.stack(found).sum() for prefix, found in players.items() if found}

    def set(self, lr: float, factor: float, weight_decay: float) -> None:
        """Set the learning rate (peak times factor) and the weight decay of the next step."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_multiplier"] * factor
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
                        f"{self._name(p)} is changed by two players, "
                        f"{owners[id(p)]!r} and {prefix!r}"
                    )
        unowned = [
            n for n, p in self.method.named_parameters() if p.requires_grad and id(p) not in owners
        ]
        if unowned:
            raise AmodalError(
                f"{unowned[0]} requires a gradient, and no player changes it; "
                "freeze it or give it to one"
            )

    def _name(self, parameter: Tensor) -> str:
        named: Iterable[tuple[str, Tensor]] = self.method.named_parameters()
        return next(name for name, p in named if p is parameter)
