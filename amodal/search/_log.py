"""An append log: files that only grow, and a manifest that says how much of them counts.

    manifest.json                  format, fingerprint of the encoder, width, generation, counts,
                                   checksums of what counts of each file; replaced in one step
    records.GENERATION.jsonl       one line a record: key, stamp of its content, labels and, where
                                   the key is a hash of a row, what people call it
    dead.GENERATION.bin            int64 numbers of records that were deleted or written anew
    FIELD.GENERATION.f16           unit vectors, float16, one after another
    FIELD.GENERATION.rows          int64 number of the record that each vector, or list of vectors,
                                   is of
    FIELD.GENERATION.lengths       of a field with lists: int64, vectors in each
    FIELD.GENERATION.parts         of a field with lists: int32 number of the part of the value that
                                   each vector is of

A change appends, syncs the files to disk, and then replaces the manifest. What a killed writer left
behind the counts of the manifest does not exist for readers and is cut off by the next writer.
Another generation is written when the dead are cleared out.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from amodal.core import AmodalError
from amodal.core.file_lock import locked
from amodal.core.regular_file import regular
from amodal.search._maxsim import Lists

Record = dict[str, Any]
"""key, stamp, labels, and a name where there is one."""

FORMATS = (1, 2)
"""2 has fields with lists of vectors."""
CHECKSUMS, OWN = "checksums", "checksum"
"""Entries of the manifest: CRC-32 of what counts of each file, and of the manifest without this."""
CHUNK = 2**24
"""Bytes that are summed at once."""
MAX_WIDTH = 2**24
"""Dimensions that a manifest may promise: a query has as many, before any file is looked at."""


class Log:
    """The files of an index. manifest: {} before the first commit."""

    def __init__(self, path: Path):
        self.path = path
        self.manifest: dict[str, Any] = {}
        self.checked: dict[Path, tuple[int, int]] = {}  # file -> bytes and checksum that are right
        self.reload()

    def reload(self) -> None:
        """Read the manifest. Raises AmodalError for a damaged one and another format."""
        file = self.path / "manifest.json"
        if not file.exists():
            self.manifest = {}
            return
        try:
            self.manifest = json.loads(regular(file).read_text(encoding="utf-8"))
            version = self.manifest["format"]
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            raise AmodalError(
                f"{file} cannot be read ({error}); remove the folder {self.path} and index anew"
            ) from error
        if version not in FORMATS:
            raise AmodalError(
                f"the index in {self.path} has format {version}, this version reads format "
                f"{FORMATS[-1]}; index anew"
            )

        written = {k: v for k, v in self.manifest.items() if k != OWN}
        if OWN in self.manifest and self.manifest[OWN] != _checksum_of(written):
            raise AmodalError(
                f"{file} is damaged: its checksum is another; remove the folder {self.path} and "
                "index anew"
            )
        if wrong := _wrong(self.manifest):
            raise AmodalError(
                f"{file} is damaged: {wrong}; remove the folder {self.path} and index anew"
            )

    @property
    def generation(self) -> int:
        """A number in the names of the files, which `rewrite` increases."""
        return int(self.manifest.get("generation", 0))

    @property
    def sources(self) -> list[str]:
        return list(self.manifest.get("vectors", {}))

    @property
    def width(self) -> int:
        return int(self.manifest.get("width", 0))

    def file(self, name: str, ending: str, generation: int | None = None) -> Path:
        number = self.generation if generation is None else generation
        return self.path / f"{quote(name, safe='')}.{number}.{ending}"

    # What readers see

    def records(self) -> list[Record]:
        """All records, deleted ones too."""
        if not self.manifest:
            return []
        file, size = self.file("records", "jsonl"), self.manifest["record_bytes"]
        try:
            with file.open("rb") as stream:
                content = stream.read(size)
            self._check_content(file, content)
            lines = content.splitlines()
            # Three times as fast as line by line.
            records: list[Record] = json.loads(b"[" + b",".join(lines) + b"]")
        except AmodalError:  # of the checksum, which names the file
            raise
        except (OSError, ValueError) as error:
            raise AmodalError(
                f"{file} is damaged ({error}); remove the folder {self.path} and index anew"
            ) from error
        self._check_count(len(records), self.manifest["records"], file, exactly=True)
        return records

    def dead(self) -> np.ndarray:
        """(n,) int64 numbers of deleted records."""
        return self._array(self.file("dead", "bin"), np.int64, (self.manifest.get("dead", 0),))

    def vectors(self, source: str) -> tuple[np.ndarray, np.ndarray]:
        """(n, D) float16, memory-mapped, and the (n,) numbers of their records."""
        lists = self.lists(source)
        return lists.values, lists.vector_rows()

    def lists(self, source: str) -> Lists:
        """The vectors of a field as lists, memory-mapped."""
        n, m = self.manifest["vectors"][source], self.manifest.get("lists", {}).get(source)
        values = self._array(self.file(source, "f16"), np.float16, (n, self.width))
        rows = self._array(self.file(source, "rows"), np.int64, (n if m is None else m,))
        if m is None:
            return Lists(values, rows)
        lengths = self._array(self.file(source, "lengths"), np.int64, (m,))
        if lengths.sum() != n or len(lengths) and lengths.min() < 1:
            raise AmodalError(
                f"{self.file(source, 'lengths')} is damaged; remove the folder {self.path} and "
                "index "
                "anew"
            )
        return Lists(values, rows, lengths, self._array(self.file(source, "parts"), np.int32, (n,)))

    def is_multi_vector(self, source: str) -> bool:
        """Whether a field has lists of vectors."""
        return source in self.manifest.get("lists", {})

    def _array(self, file: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
        if 0 in shape:
            return np.zeros(shape, dtype=dtype)
        have = file.stat().st_size if file.exists() else 0
        self._check_count(have // np.dtype(dtype).itemsize, int(np.prod(shape)), file)
        # torch takes the mode "c" as it is; "r" it wants copied.
        array = np.memmap(file, dtype=dtype, mode="c", shape=shape)
        self._check_content(file, array.data.cast("B"))
        return array

    def _check_content(self, file: Path, content: bytes | memoryview) -> None:
        """Compare what counts of a file with its checksum, once for each process and state.

        Raises:
            AmodalError: It is another. Indices of before have none.
        """
        expected = self.manifest.get(CHECKSUMS, {}).get(_name_of(file))
        state = len(content), expected
        if expected is None or self.checked.get(file) == state:
            return
        found = 0
        for start in range(0, len(content), CHUNK):
            found = zlib.crc32(content[start : start + CHUNK], found)
        if found != expected:
            raise AmodalError(
                f"{file} is damaged: its content has another checksum than when it was written; "
                f"remove the folder {self.path} and index anew"
            )
        self.checked[file] = len(content), expected

    def _check_count(self, count: int, expected: int, file: Path, exactly: bool = False) -> None:
        if count < expected or exactly and count != expected:
            counts = f"it should hold {expected} entries and has {count}"
            raise AmodalError(
                f"{file} is damaged: {counts}; remove the folder {self.path} and index anew"
            )

    # What a writer does

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the index for one writer; the lock ends with the process, however that ends. Raises
        AmodalError where the folder cannot be written."""
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.path / ".lock", wait=False))
            except BlockingIOError:
                raise AmodalError(
                    f"another process is writing to the index in {self.path}; wait for it to end"
                ) from None
            except OSError as error:
                raise AmodalError(
                    f"cannot write to the index in {self.path}: {error.strerror or error}. Make it "
                    "writable, or index into another folder."
                ) from error
            self.reload()  # another process may have written since this one read
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove the files of other generations, which a killed `rewrite` left behind."""
        for file in self.path.iterdir():
            # NAME.GENERATION.ENDING, and one ending has a dot of its own
            parts = file.name.rsplit(".", 3 if file.name.endswith(".faiss.json") else 2)
            if len(parts) > 2 and parts[1].isdigit() and int(parts[1]) != self.generation:
                file.unlink(missing_ok=True)

    def start(self, fingerprint: str, width: int) -> None:
        """The manifest of an index without records, not yet written."""
        counts = {"records": 0, "record_bytes": 0, "dead": 0, "vectors": {}}
        self.manifest = {
            "format": FORMATS[0],
            "fingerprint": fingerprint,
            "width": width,
            "generation": 0,
            **counts,
        }

    def append(
        self, records: Sequence[Record], vectors: dict[str, Lists], dead: Sequence[int] = ()
    ) -> None:
        """Append, all or nothing.

        Args:
            records: New ones.
            vectors: source -> unit vectors with the numbers of their records.
            dead: Numbers of records that are deleted or replaced.

        Raises:
            AmodalError: When the disk is full or cannot be written; the index stays as it was.
        """
        m = self.manifest
        encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes one for each record
        lines = "".join(encode(r) + "\n" for r in records).encode("utf-8")
        new = m | {
            "records": m["records"] + len(records),
            "record_bytes": m["record_bytes"] + len(lines),
            "dead": m["dead"] + len(dead),
            "vectors": dict(m["vectors"]),
        }
        sums = dict(m.get(CHECKSUMS, {}))
        try:
            self._write(self.file("records", "jsonl"), m["record_bytes"], lines, sums)
            numbers = np.asarray(dead, dtype=np.int64).tobytes()
            self._write(self.file("dead", "bin"), 8 * m["dead"], numbers, sums)
            for source, added in vectors.items():
                have, lists = m["vectors"].get(source, 0), m.get("lists", {}).get(source, 0)
                self._extend(source, "f16", have * m["width"], added.values, np.float16, sums)
                before = have if added.lengths is None else lists
                self._extend(source, "rows", before, added.rows, np.int64, sums)
                new["vectors"][source] = have + len(added.values)
                if added.lengths is not None:
                    self._extend(source, "lengths", lists, added.lengths, np.int64, sums)
                    assert added.parts is not None, "lists have numbers of parts"
                    self._extend(source, "parts", have, added.parts, np.int32, sums)
                    new["lists"] = new.get("lists", {}) | {source: lists + len(added.rows)}
                    new["format"] = FORMATS[1]
            # last: what lies behind the counts of a manifest is not there for readers
            self.commit(new | {CHECKSUMS: sums})
        except OSError as error:
            raise AmodalError(
                f"could not write to the index in {self.path}: {error}. What was in it before is "
                "unharmed."
            ) from error

    def _extend(
        self,
        source: str,
        ending: str,
        have: int,
        values: np.ndarray,
        dtype: npt.DTypeLike,
        sums: dict[str, int],
    ) -> None:
        content = np.ascontiguousarray(values, dtype=dtype)
        self._write(self.file(source, ending), have * content.itemsize, content.tobytes(), sums)

    def _write(self, file: Path, offset: int, content: bytes, sums: dict[str, int]) -> None:
        """Write at a byte, and replace the checksum in `sums` by that of the whole file. A file of
        an index of before has none, and gets none."""
        _extend(file, offset, content)
        name = _name_of(file)
        before = sums.get(name) if offset else 0
        if before is not None:
            sums[name] = zlib.crc32(content, before)
            if not offset or self.checked.get(file) == (offset, before):
                self.checked[file] = offset + len(content), sums[name]

    def commit(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest: from now on readers see what was appended."""
        manifest = {k: v for k, v in manifest.items() if k != OWN}
        manifest[OWN] = _checksum_of(manifest)
        write_atomically(
            self.path / "manifest.json", json.dumps(manifest, indent=1).encode("utf-8")
        )
        self.manifest = manifest

    def rewrite(self, alive: np.ndarray, records: Sequence[Record]) -> None:
        """Write another generation that holds the records `alive` (n,) only; remove this one."""
        number = np.full(int(self.manifest["records"]), -1, dtype=np.int64)
        number[alive] = np.arange(len(alive))
        vectors = {}
        for source in self.sources:
            lists = self.lists(source)
            left = lists.select(np.flatnonzero(number[lists.rows] >= 0))
            vectors[source] = replace(left, rows=number[left.rows])
        counts = {"records": 0, "record_bytes": 0, "dead": 0, "vectors": {}, "lists": {}}
        counts |= {CHECKSUMS: {}}
        before, self.manifest = (
            self.manifest,
            self.manifest | counts | {"generation": self.generation + 1},
        )
        try:
            self.append([records[i] for i in alive], vectors)
        except AmodalError:
            self.manifest = before
            raise
        self._sweep()


