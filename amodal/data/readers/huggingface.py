"""A Hugging Face dataset as `save_to_disk` writes it.

Its Arrow files are mapped by pyarrow; the `datasets` library is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from amodal.core import AmodalError
from amodal.core.regular_file import regular
from amodal.data import download_cache
from amodal.data.readers._parts import Mapped
from amodal.data.readers._tabular import Tabular
from amodal.data.readers.base import inside
from amodal.data.remote import AnyPath, Remote, as_path, parallel_map


def is_huggingface(folder: AnyPath) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "state.json").exists() or (folder / "dataset_dict.json").exists()


class HuggingFace(Tabular):
    """A saved Dataset, or a DatasetDict.

    The splits of a DatasetDict are read one after the other, with a column `split` for their names.
    Class numbers are read as names.

    Args:
        folder: that `save_to_disk` wrote.
        key: the column that names the records, "" for hashes of the rows.

    Raises:
        AmodalError: the folder is not as `save_to_disk` writes it.
    """

    def __init__(self, folder: AnyPath, key: str = "") -> None:
        folder = as_path(folder)
        index = folder / "dataset_dict.json"
        splits = _json(index).get("splits") if index.exists() else [""]
        if (
            not isinstance(splits, list)
            or not splits
            or not all(isinstance(name, str) for name in splits)
        ):
            raise AmodalError(
                f"{index}: `splits` should be a list of names, not {splits!r}. "
                "Save the dataset anew."
            )
        paths: list[AnyPath] = []
        split_names: list[str] = []
        for name in splits:
            for path in _data_files(inside(folder, name, f"{index}: a split") if name else folder):
                paths.append(path)
                split_names.append(name)
        _download(folder, paths)
        parts = [Mapped(path, open_stream) for path in paths]
        split = [name for part, name in zip(parts, split_names) for _ in range(part.rows)]
        features = _json(folder / splits[0] / "dataset_info.json").get("features") or {}
        features = features.items() if isinstance(features, dict) else ()
        kinds = {
            c: f.get("names")
            for c, f in features
            if isinstance(f, dict) and f.get("_type") == "ClassLabel"
        }
        names = {
            c: list(map(str, listed)) for c, listed in kinds.items() if isinstance(listed, list)
        }
        extra_columns = {"split": split} if splits != [""] else None
        super().__init__(parts, paths, folder, key, names, extra_columns)


def _download(folder: AnyPath, paths: Sequence[AnyPath]) -> None:
    """Get all Arrow files of a remote folder: they are mapped as a whole, so they must be on disk
    as a whole."""
    remotes = [path for path in paths if isinstance(path, Remote)]
    if (size := sum(path.stat().st_size for path in remotes)) > download_cache.max_bytes():
        raise AmodalError(
            f"{folder} has {size:,} bytes of Arrow files, which are read from disk, more than "
            "AMODAL_CACHE_GIB allows. Set it higher, or upload Parquet (`Dataset.to_parquet`)."
        )
    parallel_map(Remote.local, remotes)


def open_stream(path: Path) -> pa.Table:
    """Map an Arrow file in the stream format. The table has no copy of the content.

    Raises:
        AmodalError: the file is damaged.
    """
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        table.validate(full=True)  # offsets and text, which Arrow otherwise takes on trust
        return table
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise AmodalError(
            f"{path} is no complete Arrow file: {error}. Save the dataset anew."
        ) from error


def _data_files(folder: AnyPath) -> list[AnyPath]:
    state = _json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise AmodalError(
            f"{folder} is a selection stored as row numbers. "
            "Call `.flatten_indices()` before `.save_to_disk()`."
        )
    try:
        return [
            inside(folder, file["filename"], f"{folder / 'state.json'}: filename")
            for file in state["_data_files"]
        ]
    except (KeyError, TypeError) as error:
        raise AmodalError(
            f"{folder / 'state.json'} lists no files ({error!r}). Save the dataset anew."
        ) from error


def _json(path: AnyPath) -> dict[str, Any]:
    try:
        content = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AmodalError(
            f"{path} cannot be read: {error}. Is {path.parent} what `save_to_disk` wrote?"
        ) from error
    if not isinstance(content, dict):
        raise AmodalError(f"{path} holds no object. Is {path.parent} what `save_to_disk` wrote?")
    return content
