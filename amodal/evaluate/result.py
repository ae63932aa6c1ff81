"""Results of an evaluation, with everything that decided them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from amodal.core import AmodalError
from amodal.evaluate import report_table as _table
from amodal.evaluate.old_names import OLD_SOURCES, current_name
from amodal.evaluate.row import Row, Spec
from amodal.inference.embed import Embedded


@dataclass(frozen=True)
class Result:
    """What one protocol measured.

    Args:
        protocol: Its name.
        spec: Everything that decides the numbers.
        rows: See `amodal.evaluate.row`. `interval` is a 95 % interval of the mean over draws.
    """

    protocol: str
    spec: Spec
    rows: list[Row]

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
        have = sorted({", ".join(_identity(row)) for row in self.rows})
        raise AmodalError(
            f"{self.protocol} has no row {wanted}. There are: {'; '.join(have[:40]) or 'none'}."
        )


@dataclass
class Report:
    """All results of an evaluation.

    Args:
        results: Of the trained encoder, one for each protocol and label.
        untrained: The same of the encoder before training, None if that was not measured.
        skipped: Protocol -> why it says nothing here.
        about: Data, parts, encoder.
        train: The embedded training records, for figures; not saved.
        test: The embedded test records, for figures; not saved.
    """

    results: list[Result]
    untrained: list[Result] | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    train: Embedded | None = None
    test: Embedded | None = None

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
        """Every row with its protocol and label and, where it was measured, the untrained encoder's
        value."""
        rows = []
        for number, result in enumerate(self.results):
            before = (
                {_identity(row): row["value"] for row in self.untrained[number].rows}
                if self.untrained
                else {}
            )
            named = {"protocol": result.protocol} | (
                {"label": result.spec["label"]} if result.spec.get("label") else {}
            )
            for row in result.rows:
                compared = {"untrained": before[_identity(row)]} if _identity(row) in before else {}
                rows.append(named | row | compared)
        return rows

    def table(self, *, every: bool = False) -> Table:
        """A table for a terminal: trained beside untrained and chance.

        Args:
            every: All metrics and rows, not only the headlines.
        """
        few = next((r.spec["few"] for r in self.results if r.spec.get("few")), None)
        return _table.table(self.about, self.rows(), self.skipped, few, every=every)

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        results = [asdict(r) for r in self.results]
        for number, result in enumerate(results):
            before = (
                {_identity(row): row["value"] for row in self.untrained[number].rows}
                if self.untrained
                else {}
            )
            for row in result["rows"]:
                if _identity(row) in before:
                    row["untrained"] = before[_identity(row)]
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
        draft = path.with_name(f".{path.name}.draft")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(
                json.dumps(_plain(self.as_dict()), indent=1, ensure_ascii=False, allow_nan=False)
                + "\n",
                encoding="utf-8",
            )
            draft.replace(path)
            if figures:
                _figures.report(self, path.with_suffix(""))
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise AmodalError(f"could not write the report to {path}: {error}") from error
        return path

    @staticmethod
    def load(path: str | Path) -> Report:
        """Read what `save` wrote, also with names of earlier releases.

        Raises:
            AmodalError: If the file is no report.
        """
        try:
            read = json.loads(Path(path).read_text(encoding="utf-8"))
            results = [_read(result) for result in read["results"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AmodalError(f"{path} is not a report of `amodal evaluate`: {error}") from error
        for row in (row for result in results for row in result.rows):
            row.update(
                {k: float("nan") for k in ("value", "untrained") if k in row and row[k] is None}
            )
        measured = any("untrained" in row for result in results for row in result.rows)
        untrained = None
        if measured:
            untrained = []
            for r in results:
                rows = [row | {"value": row["untrained"]} for row in r.rows if "untrained" in row]
                untrained.append(Result(r.protocol, r.spec, rows))
        for row in (row for result in results for row in result.rows):
            row.pop("untrained", None)
        skipped = {_renamed(name): reason for name, reason in read.get("skipped", {}).items()}
        return Report(results, untrained, skipped, read.get("about", {}))


def _read(result: dict[str, Any]) -> Result:
    """A result of a JSON report, whose names may be old ones."""
    protocol, rows = current_name(result["protocol"]), result["rows"]
    if protocol == "small_objects":
        rows = [row | {"source": OLD_SOURCES.get(row["source"], row["source"])} for row in rows]
    return Result(protocol, result["spec"], rows)


def _identity(row: Row) -> tuple[str, ...]:
    """What a row measures: its texts."""
    return tuple(v for v in row.values() if isinstance(v, str))


def _renamed(skipped: str) -> str:
    """A key of `skipped`, which is a protocol or "PROTOCOL (LABEL)"."""
    name, space, label = skipped.partition(" ")
    return current_name(name) + space + label


def _plain(value: Any) -> Any:
    """The same for JSON, which has no NaN: null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
