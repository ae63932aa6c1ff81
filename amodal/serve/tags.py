"""Tags of records, in a file of the run folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from amodal.core import AmodalError, unknown
from amodal.core.regular_file import regular
from amodal.core.whole_file import whole_file
from amodal.modalities.shared.base import shortened

MAX_TAGS = 100
"""Different tags of a run."""
MAX_LENGTH = 60
"""Characters of a tag."""


class Tags:
    """Tag -> keys of the records that have it.

    They are by key, so they hold when records are added to the data. The file is read anew where it
    has changed: two pages may show the same run.

    Args:
        file: Where they are; it is made with the first tag.

    Raises:
        AmodalError: There is a file, and it is damaged.
    """

    def __init__(self, file: Path):
        self.file = file
        self._changing = Lock()
        self._stamp: tuple[int, int] | None = None
        self._read: dict[str, frozenset[str]] = {}
        self.all()

    def all(self) -> dict[str, frozenset[str]]:
        """Tag -> keys, by name."""
        with self._changing:
            return dict(self._current())

    def of(self, key: str) -> list[str]:
        """The tags of a record."""
        return [tag for tag, keys in self.all().items() if key in keys]

    def keys(self, tags: Iterable[str]) -> frozenset[str]:
        """Of the records that have any of these tags.

        Raises:
            AmodalError: A tag that no record has.
        """
        known = self.all()
        for tag in tags:
            if tag not in known:
                raise unknown("tag of this run", shortened(tag), known)
        return frozenset().union(*(known[tag] for tag in tags))

    def add(self, tag: str, keys: Iterable[str]) -> int:
        """Tag records.

        Returns:
            How many did not have it.

        Raises:
            AmodalError: The tag is empty, long or has control characters; there are too many; it
                cannot be written.
        """
        tag = checked(tag)
        with self._changing:
            tags = dict(self._current())
            if tag not in tags and len(tags) >= MAX_TAGS:
                raise AmodalError(f"there are {MAX_TAGS} tags already; delete one first")
            before = tags.get(tag, frozenset())
            tags[tag] = before | frozenset(keys)
            self._write(tags)
            return len(tags[tag]) - len(before)

    def remove(self, tag: str, keys: Iterable[str] | None = None) -> int:
        """Take a tag from records. A tag that no record has is gone.

        Args:
            tag: The tag.
            keys: Of the records, None for all.

        Returns:
            How many had it.

        Raises:
            AmodalError: No record has the tag; it cannot be written.
        """
        with self._changing:
            tags = dict(self._current())
            if tag not in tags:
                raise unknown("tag of this run", shortened(tag), tags)
            before = tags.pop(tag)
            left = frozenset() if keys is None else before - frozenset(keys)
            if left:
                tags[tag] = left
            self._write(tags)
            return len(before) - len(left)

    def _current(self) -> dict[str, frozenset[str]]:
        try:
            stat = self.file.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if stamp != self._stamp:
                self._read = _parsed(regular(self.file).read_text(encoding="utf-8"))
                self._stamp = stamp
        except FileNotFoundError:
            self._read, self._stamp = {}, None
        except (OSError, ValueError, RecursionError) as error:
            raise AmodalError(
                f"{self.file} does not hold tags ({error}); repair it, or move it away to begin "
                "without tags"
            ) from error
        return self._read

    def _write(self, tags: dict[str, frozenset[str]]) -> None:
        tags = dict(sorted(tags.items()))
        content = {"tags": {tag: sorted(keys) for tag, keys in tags.items()}}
        try:
            with whole_file(self.file) as draft:
                # keys of files may hold bytes that are no UTF-8, and are escaped
                draft.write_text(json.dumps(content, indent=1), encoding="ascii")
            stat = self.file.stat()
        except OSError as error:
            raise AmodalError(
                f"the tags could not be written to {self.file}: {error.strerror or error}"
            ) from error
        self._read, self._stamp = tags, (stat.st_mtime_ns, stat.st_size)


def checked(tag: str) -> str:
    """A tag without space around it. Raises AmodalError for what is none."""
    tag = tag.strip()
    if not tag:
        raise AmodalError("a tag needs a name; type one, such as: blurred")
    if len(tag) > MAX_LENGTH:
        raise AmodalError(f"a tag has up to {MAX_LENGTH} characters, and this one {len(tag):,}")
    if not tag.isprintable():
        raise AmodalError(f"a tag is one line of text, without control characters: {tag!r} has one")
    return tag


def _parsed(text: str) -> dict[str, frozenset[str]]:
    """Raises ValueError for another content."""
    content = json.loads(text)
    tags = content.get("tags") if isinstance(content, dict) else None
    if not isinstance(tags, dict):
        raise ValueError('no {"tags": {TAG: [KEY, …]}}')
    for tag, keys in tags.items():
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError(f"the keys of {shortened(tag)!r} are no list of texts")
    return {tag: frozenset(tags[tag]) for tag in sorted(tags)}
