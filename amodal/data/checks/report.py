"""What `check` found, as sentences, tables and a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from amodal.console import Printed
from amodal.core import AmodalError
from amodal.core.whole_file import whole_file
from amodal.data.dataset import Dataset
from amodal.data.splits import PARTS

SHIFTED = 1.0
"""Pixels of the coarser field, above which fields do not lie on each other."""
DISTINCT = 6.0
"""How far a peak must stand out for its shift to count, see `Shift.score`."""
RECORD_DISTINCT = 8.0
"""The same for one record alone, of which there are many."""
MANY_OFF = 0.05
"""Share of the records that are off by themselves, from which it is worth a word."""
LEAST_RECORDS = 5
"""Of an interval over records."""
MAX_KEYS = 20
"""Records that the file names of a finding at most."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with data, or may be.

    Attributes:
        kind: "misregistration", "copies", "overlap", …
        text: a sentence.
        keys: of records that show it.
        fault: whether it is wrong for sure; else it is worth a look.
    """

    kind: str
    text: str
    keys: tuple[str, ...] = ()
    fault: bool = True


@dataclass(frozen=True)
class Misregistration:
    """How far the second of two fields lies off the first, in pixels of the coarser one.

    Attributes:
        first, second: fields.
        records: that have both and show something.
        flat: records that have both, and too little in one of them to say.
        other: records whose fields have no grid in common, and why one has none.
        down, right: pixels; NaN where there are too few records, or nothing in common.
        interval: 95 % of `down`, `right` and of the length of the shift, over records.
        score: how far the peak stands out, see `amodal.stats.registration.Shift`.
        metres: of a pixel, 0 if unknown.
        off: keys of records that are off by themselves by more than 1.5 pixels.
        agree: whether most records that can be placed by themselves lie where all together do.
    """

    first: str
    second: str
    records: int
    flat: int
    other: tuple[int, str]
    down: float = math.nan
    right: float = math.nan
    interval: tuple[tuple[float, float], ...] = ((math.nan, math.nan),) * 3
    score: float = 0.0
    metres: float = 0.0
    off: tuple[str, ...] = ()
    agree: bool = True

    @property
    def known(self) -> bool:
        """Whether there is a shift that all records have in common."""
        return self.records >= LEAST_RECORDS and self.score >= DISTINCT and self.agree

    @property
    def shifted(self) -> bool:
        """Whether the fields are more than a pixel off, the whole interval."""
        return self.known and self.interval[2][0] > SHIFTED

    def findings(self) -> list[Finding]:
        """What is worth a word."""
        names = f"{self.second} lies off {self.first}"
        unit = f"pixels{f' of {self.metres:g} m' if self.metres else ''}"
        found = []
        if self.shifted:
            found.append(
                Finding(
                    "misregistration",
                    f"{names} by {self.down:+.1f} {unit} down and {self.right:+.1f} to the right "
                    f"({self.records} records): put both on one grid before training",
                )
            )
        elif len(self.off) > max(MANY_OFF * self.records, 1):
            found.append(
                Finding(
                    "misregistration",
                    f"{names} by more than 1.5 {unit} in {len(self.off)} of {self.records} "
                    f"records, {self.off[0]!r} for one, each in its own direction",
                    self.off,
                )
            )
        if self.other[0]:
            found.append(
                Finding(
                    "grids",
                    f"{self.first} and {self.second} of {self.other[0]} records have no grid in "
                    f"common: {self.other[1]}",
                    fault=False,
                )
            )
        return found

    def row(self) -> tuple[str, ...]:
        """Cells of a table."""
        pair = f"{self.first} ~ {self.second}"
        if not self.known:
            why = "too few records" if self.records < LEAST_RECORDS else "nothing in common"
            return pair, why, "", "", f"{self.records}", f"{self.flat}"
        shown = [
            f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
            for value, (low, high) in zip((self.down, self.right), self.interval)
        ]
        unit = f"{self.metres:g} m" if self.metres else "?"
        return pair, *shown, unit, f"{self.records}", f"{self.flat}"


@dataclass(frozen=True)
class DataCheck(Printed):
    """What `check` found.

    Attributes:
        name: of the data.
        records: of the data.
        shifts: of each pair of fields that lie on the ground.
        missing: field -> the mean share of missing pixels by the number of the date.
        findings: faults first.
    """

    name: str
    records: int
    shifts: tuple[Misregistration, ...]
    missing: Mapping[str, tuple[float, ...]]
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """What is wrong for sure."""
        return tuple(finding for finding in self.findings if finding.fault)

    def table(self) -> Group:
        """For a terminal."""
        count = len(self.faults)
        state = "no fault found" if not count else f"{count} fault{'s' * (count > 1)}"
        parts: list[RenderableType] = [Text(f"{self.name}, {self.records:,} records: {state}")]
        if not self.missing:  # shifts, gaps and grids are of rasters, of which there are none
            parts.append(Text("looked for: copies of records between the parts of the split"))
        if self.shifts:
            table = Table(
                "fields",
                "down",
                "right",
                "pixel",
                "records",
                "too flat",
                title="where the second field lies, seen from the first, in pixels of the coarser",
                title_justify="left",
            )
            for shift in self.shifts:
                table.add_row(*map(Text, shift.row()))
            parts.append(table)
        if any(share > 0 for shares in self.missing.values() for share in shares):
            dates = max(map(len, self.missing.values()))
            headings = ["field", *(f"date {i + 1}" for i in range(dates))]
            table = Table(*headings, title="missing pixels", title_justify="left")
            for name, shares in self.missing.items():
                table.add_row(Text(name), *(f"{share:.1%}" for share in shares))
            parts.append(table)
        for finding in self.findings:
            word, colour = ("fault", "red") if finding.fault else ("note", "yellow")
            parts.append(Text(f"{word}, {finding.kind}: {finding.text}", colour))
        return Group(*parts)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "data": self.name,
            "records": self.records,
            "faults": len(self.faults),
            "shifts": [
                {
                    "first": s.first,
                    "second": s.second,
                    "down": s.down if s.known else None,
                    "right": s.right if s.known else None,
                    "interval": [list(ends) for ends in s.interval[:2]] if s.known else None,
                    "metres_per_pixel": s.metres or None,
                    "records": s.records,
                    "too_flat": s.flat,
                    "shifted": s.shifted,
                }
                for s in self.shifts
            ],
            "missing": {name: list(shares) for name, shares in self.missing.items()},
            "findings": [
                {
                    "kind": f.kind,
                    "fault": f.fault,
                    "sentence": f.text,
                    "records": list(f.keys[:MAX_KEYS]),
                }
                for f in self.findings
            ],
        }

    def save(self, path: str | Path) -> Path:
        """Write all numbers as JSON.

        Raises:
            AmodalError: the file cannot be written.
        """
        target = Path(path)
        try:
            with whole_file(target) as draft:
                draft.write_text(json.dumps(self.as_dict(), indent=1), encoding="utf-8")
        except OSError as error:
            raise AmodalError(f"{target} cannot be written: {error.strerror or error}") from error
        return target


def part_names(dataset: Dataset) -> list[str]:
    """(N,) the name of the part of the split of each record."""
    return [PARTS[part] for part in dataset.parts.tolist()]
