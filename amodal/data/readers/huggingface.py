"""A Hugging Face dataset as `save_to_disk` leaves it: its Arrow files are mapped by pyarrow; the
`datasets` library is not needed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from amodal.core import AmodalError
from amodal.data import download_cache as kept
from amodal.data.readers._parts import Mapped
from amodal.data.readers._tabular import Tabular
from amodal.data.readers.base import inside
from amodal.data.remote import Remote, place, together


def is_huggingface(folder: Path) -> bool:
    return (folder / "state.json").exists() or (folder / "dataset_dict.json").exists()


class HuggingFace(Tabular):
    """A saved Dataset, or a DatasetDict: its splits end to end, with a column `split` that says
    which. Class numbers read as names."""

    def __init__(self, folder: Path, key: str = ""):
        folder = place(folder)
        about = folder / "dataset_dict.json"
        splits = _json(about).get("splits") if about.exists() else [""]
        if (
            not isinstance(splits, list)
            or not splits
            or not all(isinstance(name, str) for name in splits)
        ):
            raise AmodalError(
                f"{about}: `splits` should be a list of names, not {splits!r}. Save the dataset again."
            )
        parts, paths, split, split_of = [], [], [], []
        for name in splits:
            for path in _data_files(inside(folder, name, f"{about}: a split") if name else folder):
                paths.append(path)
                split_of.append(name)
        if isinstance(folder, Remote):  # mapped as a whole, so it must be on disk as a whole
            if (size := sum(path.stat().st_size for path in paths)) > kept.limit():
                raise AmodalError(
                    f"{folder} has {size:,} bytes of Arrow files, which are read from disk, and AMODAL_CACHE_GIB lets fewer be kept there. "
                    "Set it higher, or upload Parquet (`Dataset.to_parquet`)."
                )
            together(Remote.local, paths)
        for path, name in zip(paths, split_of):
            parts.append(Mapped(path, open_stream))
            split += [name] * parts[-1].rows
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
        super().__init__(
            parts, paths, folder, key, names, {"split": split} if splits != [""] else None
        )


def open_stream(path: Path) -> pa.Table:
    """`datasets` writes the stream format; the table refers to the mapped file and holds no copy."""
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        table.validate(full=True)  # offsets and text, which Arrow otherwise takes on trust
        return table
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise AmodalError(
            f"{path} is no whole Arrow file: {error}. Save the dataset again."
        ) from error


def _data_files(folder: Path) -> list[Path]:
    state = _json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise AmodalError(
            f"{folder} is a selection stored as row numbers. Call `.flatten_indices()` before `.save_to_disk()`."
        )
    try:
        return [
            inside(folder, file["filename"], f"{folder / 'state.json'}: filename")
            for file in state["_data_files"]
        ]
    except (KeyError, TypeError) as error:
        raise AmodalError(
            f"{folder / 'state.json'} lists no files ({error!r}). Save the dataset again."
        ) from error


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AmodalError(
            f"{path} cannot be read: {error}. Is {path.parent} what `save_to_disk` wrote?"
        ) from error
    if not isinstance(found, dict):
        raise AmodalError(f"{path} holds no object. Is {path.parent} what `save_to_disk` wrote?")
    return found
