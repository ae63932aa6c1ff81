"""Values that cannot be read: listed with key and reason. Their records are used without them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from amodal.core import AmodalError
from amodal.core.regular_file import regular


@dataclass(frozen=True)
class Bad:
    """A value that could not be read.

    Attributes:
        key: of its record.
        field: of the value.
        reason: a text for people.
    """

    key: str
    field: str
    reason: str


class Quarantine:
    """The bad values so far, each (key, field) once, in the order in which they occurred."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Bad] = {}
        self._written: dict[Path, int] = {}

    def add(self, values: Iterable[Bad]) -> None:
        """Add values; those that are in here already are passed over."""
        for bad in values:
            self._entries.setdefault((bad.key, bad.field), bad)

    def entries(self) -> list[Bad]:
        """All values so far."""
        return list(self._entries.values())

    def append_to(self, path: str | Path) -> int:
        """Append the values that a JSONL file does not have yet.

        A run that is resumed reads the same files a second time, so the file is read first.

        Args:
            path: of the file.

        Returns:
            How many were appended.

        Raises:
            AmodalError: the file cannot be written.
        """
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
            # A run that was killed may have left half a line: the next one must not join it.
            torn = (
                path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
            )
            with path.open("a", encoding="utf-8") as file:
                file.write("\n" if torn else "")
                file.writelines(json.dumps(asdict(bad), ensure_ascii=False) + "\n" for bad in new)
        except OSError as error:
            raise AmodalError(
                f"could not write {path}, which lists the values that cannot be read: "
                f"{error.strerror or error}. Free some space; a run goes on from its last "
                "checkpoint with --resume."
            ) from error
        return len(new)


def read(path: str | Path) -> list[Bad]:
    """The entries of a quarantine file. A line that a killed run left half written is passed
    over."""
    entries = []
    try:
        text = regular(Path(path)).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise AmodalError(f"{path} cannot be read: {error}") from error
    for line in text.splitlines():
        try:
            entries.append(Bad(**json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            continue
    return entries
