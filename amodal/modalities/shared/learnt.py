"""What modalities have whose tokens are learnt from the training part of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from amodal.modalities.shared.base import Modality, Raw

LEARNT = {"learnt": True}
"""Metadata of a dataclass field that a run fills: nobody writes it into a dataset.toml."""


@runtime_checkable
class LearnsTokens(Protocol):
    """A modality whose tokens are learnt.

    Attributes:
        learns_tokens: whether they are to be learnt, and have not been.
    """

    @property
    def learns_tokens(self) -> bool: ...

    def learn_tokens(self, raws: Iterable[Raw]) -> str:
        """What is learnt of training values, the same from the same values in the same order; ""
        if they are too few."""
        ...

    def with_learnt(self, learnt: str) -> Modality:
        """The modality with what was learnt."""
        ...

    def with_tokens(self, tokens: str) -> Modality:
        """The modality with another kind of tokens, unless it has learnt some already."""
        ...

    def tokens_note(self) -> str:
        """What was learnt in a few words, for the start of a run; "" for tokens of another kind."""
        ...

    def tokenizer_json(self) -> str:
        """What was learnt as the file of another library; "" if nothing was."""
        ...


@runtime_checkable
class HasWords(Protocol):
    """A modality whose tokens are parts of words."""

    def words(self, values: Any) -> Tensor:
        """(T,) int64, on the CPU: the number of the word of each token, in its value."""
        ...
