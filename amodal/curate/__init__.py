"""What to train on: pages that choose, clean, balance and poison data.

A page whose function returns a `Choose` chooses in training: `pretrain(..., curate="jest",
curate_options={"reference": "runs/clean"})`. The others are called on a dataset before.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from contextlib import AbstractContextManager

from amodal.core.registry import load, pages
from amodal.errors import AmodalError, unknown

if typing.TYPE_CHECKING:
    from amodal.core import Batch, Embeddings
    from amodal.methods.contract import Method


Gather = Callable[["Embeddings"], "Embeddings"]


class Choose(typing.Protocol):
    """(method, batch, step) -> the rows of the batch to learn from. Batches are 1 / keep as large
    as those that are trained on."""

    keep: float

    def __call__(self, method: Method, batch: Batch, step: int) -> Batch: ...

    def prepare(
        self,
        method: Method,
        *,
        micro: int | None = None,
        gather: Gather | None = None,
        process: int = 0,
        precision: AbstractContextManager | None = None,
    ) -> None:
        """Before training: see that it can choose for this method, which computes `micro` rows at
        once, in the context `precision`. gather: the rows of all processes from those of one, of
        which this is number `process`; None where there is one."""

    def cost(self) -> dict[str, float]:
        """What choosing took so far, for the run's config.json."""


def names() -> list[str]:
    """The pages there are."""
    return sorted(pages("curate"))


def online() -> list[str]:
    """Those that choose in training."""
    return [name for name in names() if _chooses(name)]


def options(name: str) -> dict[str, inspect.Parameter]:
    return {
        n: p
        for n, p in inspect.signature(_function(name)).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }


def chooser(name: str, given: dict[str, object]) -> Choose:
    """The page's choice in training, with these options, which may be texts as a command line gives
    them."""
    from amodal.methods import read_option

    if name.replace("-", "_") not in pages("curate") or not _chooses(name):
        raise unknown("way to choose in training", name, online())
    known = options(name)
    for option in given:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    needed = [n for n, p in known.items() if p.default is p.empty and n not in given]
    if needed:
        raise AmodalError(f"{name} needs {', '.join(f'--curate.{n}' for n in needed)}")
    hints = typing.get_type_hints(_function(name))
    return _function(name)(**{n: read_option(f"{name}.{n}", v, hints[n]) for n, v in given.items()})


def _function(name: str) -> Callable:
    module = load("curate", name, "page of amodal.curate")
    return getattr(module, module.__name__.rpartition(".")[2], None)


def _chooses(name: str) -> bool:
    function = _function(name)
    return inspect.isfunction(function) and typing.get_type_hints(function).get("return") is Choose
