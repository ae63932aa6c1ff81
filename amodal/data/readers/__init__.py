"""Readers of records, one kind of source a file. `open_records` chooses by what the paths are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from amodal.core import AmodalError, unknown
from amodal.data.readers import native, table
from amodal.data.readers._files import FilePattern, Files, remedy
from amodal.data.readers.arrays import Arrays
from amodal.data.readers.base import Reader, inside
from amodal.data.readers.folder import Folder, exported, names_below
from amodal.data.readers.huggingface import HuggingFace, is_huggingface
from amodal.data.readers.lance_table import LanceTable, is_lance
from amodal.data.readers.native import Native
from amodal.data.readers.table import Table
from amodal.data.readers.webdataset import WebDataset
from amodal.data.readers.zarr_shards import ZarrShards, is_zarr_shards
from amodal.data.remote import AnyPath, Remote
from amodal.errors import nearest
from amodal.modalities import ending_of

__all__ = [
    "Arrays",
    "FilePattern",
    "Files",
    "Folder",
    "HuggingFace",
    "LanceTable",
    "Native",
    "Reader",
    "Table",
    "WebDataset",
    "ZarrShards",
    "ending_of",
    "exists",
    "exported",
    "find",
    "is_huggingface",
    "is_lance",
    "is_zarr_shards",
    "names_below",
    "native",
    "open_records",
]


def find(root: AnyPath, patterns: Sequence[str]) -> list[AnyPath]:
    """The files and folders that `records` in dataset.toml names.

    Args:
        root: the folder that they are in.
        patterns: relative paths and globs.

    Raises:
        AmodalError: a path does not exist, or nothing matches a glob.
    """
    paths: list[AnyPath] = []
    for pattern in patterns:
        inside(root, pattern, "records")
        if any(c in pattern for c in "*?["):
            try:
                matches = _glob(root, pattern)
            except (ValueError, re.error) as error:
                raise AmodalError(
                    f"records = {pattern!r} is no pattern of file names: {error}"
                ) from error
            if not matches:
                raise AmodalError(f"no file in {root} matches records = {pattern!r}")
            # a pipe would be waited for
            paths += [path if isinstance(path, Remote) else exists(path) for path in matches]
        else:
            paths.append(exists(root / pattern))
    return paths


def _glob(root: AnyPath, pattern: str) -> list[AnyPath]:
    if isinstance(root, Remote):
        return [*sorted(root.glob(pattern))]
    return [*sorted(root.glob(pattern))]  # paths of this machine have an order of their own


def exists(path: AnyPath, also: Sequence[str] = ()) -> AnyPath:
    """Check that a path exists, and return it.

    Args:
        path: of a file or folder.
        also: names of sets, which the user could have meant.

    Raises:
        AmodalError: it does not; the nearest names are offered.
    """
    try:
        if path.is_file() or path.is_dir():
            return path
        if path.exists():
            raise AmodalError(f"{path} is no file or folder, but a pipe, a socket or a device")
    except OSError as error:  # such as a name that is too long
        name = path.name if len(path.name) < 100 else f"{path.name[:99]}…"
        raise AmodalError(f"{name!r} is no file or folder: {error.strerror}") from error
    parent = path.parent
    if not parent.is_dir():
        exists(parent)  # the first part of the path that is wrong is the one to name
    siblings = [p.name for p in parent.iterdir() if not p.name.startswith(".")]
    names = [*siblings, *also]
    if also and not nearest(path.name, names, NEAR):
        raise AmodalError(
            f"there is no file or folder {path.name!r} in {parent.resolve()}, and no set of this "
            "name; `amodal data` lists the sets"
        )
    raise unknown(f"file or folder in {parent.resolve()}", path.name, names, cutoff=NEAR)


NEAR = 0.65
"""How similar the name of a file or set must be to be proposed: almost any short name has some that
share half of its letters."""


def open_records(
    paths: Sequence[AnyPath],
    columns: Mapping[str, FilePattern] | None,
    kinds: Mapping[str, str],
    key: str = "",
) -> Reader:
    """Open a reader.

    Args:
        paths: one folder, or files of one sort.
        columns: of files, the files of each field; None to guess them from `kinds`.
        kinds: ending -> modality.
        key: the column of a table that names the records, "" for hashes of the rows.

    Raises:
        AmodalError: there is no path, or the paths are of more than one sort or cannot be read.
    """
    if not paths:
        raise AmodalError("`records` in dataset.toml names no file; give a folder or a table")
    sorts = {_sort(path) for path in paths}
    if len(sorts) > 1 or ({"folder", "zarr"} & sorts and len(paths) > 1):
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
    if sort == "zarr":
        if key:
            raise AmodalError(
                f"records of Zarr shards are named by `sample`: leave `key` = {key!r} out of "
                "dataset.toml"
            )
        return ZarrShards(paths[0])
    if sort == "lance":
        return LanceTable(paths[0], key)
    if sort == "columns":
        return Table(paths, key)
    return WebDataset(paths, columns, kinds) if sort == "tar" else Folder(paths[0], columns, kinds)


def _sort(path: AnyPath) -> str:
    if path.is_dir():
        layouts = {"saved": is_huggingface, "lance": is_lance, "zarr": is_zarr_shards}
        return next((sort for sort, fits in layouts.items() if fits(path)), "folder")
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
        f"{remedy(ending)}"
    )
