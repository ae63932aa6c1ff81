"""The cost of fields missing at test time: every subset of fields, on the same records with and
without the rest.

A probe is fitted on the fused vectors of the training records, with whatever fields each has. For
each subset it is tested on the records that have all of that subset, with everything else hidden.
`full` is the same probe on the same records with all their fields. Likewise retrieval: the vector
of a subset is the query for the record's value in another field.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amodal.core import Column
from amodal.core.column import shared_rows
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.context import Context
from amodal.evaluate.labels import Fit, NotApplicable, label_spec, measure
from amodal.evaluate.needed_records import drawn, every_record
from amodal.evaluate.needs import OPTIONAL_LABEL, TWO_FIELDS, require_two_fields
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.knn import neighbours
from amodal.evaluate.protocols.linear import fit as fit_linear
from amodal.evaluate.protocols.retrieval import MIN_RECORDS, ranked
from amodal.evaluate.report_table import means
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded

Subset = tuple[str, ...]
PROBES: dict[str, Fit] = {"linear": fit_linear, "knn": neighbours}


def missing_modality(
    train: Embedded,
    test: Embedded,
    *,
    label: str | None = None,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
    most: int = 64,
    gallery: int = 5000,
    retrieve: bool = True,
) -> Result:
    """Measure probes and retrieval on subsets of fields.

    Args:
        train: Training records.
        test: Test records.
        label: What is predicted, None to measure retrieval only.
        few: See `measure`.
        draws: See `measure`.
        seed: See `measure`.
        most: Subsets to try. If there are more: all single fields, all but one, and all fields.
        gallery: Records at most to retrieve from.
        retrieve: Whether to measure retrieval too.

    Raises:
        NotApplicable: For fewer than two fields, and if no subset occurs in enough records.
    """
    require_two_fields(test)
    chosen = subsets(test.sources, most)
    columns = {names: _with_all(test, names) for names in chosen}
    columns = {names: c for names, c in columns.items() if len(c) >= MIN_RECORDS}
    rows = _probed(train, test, label, columns, few, draws, seed) if label is not None else []
    rows += _retrieved(test, columns, gallery) if retrieve or label is None else []
    if not rows:
        raise NotApplicable(f"no subset of fields occurs in {MIN_RECORDS} or more test records")
    spec = (
        label_spec(label, train.label(label), few, draws, seed)
        if label is not None
        else {"label": None}
    )
    spec |= {
        "space": "aligned, fused",
        "probes": list(PROBES),
        "subsets": ["+".join(s) for s in chosen],
    }
    return Result(
        "missing_modality",
        spec | {"train": len(train), "test": len(test), "gallery": gallery},
        rows,
    )


def subsets(fields: Sequence[str], most: int = 64) -> list[Subset]:
    """Non-empty subsets of the fields, small ones first; not all of them if there are more than
    `most`."""
    sizes = (
        range(1, len(fields) + 1)
        if 2 ** len(fields) - 1 <= most
        else sorted({1, len(fields) - 1, len(fields)})
    )
    return [subset for size in sizes for subset in itertools.combinations(fields, size)]


def _with_all(test: Embedded, names: Sequence[str]) -> Column:
    """The fused vectors of `names` for the records that have every one of them."""
    rows, _ = test.aligned.complete(names)
    fused = test.fused(names)
    return fused.at(shared_rows(fused, Column(rows, rows))[0])


def _probed(
    train: Embedded,
    test: Embedded,
    label: str,
    columns: dict[Subset, Column],
    few: int | None,
    draws: int,
    seed: int,
) -> list[Row]:
    """Rows of probes on subsets."""
    everything = test.fused()
    tests = {("alone", n): c for n, c in columns.items()}
    tests |= {("full", n): everything.at(shared_rows(everything, c)[0]) for n, c in columns.items()}
    rows = []
    for probe, fit in PROBES.items():
        found = measure(
            fit,
            train.fused(),
            train.label(label),
            tests,
            test.label(label),
            few=few,
            draws=draws,
            seed=seed,
            population=train.population.get(FUSED),
        )
        for names in columns:
            for alone, full in zip(found.get(("alone", names), []), found.get(("full", names), [])):
                rows.append(
                    {"source": "+".join(names), "probe": probe, **alone, "full": full["value"]}
                )
    return rows


def _retrieved(test: Embedded, columns: dict[Subset, Column], gallery: int) -> list[Row]:
    """Rows of retrieval by subsets."""
    rows = []
    for target in test.sources:
        others = tuple(s for s in test.sources if s != target)
        for names, column in columns.items():
            if target in names:
                continue
            values = test.aligned[target]
            at_query, at_target = shared_rows(column, values)
            at_query, at_target = at_query[:gallery], at_target[:gallery]
            if len(at_query) < MIN_RECORDS:
                continue
            same = test.content[target][at_target] if target in test.content else None
            wanted = vectors_of(values)[at_target]
            query = vectors_of(column)[at_query]
            alone = ranked(query, wanted, same, abs_cosine=test.abs_cosine)[0]
            whole = test.fused(others)
            at_full = shared_rows(whole, Column(values.rows[at_target], values.rows[at_target]))[0]
            query = vectors_of(whole)[at_full]
            full = ranked(query, wanted, same, abs_cosine=test.abs_cosine)[0]
            rows.append(
                {"source": "+".join(names), "target": target, **alone, "full": full["value"]}
            )
    return rows


class MissingModality(Protocol):
    """Every subset of fields at test time."""

    name, needs = "missing_modality", (OPTIONAL_LABEL, TWO_FIELDS)
    needed = (drawn, every_record)
    rank = 80
    measure = staticmethod(missing_modality)

    def arguments(self, context: Context) -> dict[str, Any]:
        """Retrieval depends on no label, so it is measured beside the first label only."""
        return super().arguments(context) | {"retrieve": context.options.retrieve and context.first}

    def shortened(self, rows: Sequence[Row]) -> list[Row]:
        """Means over subsets of one size."""

        def group(row: Row) -> tuple[str, str]:
            size = row["source"].count("+") + 1
            return f"{size} field{'s' * (size > 1)}", "another" if row.get("target") else ""

        return means(rows, group)

    def draw(self, result: Result, path: Path) -> Path:
        """See `Protocol.draw`."""
        from amodal.evaluate.missing_modality_picture import missing_modality as picture

        return picture(result.rows, path, label=result.spec.get("label"))


PROTOCOL = MissingModality()
