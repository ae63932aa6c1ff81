"""Some records of other data, by their keys: a folder with a subset.toml (`amodal curate`).

    data = "/data/photos"       # whatever `amodal.open` takes as text
    keys = "keys.txt"           # a key a line

The records stay where they are, and each stays in its part of the split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tomlkit
from tomlkit.exceptions import TOMLKitError

from amodal.core import AmodalError, unknown
from amodal.core.regular_file import regular
from amodal.core.whole_file import whole_file
from amodal.data.dataset import Dataset

FILE = "subset.toml"
ENTRIES = ("data", "keys")


def is_subset(path: Path) -> bool:
    """Whether a path is a folder with a subset.toml, or that file. Not in object storage."""
    return path.name == FILE or (path / FILE).is_file()


def read_subset(path: Path) -> tuple[str, list[str]]:
    """Where the data is, and the keys of the records.

    Args:
        path: The folder, or its subset.toml.

    Raises:
        AmodalError: The files cannot be read, or there is a mistake in them.
    """
    file = path if path.name == FILE else path / FILE
    try:
        content = tomlkit.parse(regular(file).read_text(encoding="utf-8")).unwrap()
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise AmodalError(f"{file} cannot be read: {error}") from error
    for name in content:
        if name not in ENTRIES:
            raise unknown(f"key of {file}", name, ENTRIES)
    for name in ENTRIES:
        if not isinstance(content.get(name), str) or not content[name]:
            raise AmodalError(f'{file} needs {name} = "…"; `amodal curate` writes both')
    try:
        keys_file = regular(file.parent / content["keys"])
        keys = keys_file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AmodalError(f"{file}: the keys cannot be read: {error}") from error
    return content["data"], [key for key in keys if key]


def choose(dataset: Dataset, keys: Sequence[str], file: Path) -> Dataset:
    """The records of a dataset with these keys, in the order of the dataset.

    Args:
        dataset: The whole data.
        keys: Of the records.
        file: Where the keys are, for messages; the path of the result.

    Raises:
        AmodalError: The data has not all of them, or there is none.
    """
    if not keys:
        raise AmodalError(f"{file} has no keys, so there is no record to read")
    wanted = set(keys)
    rows = np.flatnonzero(np.fromiter((k in wanted for k in dataset.keys), bool, len(dataset)))
    if len(rows) < len(wanted):
        missing = sorted(wanted - set(dataset.keys))
        raise AmodalError(
            f"{file}: {len(missing):,} of {len(wanted):,} records are no longer in "
            f"{dataset.name!r}, such as {missing[0]!r}; choose anew with `amodal curate`"
        )
    return Dataset(
        dataset.subset(rows.tolist()).reader,
        dataset.schema,
        file,
        file.name,
        parts=dataset.parts[rows],
    )


def write_subset(folder: Path, data: str, keys: Sequence[str]) -> Path:
    """Write subset.toml and keys.txt.

    Args:
        folder: Where to.
        data: The whole data, as `amodal.open` takes it.
        keys: Of the records.

    Returns:
        The path of subset.toml.

    Raises:
        AmodalError: A key has a line break in it, or the files cannot be written.
    """
    if broken := next((key for key in keys if "\n" in key or not key), None):
        raise AmodalError(
            f"the key {broken!r} has a line break in it and cannot stand in a list of keys; name "
            "another column as `key` in dataset.toml"
        )
    try:
        with whole_file(folder / "keys.txt") as draft:
            draft.write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
        with whole_file(folder / FILE) as draft:
            draft.write_text(tomlkit.dumps({"data": data, "keys": "keys.txt"}), encoding="utf-8")
    except OSError as error:
        raise AmodalError(f"could not write {folder}: {error.strerror or error}") from error
    return folder / FILE
