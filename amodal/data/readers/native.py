"""The packed format: Arrow IPC shards, mapped when read, and a manifest with the rows, bytes and
SHA-256 of each.

    dataset.toml              the schema; its `records` names the manifest, so replacing it is what
                              commits a pack
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
from pathlib import Path

import numpy as np
import pyarrow as pa

from amodal.core import AmodalError
from amodal.data.readers._parts import Mapped
from amodal.data.readers._shards import FarShard
from amodal.data.readers._tabular import Tabular
from amodal.data.readers.base import inside
from amodal.data.remote import Remote, place, together
from amodal.modalities.shared.cells import as_number

FORMAT = "amodal-arrow-1"
OWN = re.compile(r"shard-[0-9a-f]{16}\.arrow|manifest-[0-9a-f]{16}\.json|writing-\d+\.part")
"""What the files of a pack are called, besides dataset.toml."""
KEY, GROUP, SPLIT = "__key__", "__group__", "__split__"
CELL = pa.struct([("kind", pa.int8()), ("data", pa.large_binary())])
FILE, TEXT, ARRAY, JSON = range(4)
CHECKED = 256 * 2**20
"""Shards of up to this many bytes together are hashed when opened; of larger data, and of that in
object storage, only the sizes are looked at, until `verify` is called."""


class Native(Tabular):
    def __init__(self, manifest: Path):
        self.manifest = place(manifest)
        self.shards = _read(self.manifest)["shards"]
        folder = self.manifest.parent
        paths = [inside(folder, shard["file"], f"{self.manifest}: file") for shard in self.shards]
        far = isinstance(folder, Remote)
        for path, shard in zip(paths, self.shards):
            if not path.exists() or path.stat().st_size != shard["bytes"]:
                found = f"has {path.stat().st_size:,} bytes" if path.exists() else "is missing"
                raise AmodalError(
                    f"{path} {found}; {self.manifest.name} promises {shard['bytes']:,}. Copy it again or pack again."
                )
        self.cell_columns: set[str] = set()
        if not far and sum(shard["bytes"] for shard in self.shards) <= CHECKED:
            self._verify(paths)
        parts = together(lambda p: FarShard(p, CELL) if far else Mapped(p, open_shard), paths, far)
        if lacking := next((p for p in parts if KEY not in p.columns), None):
            raise AmodalError(
                f"{lacking.path} has no column {KEY!r}: it is no shard of a pack. Pack the data again."
            )
        schema = (parts[0]._batch if far else parts[0]._table).schema if parts else ()
        self.cell_columns = {field.name for field in schema if field.type == CELL}
        super().__init__(parts, paths, folder, KEY)
        self.columns = tuple(c for c in self.columns if c != KEY)

    def verify(self) -> None:
        """Hash every shard; an error that names the first one whose content is not what was packed."""
        self._verify(self.paths)

    def _verify(self, paths: list[Path]) -> None:
        for path, shard in zip(paths, self.shards):
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
                    raise AmodalError(
                        f"{path} is damaged: its content is not what was packed. Copy it again or pack again."
                    )

    def stamp(self) -> str:
        return hashlib.blake2b(
            "".join(s["sha256"] for s in self.shards).encode(), digest_size=16
        ).hexdigest()

    def check(self, column: str) -> str:
        return column if column == KEY else super().check(column)

    def _cell(self, cell, column: str):
        return (
            decode(cell)
            if column in self.cell_columns and cell is not None
            else super()._cell(cell, column)
        )


def open_shard(path: Path) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)  # offsets and text, which Arrow otherwise takes on trust
        return table
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise AmodalError(
            f"{path} is no whole shard: {error}. Copy it again or pack again."
        ) from error


def encode(cell) -> dict | None:
    """A cell as it is stored. Raises OSError for the path of a file that cannot be read."""
    if cell is None:
        return None
    if isinstance(cell, Path):
        return {"kind": FILE, "data": cell.read_bytes()}
    if isinstance(cell, bytes):
        return {"kind": FILE, "data": cell}
    if isinstance(cell, str):
        return {"kind": TEXT, "data": cell.encode("utf-8", "surrogatepass")}
    if isinstance(cell, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, cell, allow_pickle=False)
        return {"kind": ARRAY, "data": buffer.getvalue()}
    return {"kind": JSON, "data": json.dumps(cell, default=_plain).encode()}


def decode(cell: dict):
    data = cell["data"]
    match cell["kind"]:
        case 0:
            return data
        case 1:
            return data.decode("utf-8", "surrogatepass")
        case 2:
            return np.load(io.BytesIO(data), allow_pickle=False)
        case _:
            return json.loads(data)


def _plain(value):
    """What JSON does not know: numpy values, dates (as seconds, which is how a table reads them),
    decimals."""
    if isinstance(value, datetime.date):
        return as_number(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _read(manifest: Path) -> dict:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AmodalError(f"{manifest} cannot be read: {error}. Pack the data again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise AmodalError(f"{manifest} has the format {found!r}; this version reads {FORMAT!r}")
    shards = content.get("shards")
    kinds = {"file": str, "rows": int, "bytes": int, "sha256": str}
    if not isinstance(shards, list) or not all(
        isinstance(s, dict) and all(type(s.get(key)) is kind for key, kind in kinds.items())
        for s in shards
    ):
        raise AmodalError(
            f"{manifest} is damaged: each shard needs {', '.join(kinds)}. Pack the data again."
        )
    return content
