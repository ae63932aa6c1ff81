"""The tokens of text that a run learns from its training records, and keeps.

They are part of the modality of a field, so of RUN/spec.json; RUN/tokenizer-FIELD.json is a copy of
them that other libraries read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amodal import modalities
from amodal.core import AmodalError
from amodal.data import Dataset
from amodal.methods.saved import SPEC
from amodal.modalities import Modality
from amodal.modalities.shared.learnt import LearnsTokens
from amodal.modalities.shared.protocols import ReadByWavelength
from amodal.nn.config import arguments
from amodal.nn.saved import read_json


def with_tokens(dataset: Dataset, tokens: str) -> Dataset:
    """The dataset with this kind of tokens in each field that learns them; "" changes nothing."""
    changed: dict[str, Modality] = {
        name: modality.with_tokens(tokens)
        for name, modality in dataset.fields.items()
        if tokens and isinstance(modality, LearnsTokens)
    }
    return dataset.with_fields(dataset.fields | changed) if changed else dataset


def with_bands(dataset: Dataset, bands: str) -> Dataset:
    """The dataset with bands that are read as a method reads them; "" changes nothing.

    Args:
        dataset: The data.
        bands: Of `amodal.methods.bands`.

    Raises:
        AmodalError: For a field with a band whose wavelength is not known.
    """
    changed: dict[str, Modality] = {}
    for name, modality in dataset.fields.items():
        if bands and isinstance(modality, ReadByWavelength):
            try:
                changed[name] = modality.read_by_wavelength()
            except AmodalError as error:
                raise AmodalError(f"the field {name!r} of {dataset.name!r}: {error}") from None
    return dataset.with_fields(dataset.fields | changed) if changed else dataset


def with_tokens_of(run: Path, dataset: Dataset) -> Dataset:
    """The dataset with the tokens that a run has learnt, for fields that are else as the run's.

    Where they are not, the run is not resumed (`run_dir.prepare`).
    """
    file = run / SPEC
    if not file.exists():  # `run_dir.prepare` says what is wrong
        return dataset
    spec = read_json(file, "restore it from a copy, or start a new run")
    stored = arguments(spec["encoder"])["fields"] if spec.get("encoder") else {}
    restored: dict[str, Modality] = {}
    for name, modality in dataset.fields.items():
        if name in stored and isinstance(modality, LearnsTokens) and modality.learns_tokens:
            learnt = modality.with_learnt(str(stored[name].get("merges", "")))
            restored |= {name: learnt} if modalities.config(learnt) == stored[name] else {}
    return dataset.with_fields(dataset.fields | restored) if restored else dataset


def write_tokenizers(folder: Path, fields: Mapping[str, Modality]) -> list[Path]:
    """Write tokenizer-FIELD.json of each field that has learnt its tokens.

    Returns:
        The files.

    Raises:
        AmodalError: If the folder cannot be written.
    """
    files = []
    for name, modality in fields.items():
        content = modality.tokenizer_json() if isinstance(modality, LearnsTokens) else ""
        if content:
            files.append(folder / f"tokenizer-{name}.json")
            try:
                files[-1].write_text(content, encoding="utf-8")
            except OSError as error:
                raise AmodalError(
                    f"could not write {files[-1]}: {error.strerror or error}"
                ) from error
    return files
