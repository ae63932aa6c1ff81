"""The lock of splits: a hash of the keys of each part, so that no split changes unnoticed.

A number is comparable with another only where both were measured on the same records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from amodal.data import Dataset

LOCK = Path(__file__).parent / "splits.json"
PARTS = ("train", "valid", "test")

Part = Mapping[str, int | str]
"""records, and the SHA-256 of the sorted keys, one a line."""


def of(data: Dataset) -> dict[str, Part]:
    """Part -> how many records it has, and a hash of their keys."""
    return {part: _part(data.keys[i] for i in data.split(part)) for part in PARTS}


def locked() -> dict[str, dict[str, Part]]:
    """Testbed -> its parts, as they were when the lock was written."""
    return dict(json.loads(LOCK.read_text(encoding="utf-8"))) if LOCK.exists() else {}


def lock(parts: Mapping[str, Mapping[str, Part]]) -> None:
    """Write the parts of some testbeds into the lock; those of others stay."""
    whole = dict(sorted({**locked(), **parts}.items()))
    LOCK.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def _part(keys: Iterable[str]) -> Part:
    names = sorted(keys)
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    return {"records": len(names), "sha256": digest}
