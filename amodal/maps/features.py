"""Features of every token of a value, as a file of the value's own kind: one for each record.

Values larger than the encoder's windows are read window by window, see `amodal.inference.dense`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from amodal.core import AmodalError
from amodal.core.whole_file import whole_file
from amodal.data import Dataset
from amodal.inference.dense import dense_features
from amodal.maps.files import Unreadable, check_made_by
from amodal.maps.items import file_name
from amodal.modalities import BadValue
from amodal.modalities.shared.protocols import WritesFeatures
from amodal.progress import Bar

if TYPE_CHECKING:
    from amodal.model import Model


def write_features(
    model: Model,
    dataset: Dataset,
    name: str,
    rows: np.ndarray,
    out: Path,
    made_by: str,
    progress: bool,
) -> list[Path]:
    """Write a file of each record.

    Args:
        model: The model.
        dataset: Where the records are.
        name: Of a field that writes files of its own kind.
        rows: Which records.
        out: A file, of one record; or a folder.
        made_by: The encoder and the field; files of another one are not touched.
        progress: Show a bar.

    Returns:
        The files, also those that were there already.

    Raises:
        AmodalError: If no value can be read, or the file cannot be written.
    """
    modality = cast(WritesFeatures, model.encoder.fields[name].as_in(dataset.fields[name]))
    files = _files(modality, dataset, rows, out)
    done = [_is_done(modality, file, made_by, anew=file == out) for file in files]
    bad = Unreadable(name)
    with Bar("embed", len(rows), start=sum(done), shown=progress) as bar:
        for row, file in ((r, f) for r, f, there in zip(rows.tolist(), files, done) if not there):
            try:
                value, place = modality.placed(dataset.raw(row, name))
            except BadValue as error:
                bad.add(dataset.keys[row], error)
            else:
                grid = dense_features(model.encoder, name, value, model.device)
                suffix = _suffix(modality, file)
                _write(file, modality.features_file(grid, place, made_by, suffix))
            bar.step(bad.note, by=1)
    written = [file for file in files if file.exists()]
    if not written:
        raise AmodalError(f"no value of {name!r} in {dataset.name!r} could be read: {bad.first}")
    bad.say()
    return written


def _suffix(modality: WritesFeatures, file: Path) -> str:
    """The ending of a file of features, "" if it has none of those."""
    return next((s for s in modality.features_suffixes if file.name.lower().endswith(s)), "")


def _files(modality: Any, dataset: Dataset, rows: np.ndarray, out: Path) -> list[Path]:
    """The file of each record."""
    usual = modality.features_suffixes[0]
    if _suffix(modality, out):
        if len(rows) > 1:
            raise AmodalError(
                f"{out.name} holds one value, and {len(rows):,} records of {dataset.name!r} have "
                f"one: name a folder for a file of each, --out {out.name.partition('.')[0]}/"
            )
        return [out]
    if out.suffix and not out.is_dir():
        raise AmodalError(
            f"features of {modality.kind} are written as {usual}, and --out is {out.name}; name "
            "such a file, or a folder"
        )
    if out.exists() and not out.is_dir():
        raise AmodalError(f"{out} is a file; name a folder, or a file that ends in {usual}")
    return [out / f"{file_name(dataset.keys[row])}{usual}" for row in rows.tolist()]


def _is_done(modality: WritesFeatures, file: Path, made_by: str, anew: bool) -> bool:
    """Whether a file is there already and need not be made anew.

    Args:
        modality: Of the field.
        file: That will be written.
        made_by: The encoder and the field.
        anew: Make it anew where features are there.

    Raises:
        AmodalError: If something else is there.
    """
    if not file.exists():
        return False
    before = modality.features_made_by(file.read_bytes()) if file.is_file() else ""
    check_made_by(file, before, None if anew else made_by)
    return not anew


def _write(file: Path, content: bytes) -> None:
    try:
        with whole_file(file) as draft:
            draft.write_bytes(content)
    except OSError as error:
        raise AmodalError(f"could not write {file}: {error.strerror or error}") from error
