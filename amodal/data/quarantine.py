"""Values that cannot be read: written down with key and reason; their record goes on without them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from amodal.core import AmodalError


@dataclass(frozen=True)
class Bad:
    """One value that could not be read. key: its record; reason: for a person."""

    key: str
    field: str
    reason: str


class Quarantine:
    """The bad values met so far, each (key, field) once, in the order in which they were met."""

    def __init__(self):
        self._met: dict[tuple[str, str], Bad] = {}
        self._written: dict[Path, int] = {}

    def add(self, found: Iterable[Bad]) -> None:
        for bad in found:
            self._met.setdefault((bad.key, bad.field), bad)

    def entries(self) -> list[Bad]:
        return list(self._met.values())

    def append_to(self, path: str | Path) -> int:
        """Append what the JSONL file `path` does not have yet (a resumed run meets the same files
        again). Returns how many."""
        path, entries = Path(path), self.entries()
        fresh = entries[self._written.get(path, 0) :]
        self._written[path] = len(entries)
        if not fresh:
            return 0
        known = {(bad.key, bad.field) for bad in read(path)} if path.exists() else set()
        new = [bad for bad in fresh if (bad.key, bad.field) not in known]
        if not new:
            return 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torn = (
                path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
            )
            with path.open("a", encoding="utf-8") as file:
                file.write("\n" if torn else "")
                file.writelines(json.dumps(asdict(bad), ensure_ascii=False) + "\n" for bad in new)
        except OSError as error:
            raise AmodalError(
                f"could not write {path}, which lists the values that cannot be read: {error.strerror or error}. Free some space; a run "
                "goes on from its last checkpoint with --resume."
            ) from error
        return len(new)


def read(path: str | Path) -> list[Bad]:
    """The entries of a quarantine file. A last line that a killed run left half written is passed
    over."""
    entries = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entries.append(Bad(**json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            continue
    return entries
