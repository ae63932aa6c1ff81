"""Write a dataset in the packed format: few files to copy, read by mapping, and with checksums."""

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
from amodal.data.readers.native import EncodedCell
from amodal.data.remote import MAX_REQUESTS, Unreachable, parallel_map


def pack(dataset: Dataset, path: str | Path, *, shard_bytes: int = 128 * 2**20) -> Path:
    """Copy every record of a dataset, its files included, into a folder.

    An older pack in the folder is replaced in one step, after the new one is complete and on disk.
    So a reader finds the old data or the new, whatever interrupts this. Files that cannot be read
    become missing values, listed in quarantine.jsonl.

    Args:
        dataset: to copy.
        path: the folder.
        shard_bytes: size of a shard, about.

    Returns:
        The folder.

    Raises:
        AmodalError: the folder cannot be written, or holds something else than a pack.
    """
    folder = Path(path)
    _refuse_others(folder)
    try:
        return _pack(dataset, folder, shard_bytes)
    except OSError as error:
        for part in folder.glob(f"writing-{os.getpid()}.part"):
            part.unlink(missing_ok=True)
        raise AmodalError(
            f"could not write the pack in {folder}: {error.strerror or error}. An older pack in it "
            "is unharmed. Make room, or choose another folder."
        ) from error


def _pack(dataset: Dataset, folder: Path, shard_bytes: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    bad = Quarantine()
    # shards first, named after their content: no file that a reader of the old pack has open
    # changes
    shards = [_write_shard(folder, rows) for rows in _chunks(dataset, shard_bytes, bad)]
    text = json.dumps({"format": native.FORMAT, "rows": len(dataset), "shards": shards}, indent=1)
    manifest = folder / f"manifest-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    _commit(manifest, text.encode())
    # Replacing dataset.toml is what makes the new data the current one.
    _commit(folder / "dataset.toml", schema.dumps(_schema(dataset, manifest.name)).encode())
    _remove_others(folder, {manifest.name, *(str(shard["file"]) for shard in shards)})
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
    plain: dict[str, pa.Array] = {native.KEY: pa.array(dataset.keys, pa.string())}
    for name in dataset.labels:
        plain[_label_column(dataset, name)] = pa.array(dataset.label(name), from_pandas=True)
    for name, source in (
        (native.GROUP, dataset.schema.split_by),
        (native.SPLIT, dataset.schema.split),
    ):
        if source:
            texts = [None if c is None else str(c) for c in dataset.reader.cells(source)]
            plain[name] = pa.array(texts, pa.string())
    start, size = 0, 0
    cells: dict[str, list[EncodedCell | None]] = {name: [] for name in dataset.fields}
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


def _encoded(dataset: Dataset) -> Iterator[list[EncodedCell | Exception | None]]:
    """The cells of each record as they are stored, or why one cannot be read. Out of object storage
    many records at a time."""

    def cells(i: int) -> list[EncodedCell | Exception | None]:
        encoded: list[EncodedCell | Exception | None] = []
        for name in dataset.fields:
            try:
                encoded.append(native.encode(dataset.raw(i, name)))
            except Unreachable:
                raise
            except (OSError, AmodalError) as error:
                encoded.append(error)
        return encoded

    step = MAX_REQUESTS if dataset.reader.is_remote else 1
    for start in range(0, len(dataset), step):
        yield from parallel_map(
            cells, range(start, min(start + step, len(dataset))), dataset.reader.is_remote
        )


def _write_shard(folder: Path, rows: pa.RecordBatch) -> dict[str, str | int]:
    """Write one batch as a file that is named after its content, and return its entry in the
    manifest."""
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


def _remove_others(folder: Path, current: set[str]) -> None:
    """Remove the files of earlier packs, complete or interrupted."""
    for pattern in ("shard-*.arrow", "manifest-*.json", "writing-*.part"):
        for file in folder.glob(pattern):
            if file.name not in current:
                file.unlink()


def _refuse_others(folder: Path) -> None:
    """Only a pack may be replaced."""
    toml = folder / "dataset.toml"
    if folder.is_file():
        raise AmodalError(f"{folder} is a file; give a folder to pack into")
    if toml.exists() and not schema.load(toml).records[0].startswith("manifest-"):
        raise AmodalError(
            f"{toml} describes data that is not packed. Give a new folder, "
            "so that nothing of it is overwritten."
        )
    if (
        folder.is_dir()
        and not toml.exists()
        and any(not native.PACK_FILE.fullmatch(f.name) for f in folder.iterdir())
    ):
        raise AmodalError(f"{folder} has other files in it. Give a new or an empty folder.")
