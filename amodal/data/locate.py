"""Which files of a folder are the records: tars, tables, a saved dataset, or all files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amodal.core import AmodalError
from amodal.data import infer_schema, readers
from amodal.data.readers import native
from amodal.data.remote import AnyPath
from amodal.data.splits import SPELLINGS


def locate(path: AnyPath) -> tuple[AnyPath, tuple[str, ...]]:
    """Find the records in data that no dataset.toml describes.

    Args:
        path: a folder or a file.

    Returns:
        The folder of the future dataset.toml, and its `records`.

    Raises:
        AmodalError: the folder holds an interrupted pack.
    """
    if path.is_file():
        return path.parent, (path.name,)
    if any(
        fits(path) for fits in (readers.is_huggingface, readers.is_lance, readers.is_zarr_shards)
    ):
        return path, (".",)
    children: list[AnyPath] = [*path.iterdir()]
    names = {child.name for child in children}
    exported = readers.exported(str(path), names) if isinstance(path, Path) else set()
    files = [
        file
        for file in sorted(children, key=lambda file: file.name)
        if file.is_file()
        and not file.name.startswith((".", "dataset.toml"))
        and file.name not in exported
    ]
    if files and all(native.PACK_FILE.fullmatch(file.name) for file in files):
        raise AmodalError(
            f"{path} holds an interrupted pack: its dataset.toml was never written. "
            "Pack the data anew."
        )
    for ending in (".tar", ".parquet", ".jsonl", ".ndjson"):
        same = [file for file in files if file.suffix.lower() == ending]
        if same:
            return path, (same[0].name if len(same) == 1 else f"*{ending}",)
    tables = [file for file in files if file.suffix.lower() in (".csv", ".tsv", ".json")]
    if len(tables) == 1 and (_names_files(tables[0]) or not _has_media(path, tables[0])):
        return path, (tables[0].name,)
    rows = [file for file in tables if file.suffix.lower() != ".json"]
    if len(rows) > 1 and all(_names_existing_files(file) for file in rows):
        return path, tuple(file.name for file in rows)
    if len(rows) > 1 and _are_parts(rows, path):
        return path, tuple(file.name for file in rows)
    if not _has_media(path) and any(path.rglob("*.parquet")):
        return path, ("**/*.parquet",)
    return path, (".",)


def _names_files(file: AnyPath) -> bool:
    """Whether a table has a column that names files which exist."""
    reader = readers.Table([file])
    return any(
        infer_schema.names_files(_texts(reader, column), file.parent) for column in reader.columns
    )


def _names_existing_files(file: AnyPath) -> bool:
    """Whether a table has a column of files of which some exist. One that cannot be read has none:
    it may be a series among others."""
    try:
        reader = readers.Table([file])
    except AmodalError:
        return False
    columns = [_texts(reader, column) for column in reader.columns]
    return any(
        infer_schema.names_files(texts, file.parent)
        and any((file.parent / text).is_file() for text in texts[:50] if len(text) < 256)
        for texts in columns
    )


def _has_media(path: AnyPath, besides: AnyPath | None = None) -> bool:
    """Whether a folder has files, besides this one, that a modality reads."""
    known = infer_schema.suffix_modalities()
    return any(
        readers.ending_of(name) in known
        for name in readers.names_below(path)
        if besides is None or name != besides.name
    )


def _are_parts(tables: Sequence[AnyPath], path: AnyPath) -> bool:
    """Whether tables are called after parts of a split, and no other data is beside them."""
    known = infer_schema.suffix_modalities()
    names = {name for name in readers.names_below(path) if readers.ending_of(name) in known}
    return names == {file.name for file in tables} and all(
        file.stem.lower() in SPELLINGS for file in tables
    )


def _texts(reader: readers.Reader, column: str) -> list[str]:
    return [cell for cell in reader.cells(column)[:200] if isinstance(cell, str) and cell]
