"""The cards of all testbeds as one page, with what was counted in their data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import testbeds
from amodal.data import Dataset, bundled, sets
from amodal.modalities import name_of
from testbeds import budgets, splits
from testbeds.testbed import Records, Testbed

HEAD = """# Testbeds: cards

Written by `python -m testbeds cards`; edit the docstrings in `claims/testbeds/pages/`.

A testbed is a real set with a fixed split, its questions, other ways to answer them, and a budget.
The first task is the primary one. "Copies" counts records to validate or to test on whose value
occurs in a record to learn from, bit for bit; values of tables, where equal cells mean little, are
left out. Testbeds of one family are small and alike, and count as one in a mean over testbeds.
"""


def page(beds: Sequence[Testbed] | None = None) -> str:
    """Markdown of the cards.

    Args:
        beds: whose cards, all of them unless set. Those whose data is not here raise an error.
    """
    beds = beds if beds is not None else [testbeds.testbed(name) for name in testbeds.names()]
    return "\n".join([HEAD, *(card(bed) for bed in beds)])


def licence(bed: Testbed) -> str:
    """Of its data."""
    if bed.data in bundled.NAMES:
        return bed.open().schema.licence
    return sets.page(bed.data).LICENCE


def cost(bed: Testbed) -> str:
    """What has to be downloaded."""
    return "bundled" if bed.data in bundled.NAMES else sets.cost(sets.page(bed.data))


def card(bed: Testbed) -> str:
    """Markdown of one card."""
    data = bed.open()
    first, _, rest = bed.card.strip().partition("\n")
    counts = ", ".join(f"{len(data.split(part)):,} {part}" for part in splits.PARTS)
    lines = [f"## {bed.name}: {bed.title}", "", first, *rest.splitlines(), ""]
    lines += [
        f"Data `{bed.data}` ({cost(bed)}; {licence(bed)}); {counts}; family {bed.family}.",
        "",
    ]
    lines += ["| field | kind | records that have it | copies, validation | copies, test |"]
    lines += ["|---|---|---|---|---|"]
    for field, modality in data.fields.items():
        copied = ["", ""]
        if name_of(modality) != "table":
            copied = [f"{copies(data, field, part):,}" for part in ("valid", "test")]
        cells = (f"`{field}`", name_of(modality), f"{int(data.present(field).sum()):,}", *copied)
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| task | asked by | metric | peers |", "|---|---|---|---|"]
    for task in bed.tasks:
        peers = ", ".join(dict.fromkeys(f"{p.name} ({p.library})" for p in bed.peers_of(task)))
        lines.append(f"| {task.name} | {task.protocol} | {task.metric} | {peers or 'none'} |")
    lines += ["", f"Budget: {bed.steps:,} steps of {bed.batch_size} records, size {bed.size}"]
    lines[-1] += "; " + budgets.reason(bed) + "\n"
    return "\n".join(lines)


def copies(data: Dataset, field: str, part: str) -> int:
    """How many values of a part occur in the training part too."""
    known = set(_digests(data, field, "train"))
    return sum(digest in known for digest in _digests(data, field, part))


def _digests(data: Dataset, field: str, part: str) -> list[bytes]:
    rows = data.split(part)
    held = Records(data, rows[data.present(field)[rows]])
    return [hashlib.blake2b(_bytes(v), digest_size=16).digest() for v in held.raw(field)]


def _bytes(raw: object) -> bytes:
    """A value as it is stored; decoding every sound and picture would take minutes."""
    if isinstance(raw, Path):
        return raw.read_bytes()
    if isinstance(raw, bytes):
        return raw
    if isinstance(raw, np.ndarray):
        return raw.tobytes()
    return json.dumps(raw).encode()
