"""Records of one part of the split that are in another part too."""

from __future__ import annotations

import hashlib
from collections import defaultdict

from amodal.core import AmodalError
from amodal.data.checks.report import Finding, part_names
from amodal.data.dataset import Dataset
from amodal.data.readers import native
from amodal.data.remote import Unreachable


def leaks(dataset: Dataset) -> list[Finding]:
    """Values of validation and test records that a training record, or one of each other, has too.

    A record that has all of its fields from another part is a fault. One field alone is worth a
    look: the same picture with another text, or the same short text. Near copies are not looked
    for; `amodal curate --by duplicates` does.

    Args:
        dataset: to look at.
    """
    parts = part_names(dataset)
    whole: dict[str, list[int]] = defaultdict(list)
    single: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in range(len(dataset)):
        digests = {name: _digest(dataset, i, name) for name in dataset.fields}
        present = {name: digest for name, digest in digests.items() if digest}
        if not present:
            continue
        whole[str(sorted(present.items()))].append(i)
        for name, digest in present.items():
            single[name, digest].append(i)
    findings = []
    leaked = _leaked([*whole.values()], parts)
    if leaked:
        findings.append(_finding(dataset, leaked, "are exact copies of records", fault=True))
    counts, alone = dict[str, int](), dict[int, int]()
    for name in dataset.fields if len(dataset.fields) > 1 else ():
        groups = [rows for (field, _), rows in single.items() if field == name]
        found = {i: other for i, other in _leaked(groups, parts).items() if i not in leaked}
        if found:
            counts[name] = len(found)
            alone = found | alone
    if counts:
        fields = ", ".join(f"{name} of {count:,}" for name, count in counts.items())
        what = f"have a value of one field ({fields}) in common with records"
        findings.append(_finding(dataset, alone, what, fault=False))
    return findings


def _finding(dataset: Dataset, leaked: dict[int, int], what: str, *, fault: bool) -> Finding:
    first = next(iter(leaked))
    keys = tuple(dataset.keys[i] for i in leaked)
    return Finding(
        "copies",
        f"{len(leaked):,} records of the validation and test parts {what} of an earlier part, "
        f"{dataset.keys[first]!r} and {dataset.keys[leaked[first]]!r} for one"
        + (
            ": a score on them says too much. `amodal curate DATA --by duplicates --out DIR` "
            "leaves copies out of training"
            if fault
            else ""
        ),
        keys,
        fault,
    )


def _leaked(groups: list[list[int]], parts: list[str]) -> dict[int, int]:
    """Record of a later part -> the first record of the same content in an earlier one."""
    order = {"train": 0, "valid": 1, "test": 2}
    found = {}
    for rows in groups:
        first = min(rows, key=lambda i: order[parts[i]])
        for i in rows:
            if order[parts[i]] > order[parts[first]]:
                found[i] = first
    return dict(sorted(found.items()))


def _digest(dataset: Dataset, i: int, field: str) -> str:
    """Of the content of a value; "" where there is none that can be read."""
    try:
        cell = native.encode(dataset.raw(i, field))
    except Unreachable:
        raise
    except (AmodalError, OSError):
        return ""
    if cell is None or not cell["data"]:
        return ""
    return hashlib.blake2b(cell["data"], digest_size=16).hexdigest()
