"""What a protocol is run on: embedded records, one label, and the run that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.evaluate.label_choice import LabelChoice
from amodal.inference.embed import Embedded, embed_values
from amodal.inference.forward_passes import AnyEncoder
from amodal.inference.heads import AnyHead


@runtime_checkable
class Run(Protocol):
    """A trained run, such as an `amodal.Model`, which evaluation may not import.

    Attributes:
        encoder: What embeds.
        config: What the run was made with.
        trained: Hashes of the keys that it was trained on, None if they are unknown.
        head: What predicts labels, if anything does.
    """

    @property
    def encoder(self) -> AnyEncoder: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def trained(self) -> np.ndarray | None: ...
    @property
    def head(self) -> AnyHead | None: ...


Pair = tuple[Embedded, Embedded]


class EmbeddedParts:
    """The embedded training and test records of one encoder, computed when first needed."""

    def __init__(self, make: Callable[[], Pair]):
        self._make = make

    @cached_property
    def pair(self) -> Pair:
        """Training and test records."""
        return self._make()

    @property
    def made(self) -> bool:
        """Whether they have been computed."""
        return "pair" in self.__dict__


@dataclass(frozen=True)
class Context:
    """One run of a protocol.

    Args:
        parts: The embedded training and test records, see `train` and `test`.
        label: The label to predict, None without one; "TIME,EVENT" for a survival time.
        options: The protocol's options as attributes, complete.
        seed: Of all that is random.
        model: What is evaluated: a Model, or an encoder.
        encoder: Its encoder, or the untrained one that is measured beside it.
        dataset: Where the records are.
        labels: All labels of this evaluation.
        first: Whether this is the first label. What depends on no label is measured for that one
            only.
        column: Of the report: "trained", "untrained", or what is measured beside these.
    """

    parts: EmbeddedParts
    label: str | None = None
    options: SimpleNamespace = field(default_factory=SimpleNamespace)
    seed: int = 0
    model: Run | AnyEncoder | None = None
    encoder: AnyEncoder | None = None
    dataset: Dataset | None = None
    labels: LabelChoice = field(default_factory=lambda: LabelChoice(()))
    first: bool = True
    column: str = "trained"

    @staticmethod
    def on(train: Embedded, test: Embedded, **more: Any) -> Context:
        """The context of records that are embedded already.

        Args:
            train: Training records.
            test: Test records.
            more: Other fields of the context.
        """
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
    def head(self) -> AnyHead | None:
        """What predicts labels in the run itself, None in a run without such a head."""
        return self.model.head if isinstance(self.model, Run) else None

    @property
    def labels_seen(self) -> bool:
        """Whether the run learnt from labels. Then nothing is tested on its training records."""
        config = self.model.config if isinstance(self.model, Run) else {}
        # configs of format 1 describe the head under `answers`; `nn.saved.saved_head` reads it
        return bool(config.get("answers") or config.get("options", {}).get("label"))

    def text_fields(self) -> list[str]:
        """The text fields of the encoder."""
        fields = self.encoder.fields if self.encoder is not None else {}
        return [name for name, modality in fields.items() if modality.takes_prompts]

    def text_field(self, name: str = "") -> str:
        """The text field called `name`, the first one for "".

        Raises:
            AmodalError: For a name that is no text field, and for an encoder without one.
        """
        have = self.text_fields()
        if not have:
            raise AmodalError("this encoder has no field of text")
        if name and name not in have:
            raise unknown("text field of this encoder", name, have)
        return name or have[0]

    def embed_text(self, sentences: Sequence[str], field: str = "") -> Tensor:
        """Embed sentences as values of a text field.

        Args:
            sentences: n sentences.
            field: The text field, the first one for "".

        Returns:
            (n, D) vectors of the aligned space.
        """
        name = self.text_field(field)
        assert self.encoder is not None, "it has the text field"
        return embed_values(self.encoder, name, list(sentences))
