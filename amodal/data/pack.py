"""Write a dataset in the packed format, so that it is one thing to copy, is read by mapping, and
notices damage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from amodal.core import AmodalError
from amodal.data import schema
from amodal.data.dataset import Dataset
from amodal.data.quarantine import Bad, Quarantine
from amodal.data.readers import native
from amodal.data.remote import AT_ONCE, Unreachable, together


def pack(dataset: Dataset, path: str | Path, *, shard_bytes: int = 128 * 2**20) -> Path:
    """Copy every record of `dataset`, its files included, into the folder `path`. Returns the
    folder.

    A pack that is already there is replaced when the new one is whole and on disk, in one step:
    whatever stops this, a reader finds the old data or the new. Files that cannot be read become
    missing values, listed in quarantine.jsonl. Raises AmodalError where the folder cannot be
    written, and for one that holds something else.
    """
    folder = Path(path)
    _refuse_others(folder)
    try:
        return _pack(dataset, folder, shard_bytes)
    except OSError as error:
        for part in folder.glob(f"writing-{os.getpid()}.part"):
            part.unlink(missing_ok=True)
        raise AmodalError(
            f"could not write the pack in {folder}: {error.strerror or error}. A pack that was there before is unharmed. Make room, or "
            "choose another folder."
        ) from error


def _pack(dataset: Dataset, folder: Path, shard_bytes: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    bad = Quarantine()
    shards = [_write_shard(folder, rows) for rows in _chunks(dataset, shard_bytes, bad)]
    text = json.dumps({"format": native.FORMAT, "rows": len(dataset), "shards": shards}, indent=1)
    manifest = folder / f"manifest-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    _commit(manifest, text.encode())
    _commit(
        folder / "dataset.toml", schema.dumps(_schema(dataset, manifest.name)).encode()
    )  # from here on it is the new data
    _sweep(folder, {manifest.name, *(s["file"] for s in shards)})
    bad.append_to(folder / "quarantine.jsonl")
    return folder


def _schema(dataset: Dataset, manifest: str) -> schema.Schema:
    old = dataset.schema
    return replace(
        old,
        records=(manifest,),
        key="",
        split_by=native.GROUP if old.split_by else "",
        split=native.SPLIT if old.split else "",
        fields={
            name: replace(f, column=name, suffix=(), within="") for name, f in old.fields.items()
        },
        labels={
            name: replace(label, column=_label_column(dataset, name))
            for name, label in old.labels.items()
        },
    )


def _label_column(dataset: Dataset, name: str) -> str:
    return f"{name}.label" if name in dataset.fields else name


def _chunks(dataset: Dataset, shard_bytes: int, bad: Quarantine) -> Iterator[pa.RecordBatch]:
    """The records, in their order, as batches of about `shard_bytes`."""
    plain = {native.KEY: pa.array(dataset.keys, pa.string())}
    for name in dataset.labels:
        plain[_label_column(dataset, name)] = pa.array(dataset.label(name), from_pandas=True)
    for column, of in (
        (native.GROUP, dataset.schema.split_by),
        (native.SPLIT, dataset.schema.split),
    ):
        if of:
            plain[column] = pa.array(
                [None if c is None else str(c) for c in dataset.reader.cells(of)], pa.string()
            )
    start, size, cells = 0, 0, {name: [] for name in dataset.fields}
    for i, (key, encoded) in enumerate(zip(dataset.keys, _encoded(dataset))):
        for cell, (name, column) in zip(encoded, cells.items()):
            if isinstance(cell, Exception):
                bad.add([Bad(key, name, str(cell))])
                cell = None
            column.append(cell)
            size += len(cell["data"]) if cell else 0
        if size >= shard_bytes or i == len(dataset) - 1:
            columns = {name: column.slice(start, i + 1 - start) for name, column in plain.items()}
            columns |= {name: pa.array(column, native.CELL) for name, column in cells.items()}
            yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
            start, size, cells = i + 1, 0, {name: [] for name in cells}


def _encoded(dataset: Dataset) -> Iterator[list]:
    """The cells of each record as they are stored, or why one cannot be read; out of object storage
    many records at a time."""

    def cells(i: int) -> list:
        found = []
        for name in dataset.fields:
            try:
                found.append(native.encode(dataset.raw(i, name)))
            except Unreachable:
                raise
            except (OSError, AmodalError) as error:
                found.append(error)
        return found

    step = AT_ONCE if dataset.reader.far else 1
    for start in range(0, len(dataset), step):
        yield from together(
            cells, range(start, min(start + step, len(dataset))), dataset.reader.far
        )


def _write_shard(folder: Path, rows: pa.RecordBatch) -> dict:
    """One batch as a file called after its content, whole and on disk; its entry in the manifest."""
    part = folder / f"writing-{os.getpid()}.part"
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_batch(rows)
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    target = folder / f"shard-{digest[:16]}.arrow"
    os.replace(part, target)
    return {
        "file": target.name,
        "rows": rows.num_rows,
        "bytes": target.stat().st_size,
        "sha256": digest,
    }


def _commit(path: Path, content: bytes) -> None:
    """Replace a file in one step, on disk when this returns."""
    part = path.with_name(f"writing-{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(folder: Path, kept: set[str]) -> None:
    """Remove what earlier packs, whole or interrupted, left behind."""
    for pattern in ("shard-*.arrow", "manifest-*.json", "writing-*.part"):
        for file in folder.glob(pattern):
            if file.name not in kept:
                file.unlink()


def _refuse_others(folder: Path) -> None:
    """Only a pack may be replaced."""
    toml = folder / "dataset.toml"
    if folder.is_file():
        raise AmodalError(f"{folder} is a file; give a folder to pack into")
    if toml.exists() and not schema.load(toml).records[0].startswith("manifest-"):
        raise AmodalError(
            f"{toml} describes data that is not packed. Give a new folder, so that nothing of it is overwritten."
        )
    if (
        folder.is_dir()
        and not toml.exists()
        and any(not native.OWN.fullmatch(f.name) for f in folder.iterdir())
    ):
        raise AmodalError(f"{folder} has other files in it. Give a new or an empty folder.")
