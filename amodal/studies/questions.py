"""What is asked of a trained encoder: one protocol, one metric, one number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from amodal.core import AmodalError, Embeddings
from amodal.core.embeddings import FUSED
from amodal.data import Dataset
from amodal.evaluate import Context, Embedded, NotApplicable, embed_records, protocol
from amodal.evaluate.context import EmbeddedParts, Pair
from amodal.evaluate.intervals import is_share, standard_error
from amodal.evaluate.joined import side_by_side
from amodal.evaluate.label_choice import LabelChoice
from amodal.evaluate.row import Row
from amodal.evaluate.yardsticks import SimpleParts
from amodal.modalities import Modality
from amodal.stats.paired_bootstrap import Bootstrap
from amodal.studies.limits import Check
from amodal.train.cache_features import CachedFeatures


class Question(Protocol):
    """One number of one protocol; higher is better.

    Attributes:
        name: "exercise from the accelerometer".
        protocol: Of `amodal.evaluate`.
        row_metric: The metric of the protocol's rows.
        label: What is predicted, "TIME,EVENT" for survival, None without a label.
        fields: What it is predicted from, () for all fields together; (query, gallery) for
            retrieval.
        options: Of the protocol, beside those that follow from the fields.
    """

    @property
    def name(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def row_metric(self) -> str: ...
    @property
    def label(self) -> str | None: ...
    @property
    def fields(self) -> tuple[str, ...]: ...
    @property
    def options(self) -> Mapping[str, Any]: ...


@dataclass
class SimpleFeatures:
    """Simple features of the training records and of a part, made once for all trials of a process.

    They are of the records alone, so every candidate has the same beside it.

    Args:
        seed: Of the choice of training records that they are fitted on.
    """

    seed: int = 0
    made: dict[str, Pair | None] = field(default_factory=dict)

    def beside(
        self, fields: Mapping[str, Modality], dataset: Dataset, part: str, embedded: Pair
    ) -> Pair | None:
        """The records of `embedded` with simple features in the place of vectors; None where no
        field has any.

        Args:
            fields: Name -> modality, which are described.
            dataset: With these fields.
            part: Of the split that is measured.
            embedded: Training records and those of the part, as the encoder embeds them.
        """
        if part not in self.made:
            rows: tuple[np.ndarray, np.ndarray] = (dataset.split("train"), dataset.split(part))
            parts = EmbeddedParts(lambda: embedded)
            try:
                made = SimpleParts(fields, dataset, rows, parts, seed=self.seed).pair
            except NotApplicable:
                self.made[part] = None
            else:
                self.made[part] = made
        return self.made[part]


def answer_all(
    questions: Sequence[Question],
    encoder: Any,
    data: Dataset,
    pair: Pair,
    seed: int,
    check: Check,
    beside: Pair | None = None,
) -> dict[str, dict[str, float]]:
    """Answer questions on embedded records.

    Args:
        questions: What is asked.
        encoder: Whose records they are.
        data: The dataset with the encoder's fields.
        pair: Training records and those that are measured.
        seed: Of protocols that draw.
        check: Called between questions.
        beside: The same records with simple features, to be measured with these beside them too.

    Returns:
        Name of a question -> value, chance, n records and the value's standard_error; and, with
        `beside`, the value of both side by side as `joined`, where there is one.

    Raises:
        AmodalError: If a question cannot be answered with this encoder.
    """
    joined = None
    if beside is not None:
        try:
            joined = side_by_side(pair, beside)
        except NotApplicable:  # a space that cannot be joined is measured alone
            joined = None
    found = {}
    for question in questions:
        check()
        found[question.name] = answer(question, encoder, data, pair, seed)
        if joined is not None and len(question.fields) in (0, 1, len(data.fields)):
            check()
            both = answer(question, encoder, data, joined, seed)
            found[question.name]["joined"] = both["value"]
    return found


def embedded(
    encoder: Any, dataset: Dataset, part: str, check: Check
) -> tuple[Dataset, tuple[Embedded, Embedded]]:
    """The dataset with the encoder's fields, and its training records and those of a part in its
    vectors."""
    as_they_are = isinstance(dataset, CachedFeatures) or dataset.fields == encoder.fields
    data = dataset if as_they_are else dataset.with_fields(encoder.fields)
    train, test = (
        embed_records(encoder, data, data.split(name), progress=lambda _: check())
        for name in ("train", part)
    )
    return data, (train, test)


def answer(
    question: Question, encoder: Any, data: Dataset, pair: Pair, seed: int
) -> dict[str, float]:
    """The answer to one question on embedded records, or on others in their place.

    Args:
        question: What is asked.
        encoder: Whose records they are.
        data: The dataset with the encoder's fields.
        pair: Training records and those that are measured.
        seed: Of protocols that draw.

    Returns:
        value, chance, n records and the value's standard_error.

    Raises:
        AmodalError: If it cannot be answered.
    """
    row = row_of(question, encoder, data, pair, seed)
    return {
        "value": float(row["value"]),
        "chance": float(row["chance"]),
        "n": int(row["n"]),
        "standard_error": round(error_of(row), 6),
    }


def error_of(row: Row) -> float:
    """The standard error of a row's value over records: of its outcomes for metrics that are no
    shares, such as R2."""
    outcome = row.get("outcome")
    if outcome is None or is_share(row):
        return standard_error(row)
    draws = Bootstrap(int(outcome.who.max()) + 1).values(outcome)
    return float(np.nanstd(draws))


def row_of(question: Question, encoder: Any, data: Dataset, pair: Pair, seed: int) -> Row:
    """As `answer`: the row of the protocol, with the `outcome` of single records where it has one.

    Args:
        question: What is asked.
        encoder: Whose records they are.
        data: The dataset with the encoder's fields.
        pair: Training records and those that are measured.
        seed: Of protocols that draw.

    Raises:
        AmodalError: If it cannot be answered.
    """
    train, test = pair
    one = protocol(question.protocol)
    options, wanted = _options(question, train), {"metric": question.row_metric}
    if question.protocol == "retrieval":
        wanted |= {"source": question.fields[0], "target": question.fields[1]}
    else:
        wanted |= {"source": options["sources"][0]}
        if len(question.fields) > 1 and {*question.fields} != {*train.sources}:
            train, test = (_only_fused(part, question.fields) for part in (train, test))
    context = Context.on(
        train,
        test,
        label=question.label,
        options=one.filled(options),
        seed=seed,
        model=encoder,
        encoder=encoder,
        dataset=data,
        labels=LabelChoice.of(data, question.label),
    )
    one.check(context)
    result = one.run(context)
    for row, outcome in zip(result.rows, result.outcomes, strict=True):
        if all(row.get(name) == value for name, value in wanted.items()):
            return row if outcome is None else row | {"outcome": outcome}
    raise AmodalError(f"{question.protocol} measures no {wanted} for {question.name!r}")


def _options(question: Question, embedded: Embedded) -> dict[str, Any]:
    """Options by which a protocol measures what is asked only."""
    if question.protocol == "retrieval":
        return {**question.options, "pairs": [question.fields]}
    fields = question.fields or embedded.sources
    for name in fields:
        if name not in embedded.sources:
            raise AmodalError(f"{question.name!r} needs the field {name!r}, which is not embedded")
    return {**question.options, "sources": [fields[0] if len(fields) == 1 else FUSED]}


def _only_fused(embedded: Embedded, fields: Sequence[str]) -> Embedded:
    """The same records with the fused vectors of some fields alone."""
    fused = Embeddings({FUSED: embedded.fused(fields or None)}, len(embedded))
    return replace(embedded, features=fused)
