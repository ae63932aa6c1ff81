"""Where records come from, one kind of source a file. `open_records` chooses by what the paths are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from amodal.core import AmodalError, unknown
from amodal.data.readers import table
from amodal.data.readers._files import Files, Where
from amodal.data.readers.arrays import Arrays
from amodal.data.readers.base import Reader, inside
from amodal.data.readers.folder import Folder
from amodal.data.readers.huggingface import HuggingFace, is_huggingface
from amodal.data.readers.native import Native
from amodal.data.readers.table import Table
from amodal.data.readers.webdataset import WebDataset
from amodal.data.remote import Remote

__all__ = [
    "Arrays",
    "Files",
    "Folder",
    "HuggingFace",
    "Native",
    "Reader",
    "Table",
    "WebDataset",
    "Where",
    "find",
    "open_records",
]


def find(root: Path | Remote, patterns: Sequence[str]) -> list[Path | Remote]:
    """The files and folders that `records` in dataset.toml names, globs expanded. Raises
    AmodalError where there are none."""
    found: list[Path | Remote] = []
    for pattern in patterns:
        inside(root, pattern, "records")
        if any(c in pattern for c in "*?["):
            try:
                matches = sorted(root.glob(pattern))
            except (ValueError, re.error) as error:
                raise AmodalError(
                    f"records = {pattern!r} is no pattern of file names: {error}"
                ) from error
            if not matches:
                raise AmodalError(f"no file in {root} matches records = {pattern!r}")
            found += matches
        else:
            found.append(exists(root / pattern))
    return found


def exists(path: Path | Remote, also: Sequence[str] = ()) -> Path:
    """`path`, or an error that offers its nearest siblings and what else (`also`) could have been
    meant."""
    if path.exists():
        return path
    parent = path.parent
    if not parent.is_dir():
        exists(parent)  # the first part of the path that is wrong is the one to name
    siblings = [p.name for p in parent.iterdir() if not p.name.startswith(".")]
    raise unknown(f"file or folder in {parent.resolve()}", path.name, [*siblings, *also])


def open_records(
    paths: Sequence[Path], columns: dict[str, Where] | None, kinds: dict[str, str], key: str = ""
) -> Reader:
    """A reader for the records in `paths`: one folder, or files of one sort.

    columns: for files, where each field's are, None to propose them from kinds: ending -> modality;
    key: the column of a table.
    """
    sorts = {_sort(path) for path in paths}
    if len(sorts) > 1 or ("folder" in sorts and len(paths) > 1):
        raise AmodalError(
            "records must be one folder or files of one sort (tables, tars), "
            f"not {', '.join(p.name for p in paths[:6])}"
        )
    sort = sorts.pop()
    if key and sort in ("folder", "tar"):
        raise AmodalError(
            f"files are named by their stems: leave `key` = {key!r} out of dataset.toml"
        )
    if sort == "manifest":
        return Native(paths[0])
    if sort == "saved":
        return HuggingFace(paths[0], key)
    if sort == "columns":
        return Table(paths, key)
    return WebDataset(paths, columns, kinds) if sort == "tar" else Folder(paths[0], columns, kinds)


def _sort(path: Path) -> str:
    if path.is_dir():
        return "saved" if is_huggingface(path) else "folder"
    ending = path.suffix.lower()
    if path.name.startswith("manifest-") and ending == ".json":
        return "manifest"
    if ending in table.SUFFIXES:
        return "columns"
    if ".tar" in path.name.lower():
        return "tar"
    raise AmodalError(
        f"{path} is no data that can be read; "
        f"expected a folder, a table ({', '.join(sorted(table.SUFFIXES))}) or .tar shards"
    )
