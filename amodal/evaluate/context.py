"""What a protocol is run on: embedded records, one label, and the run that they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.evaluate.label_choice import LabelChoice
from amodal.inference.embed import Embedded, embed_values

Pair = tuple[Embedded, Embedded]


class EmbeddedParts:
    """The embedded training and test records of one encoder, made when they are first read."""

    def __init__(self, make: Callable[[], Pair]):
        self._make = make

    @cached_property
    def pair(self) -> Pair:
        return self._make()

    @property
    def made(self) -> bool:
        return "pair" in self.__dict__


@dataclass(frozen=True)
class Context:
    """One run of a protocol.

    Args:
        parts: the embedded training and test records, read by `train` and `test`.
        label: the label to predict, None without one; of a survival time "TIME,EVENT".
        options: the protocol's options as attributes, all filled in.
        seed: of everything that is drawn.
        model: what is evaluated: a Model, or an encoder.
        encoder: its encoder, or the untrained one that is measured beside it.
        dataset: the records that `train` and `test` are of.
        labels: all labels of this evaluation.
        first: whether this is the first label, so that what depends on no label is measured once.
    """

    parts: EmbeddedParts
    label: str | None = None
    options: SimpleNamespace = field(default_factory=SimpleNamespace)
    seed: int = 0
    model: Any = None
    encoder: Any = None
    dataset: Dataset | None = None
    labels: LabelChoice = field(default_factory=lambda: LabelChoice(()))
    first: bool = True

    @staticmethod
    def on(train: Embedded, test: Embedded, **more: Any) -> Context:
        """The context of records that are embedded already; `more` are fields of the context."""
        return Context(EmbeddedParts(lambda: (train, test)), **more)

    @property
    def train(self) -> Embedded:
        """The embedded training records."""
        return self.parts.pair[0]

    @property
    def test(self) -> Embedded:
        """The embedded test records, none of which the model was trained on."""
        return self.parts.pair[1]

    @property
    def head(self) -> Any:
        """What predicts labels in the run itself, None in a run that learnt none."""
        return getattr(self.model, "head", None)

    @property
    def labels_seen(self) -> bool:
        """Whether the run learnt from labels, so that nothing may be judged on its training
        records."""
        config = getattr(self.model, "config", {})
        return bool(config.get("answers") or config.get("options", {}).get("label"))

    def text_fields(self) -> list[str]:
        """The fields of text that the encoder has."""
        return [name for name, m in getattr(self.encoder, "fields", {}).items() if m.takes_prompts]

    def text_field(self, name: str = "") -> str:
        """The field of text called `name`, the first one for "". Raises AmodalError for a name that
        is none."""
        have = self.text_fields()
        if not have:
            raise AmodalError("this encoder has no field of text")
        if name and name not in have:
            raise unknown("text field of this encoder", name, have)
        return name or have[0]

    def embed_text(self, sentences: Sequence[str], field: str = "") -> Tensor:
        """(n, D) vectors of sentences in the aligned space, as values of the text field `field`
        (the first for "")."""
        return embed_values(self.encoder, self.text_field(field), list(sentences))
