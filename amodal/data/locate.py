"""Which files of a folder are the records: tars, tables, a saved dataset, or the files themselves."""

from __future__ import annotations

from pathlib import Path

from amodal.core import AmodalError
from amodal.data import infer_schema as decide
from amodal.data import readers
from amodal.data.readers import native


def locate(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder of dataset.toml, and what it should call the records."""
    if path.is_file():
        return path.parent, (path.name,)
    if readers.is_huggingface(path):
        return path, (".",)
    files = [
        f
        for f in sorted(path.iterdir())
        if f.is_file() and not f.name.startswith((".", "dataset.toml"))
    ]
    if files and all(native.OWN.fullmatch(f.name) for f in files):
        raise AmodalError(
            f"{path} holds an interrupted pack: its dataset.toml was never written. Pack the data again."
        )
    by_ending = {
        ending: [f for f in files if f.suffix.lower() == ending]
        for ending in (".tar", ".parquet", ".jsonl", ".ndjson")
    }
    for ending, found in by_ending.items():
        if found:
            return path, (found[0].name if len(found) == 1 else f"*{ending}",)
    single = [f for f in files if f.suffix.lower() in (".csv", ".tsv", ".json")]
    if len(single) == 1 and (_names_files(single[0]) or not _media(path, single[0])):
        return path, (single[0].name,)
    if not _media(path) and any(path.rglob("*.parquet")):
        return path, ("**/*.parquet",)
    return path, (".",)


def _names_files(file: Path) -> bool:
    """Whether a table has a column that names files which are there."""
    reader = readers.Table([file])
    return any(decide.names_files(_texts(reader, column), file.parent) for column in reader.columns)


def _media(path: Path, besides: Path | None = None) -> bool:
    """Whether a folder has files, besides this one, that a modality reads."""
    known = decide.kinds()
    return any(
        Path(f).suffix.lower() in known
        for f in readers.folder.names_below(path)
        if besides is None or f != besides.name
    )


def _texts(reader: readers.Reader, column: str) -> list[str]:
    return [cell for cell in reader.cells(column)[:200] if isinstance(cell, str) and cell]
