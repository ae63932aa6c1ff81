"""The dataset.toml that `amodal init` writes beside data."""

from __future__ import annotations

from amodal.core import AmodalError
from amodal.data import readers, schema
from amodal.data.remote import AnyPath, Remote


def check_free(toml: AnyPath, data: AnyPath, force: bool) -> None:
    """Check that a schema of this data may be written to this file.

    Args:
        toml: the dataset.toml.
        data: what it is to describe, a folder or a file.
        force: whether it may be overwritten.

    Raises:
        AmodalError: it is a folder, or is there already and not `force`.
    """
    if toml.is_dir():
        raise AmodalError(f"{toml} is a folder, where the schema is to be written; rename it")
    if force or not toml.exists():
        return
    other = "" if data.is_dir() else _of_other(toml, data)
    if other:
        raise AmodalError(
            f"{toml} exists already, and describes {other}, not {data.name}: a folder has one "
            "dataset.toml. Without one the fields are guessed anew each time, as verbs do for "
            f"--data {data}; to edit the schema, put {data.name} into a folder of its own"
        )
    raise AmodalError(
        f"{toml} exists already. Edit it, or overwrite it with --force "
        "(in Python: init(path, force=True))."
    )


def _of_other(toml: AnyPath, data: AnyPath) -> str:
    """The records that a dataset.toml describes; "" where this file is among them."""
    try:
        declared = schema.load(toml)
        files = readers.find(toml.parent, declared.records)
    except AmodalError:  # one that cannot be read describes nothing that is known
        return ""
    if any(file.resolve() in (data.resolve(), data.parent.resolve()) for file in files):
        return ""
    return ", ".join(declared.records)


def write(toml: AnyPath, data: AnyPath, text: str) -> None:
    """Write a schema.

    Args:
        toml: the file.
        data: what it describes.
        text: its content.

    Raises:
        AmodalError: it cannot be written.
    """
    if isinstance(toml, Remote):
        try:
            toml.write_text(text, encoding="utf-8")
        except (AmodalError, NotImplementedError) as error:
            raise AmodalError(
                f"{toml} cannot be written ({error}). Keep it on this machine: give "
                f"'{data}#photos.toml' as the address, here and wherever the data is used."
            ) from error
        return
    part = toml.with_suffix(".toml.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(toml)
    except OSError as error:
        raise AmodalError(
            f"{toml} cannot be written ({error.strerror or error}). Every verb reads this data "
            "without one, with the fields that are guessed; to edit them, copy the data to where "
            "you may write"
        ) from error
