"""Dropout in the networks of an encoder, where BERT has it: of the input of a trunk, and of what
each half of a block adds.

Srivastava et al. 2014; Devlin et al. 2019, arXiv:1810.04805, section A.2. Masks follow from the
seeds of rows, so they are the same in a micro-batch, on other processes and after a resume. Two
views of a row have draws of their own. Networks that do not learn, such as a teacher's, drop
nothing.

A model of a library has dropout of its own, which is at rest (`Backbone`) until
`seed_dropout` has made it draw from the seeds of rows too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, name_code
from amodal.core.within import within
from amodal.masking.hashing import hash_bits, uniform
from amodal.nn.drop_path import Drop, check_rate, identity, row_and_source
from amodal.nn.dropout import seeded_dropout

Dropout = Callable[[Tensor, int], Tensor]
"""((T, D) hidden states, number of the place in the network) -> what is left of them."""

INPUT = 0
"""The number of the input of a trunk; block i has 1 + 2 i and 2 + 2 i."""
_SALT = name_code("hidden dropout")  # other draws than those of drop path

# Context variables, so that the modules between a method and a block need no argument for them.
_setting: ContextVar[tuple[float, Tensor] | None] = ContextVar("hidden_dropout", default=None)
_rows: ContextVar[tuple[Tensor, str] | None] = ContextVar("rows_of_values", default=None)


@contextmanager
def hidden_dropout(rate: float, seeds_B: Tensor) -> Iterator[None]:
    """Drop entries of hidden states in the trunks that are called within this context.

    Args:
        rate: Probability to drop an entry, from 0 to below 1; what stays is divided by 1 - rate.
        seeds_B: (B,) int64, the seeds of the rows.

    Raises:
        AmodalError: For a rate out of range.
    """
    check_rate("dropout", rate)
    with within(_setting, (rate, seeds_B) if rate else None):
        yield


def dropout_of(trunk: nn.Module, tokens: Tokens, order_T: Tensor | None) -> Dropout:
    """The dropout of a trunk under the current `hidden_dropout`.

    Args:
        trunk: A frozen one drops nothing.
        tokens: What enters it.
        order_T: (T,) the order in which the blocks see them; None for theirs.

    Raises:
        AmodalError: If the rows of the tokens are not those of the batch, and so have no seeds.
    """
    setting = _setting.get()
    if setting is None or not any(p.requires_grad for p in trunk.parameters()):
        return identity
    rate, seeds_B = setting
    row, source = row_and_source(tokens, len(seeds_B), "dropout")
    seed_T = hash_bits(seeds_B[row], _SALT, source, tokens.within())
    seed_T = seed_T if order_T is None else seed_T[order_T]
    return lambda x_TD, place: seeded_dropout(x_TD, seed_T, rate, place)


def then(dropout: Dropout, number: int, drop: Drop) -> Drop:
    """What is left of the update of a block after dropout, and then after drop path."""
    if dropout is identity:
        return drop
    return lambda update_TD, half: drop(dropout(update_TD, 1 + 2 * number + half), half)


@contextmanager
def rows_of_values(rows_N: Tensor, source: str) -> Iterator[None]:
    """Say of which rows the N values are that a model of a library reads within this context."""
    with within(_rows, (rows_N, source)):
        yield


@runtime_checkable
class HasDropout(Protocol):
    """A network whose own dropout can draw from the seeds of rows."""

    def let_dropout(self) -> int:
        """Let it drop entries within `hidden_dropout`; returns how many layers do."""
        ...


class SeededDropout(nn.Module):
    """Dropout in a model of a library, under the current `hidden_dropout` and at its rate.

    The first dimension of what it sees must be that of the values.

    Args:
        place: Its number in the model.
    """

    def __init__(self, place: int):
        super().__init__()
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) -> (N, …)."""
        setting, values = _setting.get(), _rows.get()
        # without rows the model reads an example, so that its parameters are part of the graph
        if setting is None or values is None or not len(values[0]):
            return x
        (rate, seeds_B), (rows_N, source) = setting, values
        if len(x) != len(rows_N):
            raise AmodalError(
                f"dropout in the backbone of {source} sees {len(x)} entries for {len(rows_N)} "
                "records, so it cannot draw by record; leave this backbone out"
            )
        draw = hash_bits(seeds_B[rows_N], _SALT, name_code(source), self.place)
        # one counter for each dimension, so that draws do not depend on the length of the padding
        for size in x.shape[1:-1]:
            draw = hash_bits(draw.unsqueeze(-1), torch.arange(size, device=x.device))
        stays = uniform(draw.unsqueeze(-1), torch.arange(x.shape[-1], device=x.device)) >= rate
        return x * (stays.to(x.dtype) / (1 - rate))


def seed_dropout(module: nn.Module) -> int:
    """Let the dropout of a model of a library draw from the seeds of rows.

    Args:
        module: It is changed.

    Returns:
        How many layers of it drop entries under `hidden_dropout` now.
    """
    found = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.Dropout, SeededDropout)):
                parent.register_module(name, SeededDropout(found))
                found += 1
    return found
