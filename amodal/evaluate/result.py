"""Results of an evaluation, with everything that decided them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from amodal.console import Printed
from amodal.core import AmodalError
from amodal.core.regular_file import regular
from amodal.core.whole_file import whole_file
from amodal.evaluate import report_table as _table
from amodal.evaluate.old_names import OLD_SOURCES, current_name
from amodal.evaluate.row import Row, Spec
from amodal.inference.embed import Embedded
from amodal.stats.paired_bootstrap import Bootstrap, Outcome

COMPARED = ("simple", "frozen", "untrained", "joined")
"""Attributes of a report, and columns of its rows, that the trained encoder is compared with."""


@dataclass(frozen=True)
class Result:
    """What one protocol measured.

    Args:
        protocol: Its name.
        spec: Everything that decides the numbers.
        rows: See `amodal.evaluate.row`. `interval` is a 95 % interval of the mean over draws. An
            `outcome` of a row is moved to `outcomes`.
        outcomes: Of the single records, for each row, from which its metric can be computed anew;
            None for rows without; not saved.
    """

    protocol: str
    spec: Spec
    rows: list[Row]
    outcomes: list[Outcome | None] = field(
        default_factory=list, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        self.outcomes.extend(row.pop("outcome", None) for row in self.rows)

    def value(self, source: str, metric: str, **more: str) -> float:
        """One number of a row.

            result.value("colour", "accuracy")
            result.value("colour", "recall@10", target="relief")

        Raises:
            AmodalError: If there is no such row, with the rows there are.
        """
        wanted = {"source": source, "metric": metric, **more}
        for row in self.rows:
            if all(row.get(k) == v for k, v in wanted.items()):
                return float(row["value"])
        have = sorted({", ".join(identity(row)) for row in self.rows})
        raise AmodalError(
            f"{self.protocol} has no row {wanted}. There are: {'; '.join(have[:40]) or 'none'}."
        )


@dataclass
class Report(Printed):
    """All results of an evaluation.

    Args:
        results: Of the trained encoder, one for each protocol and label.
        untrained: The same of the encoder before training, None if that was not measured.
        skipped: Protocol -> why it says nothing here.
        about: Data, parts, encoder.
        train: The embedded training records, for figures; not saved.
        test: The embedded test records, for figures; not saved.
        simple: The same of simple features of the records, with no rows for a protocol that is not
            measured on them; None if that was not measured.
        frozen: The same of the features of pretrained models, before any of this training.
        joined: The same of the encoder's vectors with simple features beside them.
        bootstrap: Draws of the test records, by which intervals were computed; not saved.
    """

    results: list[Result]
    untrained: list[Result] | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    train: Embedded | None = None
    test: Embedded | None = None
    simple: list[Result] | None = None
    frozen: list[Result] | None = None
    joined: list[Result] | None = None
    bootstrap: Bootstrap | None = field(default=None, repr=False)

    def __getitem__(self, protocol: str) -> Result:
        """The (first) result of a protocol."""
        protocol = current_name(protocol)
        for result in self.results:
            if result.protocol == protocol:
                return result
        reason = self.skipped.get(
            protocol,
            f"there are {', '.join(dict.fromkeys(r.protocol for r in self.results)) or 'none'}",
        )
        raise AmodalError(f"no result of {protocol!r} in this report: {reason}")

    def rows(self) -> list[Row]:
        """Every row with its protocol and label and, where they were measured, the values of the
        untrained encoder and of simple features."""
        rows = []
        for number, result in enumerate(self.results):
            named = {"protocol": result.protocol} | (
                {"label": result.spec["label"]} if result.spec.get("label") else {}
            )
            beside = self._beside(number)
            rows += [named | row | beside.get(identity(row), {}) for row in result.rows]
        return rows

    def outcomes(self) -> list[dict[str, Outcome]]:
        """For each of `rows()`, column -> the outcomes of single records, where there are any."""
        found = []
        for number, result in enumerate(self.results):
            columns: dict[str, dict[tuple[str, ...], Outcome]] = {}
            for column, results in self._columns().items():
                same = results[number]
                columns[column] = {
                    identity(row): outcome
                    for row, outcome in zip(same.rows, same.outcomes)
                    if outcome is not None
                }
            for row in result.rows:
                key = identity(row)
                found.append({name: of[key] for name, of in columns.items() if key in of})
        return found

    def _columns(self) -> dict[str, list[Result]]:
        others = {column: getattr(self, column) for column in COMPARED}
        measured: dict[str, list[Result]] = {c: r for c, r in others.items() if r is not None}
        return {"trained": self.results} | measured

    def _beside(self, number: int) -> dict[tuple[str, ...], dict[str, float]]:
        """What a row measures -> column -> the value of what is compared with."""
        beside: dict[tuple[str, ...], dict[str, float]] = {}
        for column, results in self._columns().items():
            for row in results[number].rows if column in COMPARED else []:
                beside.setdefault(identity(row), {})[column] = row["value"]
        return beside

    def table(self, *, every: bool = False) -> Table:
        """A table for a terminal: trained beside simple features, untrained and chance.

        Args:
            every: All metrics and rows, not only the headlines.
        """
        few = next((r.spec["few"] for r in self.results if r.spec.get("few")), None)
        return _table.table(self.about, self.rows(), self.skipped, few, every=every)

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        results: list[dict[str, Any]] = [
            {"protocol": r.protocol, "spec": r.spec, "rows": [dict(row) for row in r.rows]}
            for r in self.results
        ]
        for number, result in enumerate(results):
            beside = self._beside(number)
            for row in result["rows"]:
                row |= beside.get(identity(row), {})
        return {"about": self.about, "results": results, "skipped": self.skipped}

    def save(self, path: str | Path, *, figures: bool = True) -> Path:
        """Write the report as JSON, and its figures beside it.

        Args:
            path: A JSON file.
            figures: Whether to draw figures.

        Returns:
            The path.

        Raises:
            AmodalError: If it cannot be written.
        """
        from amodal.evaluate import figures as _figures

        path = Path(path)
        written = json_values(self.as_dict())
        text = json.dumps(written, indent=1, ensure_ascii=False, allow_nan=False)
        try:
            with whole_file(path) as draft:
                draft.write_text(text + "\n", encoding="utf-8")
            if figures:
                _figures.report(self, path.with_suffix(""))
        except OSError as error:
            raise AmodalError(f"could not write the report to {path}: {error}") from error
        return path

    def save_html(self, path: str | Path, *, figures: bool = True) -> Path:
        """Write the report as one HTML file, with its figures inside.

        Args:
            path: An HTML file.
            figures: Whether to draw figures.

        Returns:
            The path.

        Raises:
            AmodalError: If it cannot be written.
        """
        from amodal.evaluate.html_report import html_report

        path = Path(path)
        page = html_report(self, pictures=figures)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page, encoding="utf-8")
        except OSError as error:
            raise AmodalError(f"could not write the report to {path}: {error}") from error
        return path

    @staticmethod
    def load(path: str | Path) -> Report:
        """Read what `save` wrote, also with names of earlier releases.

        Raises:
            AmodalError: If the file is no report.
        """
        try:
            read = json.loads(regular(Path(path)).read_text(encoding="utf-8"))
            results = [_read(result) for result in read["results"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AmodalError(f"{path} is not a report of `amodal evaluate`: {error}") from error
        rows = [row for result in results for row in result.rows]
        for row in rows:
            nan = {k: float("nan") for k in ("value", *COMPARED) if k in row and row[k] is None}
            row.update(nan)
        columns: dict[str, Any] = {column: _column(results, column) for column in COMPARED}
        for row in rows:
            for column in COMPARED:
                row.pop(column, None)
        skipped = {_renamed(name): reason for name, reason in read.get("skipped", {}).items()}
        return Report(results, skipped=skipped, about=read.get("about", {}), **columns)


def _column(results: list[Result], column: str) -> list[Result] | None:
    """The results of what is compared with, by the rows of a JSON report."""
    if not any(column in row for result in results for row in result.rows):
        return None
    compared = []
    for r in results:
        rows = [row | {"value": row[column]} for row in r.rows if column in row]
        compared.append(Result(r.protocol, r.spec, rows))
    return compared


def _read(result: dict[str, Any]) -> Result:
    """A result of a JSON report, whose names may be old ones."""
    protocol, rows = current_name(result["protocol"]), result["rows"]
    if protocol == "small_objects":
        rows = [row | {"source": OLD_SOURCES.get(row["source"], row["source"])} for row in rows]
    return Result(protocol, result["spec"], rows)


def identity(row: Row) -> tuple[str, ...]:
    """What a row measures: its texts."""
    return tuple(v for v in row.values() if isinstance(v, str))


def _renamed(skipped: str) -> str:
    """A key of `skipped`, which is a protocol or "PROTOCOL (LABEL)"."""
    name, space, label = skipped.partition(" ")
    return current_name(name) + space + label


def json_values(value: Any) -> Any:
    """The same for JSON, which has no NaN: null."""
    if isinstance(value, dict):
        return {k: json_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
