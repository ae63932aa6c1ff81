"""What is asked of a trained encoder: one protocol, one metric, one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from amodal.studies.limits import Check
from amodal.core import AmodalError, Embeddings
from amodal.core.embeddings import FUSED
from amodal.data import Dataset
from amodal.evaluate import Context, Embedded, embed_records, protocol
from amodal.evaluate.intervals import standard_error
from amodal.evaluate.label_choice import LabelChoice
from amodal.evaluate.row import Row


class Question(Protocol):
    """One number of one protocol; higher is better.

    Attributes:
        name: "exercise from the accelerometer".
        protocol: Of `amodal.evaluate`.
        row_metric: The metric of the protocol's rows.
        label: What is predicted, "TIME,EVENT" for survival, None without a label.
        fields: What it is predicted from, () for all fields together; (query, gallery) for
            retrieval.
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


def measure(
    encoder: Any,
    dataset: Dataset,
    questions: Sequence[Question],
    part: str,
    seed: int,
    check: Check,
) -> dict[str, dict[str, float]]:
    """Measure a trained encoder.

    Args:
        encoder: In evaluation mode.
        dataset: The records. Protocols that learn do so on its training part.
        questions: At least one.
        part: Of the split that is measured.
        seed: Of protocols that draw.
        check: Called between batches.

    Returns:
        Name of a question -> value, chance, n records and the value's standard_error.

    Raises:
        AmodalError: If a question cannot be answered with this encoder.
    """
    data = dataset if dataset.fields == encoder.fields else dataset.with_fields(encoder.fields)
    train, test = (
        embed_records(encoder, data, data.split(name), progress=lambda _: check())
        for name in ("train", part)
    )
    found = {}
    for question in questions:
        check()
        row = _row(question, encoder, data, train, test, seed)
        found[question.name] = {
            "value": float(row["value"]),
            "chance": float(row["chance"]),
            "n": int(row["n"]),
            "standard_error": round(standard_error(row), 6),
        }
    return found


def _row(
    question: Question, encoder: Any, data: Dataset, train: Embedded, test: Embedded, seed: int
) -> Row:
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
    rows = one.run(context).rows
    for row in rows:
        if all(row.get(name) == value for name, value in wanted.items()):
            return row
    raise AmodalError(f"{question.protocol} measures no {wanted} for {question.name!r}")


def _options(question: Question, embedded: Embedded) -> dict[str, Any]:
    """Options by which a protocol measures what is asked only."""
    if question.protocol == "retrieval":
        return {"pairs": [question.fields]}
    fields = question.fields or embedded.sources
    for name in fields:
        if name not in embedded.sources:
            raise AmodalError(f"{question.name!r} needs the field {name!r}, which is not embedded")
    return {"sources": [fields[0] if len(fields) == 1 else FUSED]}


def _only_fused(embedded: Embedded, fields: Sequence[str]) -> Embedded:
    """The same records with the fused vectors of some fields alone."""
    fused = Embeddings({FUSED: embedded.fused(fields or None)}, len(embedded))
    return replace(embedded, features=fused)
