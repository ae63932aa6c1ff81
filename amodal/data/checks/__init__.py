"""Look for faults of data that make a score wrong or a model worse: shifts, gaps, leaks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from amodal.core import AmodalError
from amodal.core.argument_types import check_type, is_whole
from amodal.data.checks import copies, places, survey
from amodal.data.checks.report import DataCheck, Finding
from amodal.data.measure import evenly_spaced
from amodal.data.open_dataset import Openable, open_dataset
from amodal.modalities.shared.protocols import Surveys

__all__ = ["DataCheck", "Finding", "check"]


def check(data: Openable, *, records: int = 100, seed: int = 0) -> DataCheck:
    """Look for faults of a dataset.

    Of rasters: how far two fields of a record lie off each other on the ground, pixels that are
    missing, bands, resolutions, dates and coordinate systems that differ, and records of one part
    of the split that overlap those of another. Of all data: records of one part of the split that
    are in another one too.

    Args:
        data: as for `amodal.open`.
        records: whose pixels are read, spread evenly. Places and copies are looked for in all.
        seed: of the bootstrap.

    Raises:
        AmodalError: nothing can be read, or `records` is less than 1.
    """
    check_type("records", records, is_whole, "a whole number")
    check_type("seed", seed, is_whole, "a whole number")
    if records < 1 or seed < 0:
        raise AmodalError(
            f"records must be at least 1 and seed at least 0, got {records} and {seed}"
        )
    dataset = open_dataset(data)
    fields = [name for name, modality in dataset.fields.items() if isinstance(modality, Surveys)]
    seen = survey.read(dataset, fields, evenly_spaced(len(dataset), records)) if fields else None
    findings = _disagreements(seen, fields) if seen else []
    shifts = seen.shifts(np.random.default_rng(seed)) if seen else []
    findings += [finding for shift in shifts for finding in shift.findings()]
    findings += places.leaks(dataset, fields) + copies.leaks(dataset)
    findings.sort(key=lambda finding: not finding.fault)  # stable: faults first
    missing = seen.missing(fields) if seen else {}
    return DataCheck(dataset.name, len(dataset), tuple(shifts), missing, tuple(findings))


def _disagreements(seen: survey.Survey, fields: Iterable[str]) -> list[Finding]:
    """What differs between the files of a field, and between fields."""
    findings = []
    for name in fields:
        of_field = seen.fields[name]
        if of_field.unreadable:
            key, reason = next(iter(of_field.unreadable.items()))
            findings.append(
                Finding(
                    "unreadable",
                    f"{len(of_field.unreadable)} of the {seen.records} records looked at cannot be "
                    f"read as {name}, {key!r} for one: {reason}",
                    (key,),
                )
            )
        for what, by_value in (
            ("bands", of_field.bands),
            ("resolutions", of_field.resolutions),
            ("coordinate systems", of_field.systems),
        ):
            findings += _differing(name, what, by_value)
        if of_field.unordered:
            findings.append(
                Finding(
                    "dates",
                    f"the dates of {len(of_field.unordered)} values of {name} are not in order, "
                    f"{of_field.unordered[0]!r} for one: they are sorted when read, so a label of "
                    "the third date belongs to another one then",
                    tuple(of_field.unordered),
                )
            )
        if of_field.undated:
            findings.append(
                Finding(
                    "dates",
                    f"{len(of_field.undated)} values of {name} have more than one date and do not "
                    "say which: their order counts as time",
                    tuple(of_field.undated),
                    fault=False,
                )
            )
        if of_field.zero > ZERO_SHARE:
            findings.append(
                Finding(
                    "no data",
                    f"{of_field.zero:.0%} of the pixels of {name} are 0 in every band: if that "
                    "means missing, say so in the files (nodata=0), or it is learnt as a value",
                    fault=False,
                )
            )
    return findings


ZERO_SHARE = 0.01
"""Share of pixels that are zero in all bands, from which it is worth a word."""


def _differing(name: str, what: str, by_value: defaultdict[str, list[str]]) -> list[Finding]:
    """A finding where the files of a field are not of one kind."""
    if len(by_value) < 2:
        return []
    common, *others = sorted(by_value, key=lambda value: -len(by_value[value]))
    keys = [key for value in others for key in by_value[value]]
    # zones of one projection differ where data is from all over the earth
    fault = what != "coordinate systems"
    return [
        Finding(
            what,
            f"{what} of {name} differ: {common or 'none'} in {len(by_value[common])} records, "
            f"{others[0] or 'none'} in {len(by_value[others[0]])}, {by_value[others[0]][0]!r} for "
            f"one{f', and {len(others) - 1} others' if len(others) > 1 else ''}",
            tuple(keys),
            fault=fault,
        )
    ]
