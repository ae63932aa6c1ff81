"""The reports of runs that differ by their seed as one: means, and intervals over the runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate.intervals import add_intervals
from amodal.evaluate.result import COMPARED, Report, Result, identity
from amodal.evaluate.row import Row
from amodal.evaluate.verdict import summary
from amodal.stats.interval import half_width, mean
from amodal.stats.paired_bootstrap import Averaged, Drawn, Outcome, Repeated

SAME = ("fingerprint", "train", "test", "parts", "subset")
"""What reports must say alike."""


def over_runs(reports: Sequence[Report]) -> Report:
    """The mean of reports of one configuration, trained with different seeds.

    A row's `value` is the mean, `runs` the values of the runs, `interval` the 95 % interval of the
    mean over the runs (Student), and `intervals` those over the records for these very runs.

    Args:
        reports: Of the same records, by the same protocols.

    Returns:
        A report. What not all runs have is in `skipped`.

    Raises:
        AmodalError: If there is none, or they are of different records.
    """
    if not reports:
        raise AmodalError("there is no report to take the mean of")
    if len(reports) == 1:
        return reports[0]
    first = reports[0]
    for key in SAME:
        found = [str(report.about.get(key)) for report in reports]
        if len({*found}) > 1:
            raise AmodalError(
                f"the runs were evaluated on different records ({key}: {', '.join(found)}), so "
                "their mean means nothing. Give runs of one configuration, trained on one data set."
            )
    columns = [c for c in COMPARED if all(getattr(r, c) is not None for r in reports)]
    merged = Report(
        [],
        skipped=dict(first.skipped),
        about=first.about | {"runs": len(reports)},
        train=first.train,
        test=first.test,
        bootstrap=first.bootstrap,
        **{column: [] for column in columns},
    )
    for result in first.results:
        places = [_place(report, result) for report in reports]
        if any(place is None for place in places):
            merged.skipped[_title(result)] = "not every run has it"
            continue
        at = [place for place in places if place is not None]
        merged.results.append(_mean([r.results[i] for r, i in zip(reports, at)], runs=True))
        for column in columns:
            same = [getattr(r, column)[i] for r, i in zip(reports, at)]
            getattr(merged, column).append(_mean(same, runs=False))
    _described(merged, first)
    return merged


def _described(merged: Report, first: Report) -> None:
    """Add intervals and the sentence."""
    if first.bootstrap is not None:
        add_intervals(merged, first.bootstrap)
    drawn = [{c: _repeated(o) for c, o in of.items()} for of in merged.outcomes()]
    merged.about.pop("summary", None)
    if verdict := summary(merged.rows(), drawn, first.bootstrap, merged.about.get("simple")):
        merged.about["summary"] = verdict


def _repeated(outcome: Outcome) -> Outcome:
    """The same with runs drawn too, for a sentence about further runs."""
    return Repeated(outcome.who, outcome.parts) if isinstance(outcome, Averaged) else outcome


def _title(result: Result) -> str:
    label = result.spec.get("label")
    return f"{result.protocol} ({label})" if label else result.protocol


def _place(report: Report, like: Result) -> int | None:
    titles = [_title(result) for result in report.results]
    return titles.index(_title(like)) if _title(like) in titles else None


def _mean(results: Sequence[Result], *, runs: bool) -> Result:
    """The mean of results, of the rows that all of them have."""
    tables: list[dict[tuple[str, ...], tuple[Row, Outcome | None]]] = []
    for result in results:
        outcomes = [*result.outcomes, *[None] * (len(result.rows) - len(result.outcomes))]
        tables.append({identity(r): (r, o) for r, o in zip(result.rows, outcomes)})
    rows = []
    for key, (row, _) in tables[0].items():
        if not all(key in table for table in tables):
            continue
        values = [float(table[key][0]["value"]) for table in tables]
        made = {k: v for k, v in row.items() if k not in ("interval", "intervals", "unpaired")}
        made["value"] = mean(values)
        if runs:
            half = half_width(values)
            made |= {"runs": values, "interval": [mean(values) - half, mean(values) + half]}
        if outcome := _averaged([table[key][1] for table in tables]):
            made["outcome"] = outcome
        rows.append(made)
    return Result(results[0].protocol, results[0].spec, rows)


def _averaged(outcomes: Sequence[Outcome | None]) -> Outcome | None:
    parts = [outcome for outcome in outcomes if outcome is not None]
    if len(parts) < len(outcomes):
        return None
    drawn = [part for part in parts if isinstance(part, Drawn)]
    if not drawn:
        return Averaged(parts[0].who, parts)
    if len({part.key for part in drawn}) > 1 or len(drawn) < len(parts):
        return None
    values: np.ndarray = np.mean([part.values for part in drawn], axis=0)
    return Drawn(drawn[0].who, values, drawn[0].key)
