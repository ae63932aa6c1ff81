"""Files of the user's in a folder that a model is written to: they are not overwritten.

What we wrote is known by its content: a config.json by its format and the digest of the weights, a
README.md by the row with that digest. The other files of a run are ours if its config.json or its
spec.json is, which are written first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from amodal.core import AmodalError
from amodal.core.regular_file import regular
from amodal.data import Dataset

MODEL = ("config.json", "spec.json", "model.safetensors", "keys.json", "README.md")
"""What saving a model writes, beside files whose names nobody else would choose."""
RUN = (*MODEL, "config.toml", "metrics.jsonl")
"""And a run."""
CARD = "| weights | sha256 "
"""In every card of ours, of a run and of the Hub."""


def check_overwritten(folder: Path, names: Iterable[str] = MODEL) -> None:
    """Check that no file of the user's would be overwritten.

    Args:
        folder: To be written to; it need not exist.
        names: Of the files that are written there.

    Raises:
        AmodalError: If one of them is there, and is not of amodal.
    """
    is_ours = _has_any(folder / "config.json", "weights_sha256", "format") or _has_any(
        folder / "spec.json", "encoder"
    )
    for name in names:
        file = folder / name
        if not file.exists() or (_is_card(file) if name == "README.md" else is_ours):
            continue
        raise foreign(file)


def check_tower(folder: Path) -> None:
    """Check that a folder for a tower of transformers is empty, missing or what we wrote.

    Raises:
        AmodalError: If it holds something else.
    """
    if folder.is_dir() and any(folder.iterdir()):
        if _content(folder / "config.json").get("model_type") != "siglip_vision_model":
            raise foreign(folder)


def check_graphs(folder: Path, fields: Iterable[str]) -> None:
    """Check that FIELD.onnx and fields.json are missing, or what we wrote.

    Raises:
        AmodalError: If one of them is there, and is not of amodal.
    """
    if _has_any(folder / "fields.json", "amodal"):
        return
    for name in ("fields.json", *(f"{field}.onnx" for field in fields)):
        if (folder / name).exists():
            raise foreign(folder / name)


def foreign(path: Path) -> AmodalError:
    """The error for a file that would be overwritten."""
    return AmodalError(
        f"{path} is there already and was not written by amodal, so it is not overwritten; choose "
        f"another folder, such as {path.parent / 'run'}, or move it away"
    )


def _is_card(file: Path) -> bool:
    try:
        return CARD in regular(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _has_any(file: Path, *names: str) -> bool:
    return not _content(file).keys().isdisjoint(names)


def _content(file: Path) -> dict[str, Any]:
    """What a JSON file says, {} where there is none."""
    if not file.exists():
        return {}
    try:
        content = json.loads(regular(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AmodalError(
            f"{file} cannot be read ({error}); restore it from a copy, or choose another folder"
        ) from error
    return content if isinstance(content, dict) else {}


def check_beside_data(out: Path, dataset: Dataset) -> None:
    """Raise AmodalError for a new run in the very folder of its data: each of its JSON files would
    be a record from then on. Runs in folders below are passed over."""
    path = dataset.path
    if not isinstance(path, Path) or not path.is_dir() or (out / "config.json").exists():
        return
    if out.resolve() == path.resolve():
        raise AmodalError(
            f"{out} holds the data, and the files of a run would be read as records of it; choose "
            f"another --out, such as {out / 'run'}"
        )