def _wrong(manifest: dict[str, Any]) -> str:
    """What is wrong with a manifest, "" if nothing is. The counts are sizes of files, and nothing
    else checks them."""

    def count(value: object) -> bool:
        return type(value) is int and 0 <= value < 2**48

    for name in ("records", "record_bytes", "dead", "width", "generation"):
        if not count(manifest.get(name)):
            return f"{name} should be a count and is {manifest.get(name)!r}"
    if manifest["width"] > MAX_WIDTH:
        return (
            f"width should be that of vectors, at most {MAX_WIDTH:,}, and is {manifest['width']:,}"
        )
    for name in ("vectors", "lists"):
        counts = manifest.get(name, {} if name == "lists" else None)
        if not isinstance(counts, dict) or not all(map(count, counts.values())):
            return f"{name} should say how many there are of each field, and is {counts!r}"[:200]
    return "" if isinstance(manifest.get("fingerprint"), str) else "it names no encoder"


def _checksum_of(manifest: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _name_of(file: Path) -> str:
    """A file without its folder and generation."""
    name, _, ending = file.name.rsplit(".", 2)
    return f"{name}.{ending}"


def _extend(file: Path, offset: int, content: bytes) -> None:
    """Write `content` at a byte, over what a killed writer may have left there, and sync it."""
    with file.open("r+b" if file.exists() else "w+b") as stream:
        stream.truncate(offset)
        stream.seek(offset)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_atomically(file: Path, content: bytes) -> None:
    """Replace a file; if the machine stops, it holds all of `content` or what it held before."""
    draft = file.with_name(f".{file.name}.draft")
    with draft.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    # the new name is an entry of the folder, which reaches the disk on its own
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
