"""A Hugging Face dataset as `save_to_disk` leaves it: its Arrow files are mapped by pyarrow; the `datasets` library is
not needed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from amodal.core import AmodalError
from amodal.data.readers._parts import Mapped
from amodal.data.readers._tabular import Tabular


def is_huggingface(folder: Path) -> bool:
    return (folder / "state.json").exists() or (folder / "dataset_dict.json").exists()


class HuggingFace(Tabular):
    """A saved Dataset, or a DatasetDict: its splits end to end, with a column `split` that says which. Class numbers
    read as names."""

    def __init__(self, folder: Path, key: str = ""):
        folder = Path(folder)
        splits = _json(folder / "dataset_dict.json")["splits"] if (folder / "dataset_dict.json").exists() else [""]
        parts, paths, split = [], [], []
        for name in splits:
            for path in _data_files(folder / name):
                paths.append(path)
                parts.append(Mapped(path, open_stream))
                split += [name] * parts[-1].rows
        features = _json(folder / splits[0] / "dataset_info.json").get("features") or {}
        names = {c: f["names"] for c, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
        super().__init__(parts, paths, folder, key, names, {"split": split} if splits != [""] else None)


def open_stream(path: Path) -> pa.Table:
    """`datasets` writes the stream format; the table refers to the mapped file and holds no copy."""
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise AmodalError(f"{path} is no whole Arrow file: {error}. Save the dataset again.") from error


def _data_files(folder: Path) -> list[Path]:
    state = _json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise AmodalError(
            f"{folder} is a selection stored as row numbers. Call `.flatten_indices()` before `.save_to_disk()`."
        )
    return [folder / file["filename"] for file in state["_data_files"]]


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise AmodalError(f"{path} cannot be read: {error}. Is {path.parent} what `save_to_disk` wrote?") from error
