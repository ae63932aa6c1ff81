"""What a rule of selection gets, and what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.modalities import BadValue
from amodal.modalities.shared.protocols import Readable, is_pixel_map
from amodal.selection.chunks import Chunks, Rows

if TYPE_CHECKING:
    from amodal.model import Model


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the rules.

    Args:
        field: That a rule of one field reads.
        fields: That a rule of pairs compares; all pairs unless set.
        like: Texts of a domain, or data of it.
        over: What is balanced: a label, or a file as `amodal cluster` writes it.
        words: Keywords that are balanced.
        rules: That an ensemble is of.
        limits: Rule of `pair_rules` -> its limit.
        reference: A run on clean data.
        share: Of the records, that rules of an ensemble vote for.
        seed: Of all that is random.
    """

    field: str | None = None
    fields: tuple[str, ...] = ()
    like: Any = None
    over: str = ""
    words: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
    reference: Model | None = None
    share: float = 0.5
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Records to choose from.

    Args:
        dataset: Where they are, with all its fields.
        rows: (N,) their numbers.
        held_out: (M,) numbers of other records, which near copies of must not be trained on.
        chunks: Computes columns.
        settings: Options of the rules.
        model: A run; None without one.
    """

    dataset: Dataset
    rows: Rows
    held_out: Rows
    chunks: Chunks
    settings: Settings = Settings()
    model: Model | None = None

    def run(self, rule: str) -> Model:
        """The run that a rule scores by.

        Raises:
            AmodalError: Without one.
        """
        if self.model is None:
            raise AmodalError(
                f"{rule} scores records by a trained model: name one by --run RUN (`amodal "
                "pretrain clip`, or `amodal align` from pretrained backbones, makes one)"
            )
        return self.model

    @cached_property
    def decoded(self) -> Dataset:
        """The records as the run reads them."""
        model = self.run("this rule")
        return model.with_features(model.read(self.dataset))

    def text_field(self, rule: str) -> str:
        """The text that a rule reads.

        Raises:
            AmodalError: If the data has none, or the named field is none.
        """
        fields = [n for n, m in self.dataset.fields.items() if isinstance(m, Readable)]
        if not fields:
            raise AmodalError(
                f"{rule} reads text, and {self.dataset.name!r} has the fields "
                f"{', '.join(self.dataset.fields)}"
            )
        name = self.settings.field or fields[0]
        if name not in fields:
            raise unknown("text field of this data", name, fields)
        return name

    def picture_field(self) -> str | None:
        """The first field of pictures, None without one."""
        fields = self.dataset.fields.items()
        return next((name for name, modality in fields if is_pixel_map(modality)), None)

    def texts(self, field: str, rows: Rows) -> list[str | None]:
        """The text of some records, whole; None where there is none or it cannot be read."""
        return [text_of(self.dataset, i, field) for i in rows.tolist()]


def text_of(dataset: Dataset, i: int, field: str) -> str | None:
    """A text of a record, whole, where decoding may cut it off.

    Returns:
        None where there is none, it is empty, or it cannot be read.
    """
    modality = dataset.fields[field]
    assert isinstance(modality, Readable)
    try:
        cell = dataset.raw(i, field)
        if cell is None:
            return None
        if isinstance(cell, str):
            text = cell
        else:
            value = dataset.value(i, field)
            text = "" if value is None else modality.text(value)
    except BadValue:
        return None
    return text if text.strip() else None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a rule says of N records.

    Args:
        score: (N,) float64, higher is better, NaN where the rule cannot say.
        meaning: What the score is.
        lacking: What records without a score lack.
        threshold: The score from which records are selected where nobody says otherwise; None if
            there is no natural one.
        reasons: Why records are dropped -> (N,) bool.
        fields: That the score is of, the first of which are shown.
        columns: More columns of the table of scores, (N,) each.
        tie: (N,) what decides between equal scores, higher is better; None for the hash of the key.
        notes: Sentences about the scores.
    """

    score: np.ndarray
    meaning: str
    lacking: str = "a value that could be read"
    threshold: float | None = None
    reasons: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    fields: Sequence[str] = ()
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    tie: np.ndarray | None = None
    notes: Sequence[str] = ()
