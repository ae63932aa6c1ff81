"""A table in Lance's format: a folder with versions, as LanceDB and pylance write it.

The latest version is read into memory, as Arrow.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pyarrow as pa

from amodal.core import AmodalError
from amodal.data.readers._parts import Mapped
from amodal.data.readers._tabular import Tabular
from amodal.data.remote import AnyPath, Remote

SUFFIX = ".lance"
VERSIONS = "_versions"


def is_lance(folder: AnyPath) -> bool:
    """Whether a folder is a table of Lance."""
    return not isinstance(folder, Remote) and (folder / VERSIONS).is_dir()


def library() -> Any:
    """The package `lance`.

    Raises:
        AmodalError: it is not installed.
    """
    try:
        return importlib.import_module("lance")
    except ImportError as error:
        raise AmodalError(
            f"tables of Lance need the package pylance: pip install 'amodal[lance]' ({error})"
        ) from None


def open_lance(folder: Path) -> pa.Table:
    """The latest version of a table.

    Raises:
        AmodalError: it is damaged, or pylance is not installed.
    """
    lance = library()
    try:
        table: pa.Table = lance.dataset(str(folder)).to_table()
        return table
    except (pa.ArrowException, OSError, ValueError, RuntimeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AmodalError(f"{folder} is no complete table of Lance: {why}") from error


class LanceTable(Tabular):
    """A table of Lance.

    Args:
        folder: of the table.
        key: the column that names the records, "" for hashes of the rows.

    Raises:
        AmodalError: it cannot be read.
    """

    def __init__(self, folder: AnyPath, key: str = "") -> None:
        manifests: list[AnyPath] = [*(folder / VERSIONS).iterdir()]
        manifests.sort(key=lambda file: file.name)
        super().__init__([Mapped(folder, open_lance)], manifests, folder.parent, key)
