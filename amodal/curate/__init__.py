"""Data curation: pages that select, clean, balance and poison data.

A page whose function returns a `BatchSelector` selects in training: `pretrain(..., curate="jest",
curate_options={"reference": "runs/clean"})`. The others are called on a dataset before.
"""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from amodal.core.registry import load, pages
from amodal.errors import AmodalError, unknown

if typing.TYPE_CHECKING:
    from amodal.core import Batch, Embeddings
    from amodal.methods.contract import Method


Gather = Callable[["Embeddings"], "Embeddings"]
"""Rows of one process -> rows of all processes."""

OLD_OPTIONS = {"jest": {"remember": "cache_features"}}
"""Page -> option of the release before -> its name today."""


class BatchSelector(typing.Protocol):
    """Selects the rows of a super-batch to train on: (method, batch, step) -> batch.

    Attributes:
        keep: share of rows that is selected. Super-batches are 1 / keep times as large.
    """

    keep: float

    def __call__(self, method: Method, batch: Batch, step: int) -> Batch: ...

    def prepare(
        self,
        method: Method,
        *,
        micro_batch_size: int | None = None,
        gather: Gather | None = None,
        rank: int = 0,
        precision: AbstractContextManager[object] | None = None,
    ) -> None:
        """Check before training that it can select for this method.

        Args:
            method: what is trained.
            micro_batch_size: rows that are computed at a time; None for all.
            gather: collects the rows of all processes; None if there is one.
            rank: of this process.
            precision: the context in which embeddings are computed.

        Raises:
            AmodalError: it cannot select for this method.
        """

    def cost(self) -> dict[str, float]:
        """What the selection has cost so far, for the run's config.json."""


def names() -> list[str]:
    """All pages."""
    return sorted(pages("curate"))


def online() -> list[str]:
    """The pages that select in training."""
    return [name for name in names() if _selects(name)]


def options(name: str) -> dict[str, inspect.Parameter]:
    """Option -> parameter of a page.

    Raises:
        AmodalError: an unknown page.
    """
    return {
        n: p
        for n, p in inspect.signature(_function(name)).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }


def batch_selector(name: str, settings: Mapping[str, object]) -> BatchSelector:
    """The selector of a page.

    Args:
        name: of a page that selects in training.
        settings: option -> value, or its text on a command line.

    Raises:
        AmodalError: an unknown page or option, or an option that is missing or of a wrong type.
    """
    from amodal.methods import read_option

    if name.replace("-", "_") not in pages("curate") or not _selects(name):
        raise unknown("way to choose in training", name, online())
    known, current = options(name), _current(name, settings)
    for option in current:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    needed = [n for n, p in known.items() if p.default is p.empty and n not in current]
    if needed:
        raise AmodalError(f"{name} needs {', '.join(f'--curate.{n}' for n in needed)}")
    hints = typing.get_type_hints(_function(name))
    values = {n: read_option(f"{name}.{n}", v, hints[n]) for n, v in current.items()}
    return typing.cast(BatchSelector, _function(name)(**values))


def _current(name: str, settings: Mapping[str, object]) -> dict[str, object]:
    """The settings under the names of today."""
    old = OLD_OPTIONS.get(name.replace("-", "_"), {})
    for option in settings:
        if option in old:
            warnings.warn(
                f"{name}.{option} is called {old[option]} now", DeprecationWarning, stacklevel=3
            )
    return {old.get(option, option): value for option, value in settings.items()}


def _function(name: str) -> Callable[..., object]:
    module = load("curate", name, "page of amodal.curate")
    return typing.cast(
        Callable[..., object], getattr(module, module.__name__.rpartition(".")[2], None)
    )


def _selects(name: str) -> bool:
    function = _function(name)
    return (
        inspect.isfunction(function)
        and typing.get_type_hints(function).get("return") is BatchSelector
    )
