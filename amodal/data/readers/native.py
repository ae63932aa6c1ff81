"""The packed format: Arrow IPC shards, mapped when read, and a manifest of them.

    dataset.toml              the schema; its `records` names the manifest, so a pack becomes the
                              current one when this file is replaced
    manifest-HASH.json        {"format", "rows", "shards": [{"file", "rows", "bytes", "sha256"}]}
    shard-HASH.arrow          one record batch; columns __key__, fields and labels

A field's cell is {kind, data}: bytes of a file, UTF-8 text, a .npy array, or JSON. So one column
may mix them, as folders do.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from amodal.core import AmodalError
from amodal.core.regular_file import regular
from amodal.data.readers._parts import Mapped
from amodal.data.readers._shards import RemoteShard
from amodal.data.readers._tabular import Tabular
from amodal.data.readers.base import Cell, inside
from amodal.data.remote import AnyPath, Remote, as_path, parallel_map
from amodal.modalities.shared.cells import as_number

FORMAT = "amodal-arrow-1"
PACK_FILE = re.compile(r"shard-[0-9a-f]{16}\.arrow|manifest-[0-9a-f]{16}\.json|writing-\d+\.part")
"""The names of the files of a pack, besides dataset.toml."""
KEY, GROUP, SPLIT = "__key__", "__group__", "__split__"
CELL = pa.struct([("kind", pa.int8()), ("data", pa.large_binary())])
FILE, TEXT, ARRAY, JSON = range(4)
MAX_HASHED_BYTES = 256 * 2**20
"""Shards of up to this many bytes together are hashed when opened. Of larger data, and of data in
object storage, only the sizes are compared, until `verify` is called."""

EncodedCell = dict[str, Any]
"""{"kind": one of FILE, TEXT, ARRAY and JSON, "data": bytes}."""


class Native(Tabular):
    """A pack.

    Args:
        manifest: its manifest.

    Raises:
        AmodalError: a shard is missing or damaged.
    """

    def __init__(self, manifest: AnyPath) -> None:
        self.manifest = as_path(manifest)
        self.shards = _read(self.manifest)["shards"]
        folder = self.manifest.parent
        paths = [inside(folder, shard["file"], f"{self.manifest}: file") for shard in self.shards]
        remote = isinstance(folder, Remote)
        for path, shard in zip(paths, self.shards):
            if not path.exists() or path.stat().st_size != shard["bytes"]:
                state = f"has {path.stat().st_size:,} bytes" if path.exists() else "is missing"
                raise AmodalError(
                    f"{path} {state}; {self.manifest.name} promises {shard['bytes']:,}. "
                    "Copy it anew, or pack anew."
                )
        self.cell_columns: set[str] = set()
        if not remote and sum(shard["bytes"] for shard in self.shards) <= MAX_HASHED_BYTES:
            self._verify(paths)
        parts = parallel_map(_open_part, paths, remote)
        for part in parts:
            if KEY not in part.columns:
                raise AmodalError(
                    f"{part.path} has no column {KEY!r}: it is no shard of a pack. "
                    "Pack the data anew."
                )
        schema = parts[0].arrow_schema if parts else ()
        self.cell_columns = {field.name for field in schema if field.type == CELL}
        super().__init__(parts, paths, folder, KEY)
        self.columns = tuple(c for c in self.columns if c != KEY)

    def verify(self) -> None:
        """Hash every shard.

        Raises:
            AmodalError: the content of a shard is not what was packed.
        """
        self._verify(self.paths)

    def _verify(self, paths: Sequence[AnyPath]) -> None:
        for path, shard in zip(paths, self.shards):
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
                    raise AmodalError(
                        f"{path} is damaged: its content is not what was packed. "
                        "Copy it anew, or pack anew."
                    )

    def stamp(self) -> str:
        return hashlib.blake2b(
            "".join(s["sha256"] for s in self.shards).encode(), digest_size=16
        ).hexdigest()

    def check(self, column: str) -> str:
        return column if column == KEY else super().check(column)

    def _cell(self, cell: Cell, column: str) -> Cell:
        return (
            decode(cell)
            if column in self.cell_columns and cell is not None
            else super()._cell(cell, column)
        )


def _open_part(path: AnyPath) -> Mapped | RemoteShard:
    return RemoteShard(path, CELL) if isinstance(path, Remote) else Mapped(path, open_shard)


def open_shard(path: Path) -> pa.Table:
    """Map a shard on disk.

    Raises:
        AmodalError: it is damaged.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)  # offsets and text, which Arrow otherwise takes on trust
        return table
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise AmodalError(
            f"{path} is no complete shard: {error}. Copy it anew, or pack anew."
        ) from error


def encode(cell: Cell) -> EncodedCell | None:
    """A cell as it is stored.

    Raises:
        OSError: it is the path of a file that cannot be read.
    """
    if cell is None:
        return None
    if isinstance(cell, Path) and cell.is_dir():
        cell = sorted(part for part in cell.iterdir() if part.is_file())
    if isinstance(cell, Path):
        return {"kind": FILE, "data": cell.read_bytes()}
    if isinstance(cell, bytes):
        return {"kind": FILE, "data": cell}
    if isinstance(cell, list) and cell and all(isinstance(part, (Path, bytes)) for part in cell):
        return {"kind": FILE, "data": _zipped(cell)}
    if isinstance(cell, str):
        return {"kind": TEXT, "data": cell.encode("utf-8", "surrogatepass")}
    if isinstance(cell, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, cell, allow_pickle=False)
        return {"kind": ARRAY, "data": buffer.getvalue()}
    if isinstance(cell, dict) and np.ndim(cell.get("values", 0)) > 2:
        buffer = io.BytesIO()  # pixels with their dates, of which JSON would be many times as large
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in cell.items()}
        np.savez(buffer, **arrays)
        return {"kind": FILE, "data": buffer.getvalue()}
    return {"kind": JSON, "data": json.dumps(cell, default=_plain).encode()}


def _zipped(parts: Sequence[Path | bytes]) -> bytes:
    """Files that are one value, as one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for i, part in enumerate(parts):
            name = part.name if isinstance(part, Path) else str(i)
            content = part.read_bytes() if isinstance(part, Path) else part
            # a date of its own would make the same files another pack
            archive.writestr(zipfile.ZipInfo(f"{i:06d}-{name}"), content)
    return buffer.getvalue()


def decode(cell: EncodedCell) -> Cell:
    """A cell as it was packed; a file as its bytes."""
    kind, data = cell["kind"], cell["data"]
    if kind == FILE:
        return data
    if kind == TEXT:
        return data.decode("utf-8", "surrogatepass")
    if kind == ARRAY:
        return np.load(io.BytesIO(data), allow_pickle=False)
    return json.loads(data)


def _plain(value: Any) -> Any:
    """Values that JSON does not know: of numpy, dates (as seconds, which is how a table reads
    them) and decimals."""
    if isinstance(value, datetime.date):
        return as_number(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _read(manifest: AnyPath) -> dict[str, Any]:
    try:
        content = json.loads(regular(manifest).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AmodalError(f"{manifest} cannot be read: {error}. Pack the data anew.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        other = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise AmodalError(f"{manifest} has the format {other!r}; this version reads {FORMAT!r}")
    shards = content.get("shards")
    kinds = {"file": str, "rows": int, "bytes": int, "sha256": str}
    if not isinstance(shards, list) or not all(
        isinstance(s, dict) and all(type(s.get(key)) is kind for key, kind in kinds.items())
        for s in shards
    ):
        raise AmodalError(
            f"{manifest} is damaged: each shard needs {', '.join(kinds)}. Pack the data anew."
        )
    return content
