"""Files inside the archives of packages."""

from __future__ import annotations

import importlib
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from amodal.core import AmodalError


def deb(archive: Path, below: str = "") -> Iterator[tuple[str, bytes]]:
    """(path, content) of the regular files of a Debian package, in their order.

    Args:
        archive: the package.
        below: how their paths begin.

    Raises:
        AmodalError: it is no Debian package.
    """
    with open(archive, "rb") as stream:
        if stream.read(8) != b"!<arch>\n":
            raise AmodalError(f"{archive} is no Debian package")
        while head := stream.read(60):
            name, size = head[:16].decode().strip().rstrip("/"), int(head[48:58])
            if name.startswith("data.tar"):
                break
            stream.seek(size + size % 2, io.SEEK_CUR)
        else:
            raise AmodalError(f"{archive} holds no data.tar")
        if name.endswith(".zst"):
            raise AmodalError(
                f"{archive} is packed with zstd; the Debian archive's own package is expected"
            )
        with tarfile.open(fileobj=io.BytesIO(stream.read(size)), mode="r|*") as tar:
            yield from _regular(tar, below)


def tgz(archive: Path, below: str = "package/") -> Iterator[tuple[str, bytes]]:
    """(path, content) of the files of an npm package.

    Args:
        archive: the package.
        below: how their paths begin.
    """
    with tarfile.open(archive, mode="r|gz") as tar:
        yield from _regular(tar, below)


def sdist(archive: Path, below: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files in one folder of a source distribution.

    Args:
        archive: the package.
        below: path of the folder within the one that all its files are in.
    """
    with tarfile.open(archive, mode="r|gz") as tar:
        for path, content in _regular(tar, ""):
            inner = path.partition("/")[2]
            if inner.startswith(below) and "/" not in inner[len(below) :]:
                yield inner[len(below) :], content


def wheel(archive: Path) -> zipfile.ZipFile:
    """The files of a wheel."""
    return zipfile.ZipFile(archive)


LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
"""The header of torch's oldest format: its magic number, its version 1001, and an empty dict about
the machine. Then come the object and a list of storages."""


def object_npy(content: bytes) -> np.ndarray:
    """Read a .npy file whose array holds Python objects, and so is a pickle.

    It is read by torch's restricted unpickler, which makes plain values and numpy arrays and calls
    nothing else.

    Args:
        content: of the file.

    Raises:
        AmodalError: the file holds anything else.
    """
    import torch

    # numpy 2 renamed the module `core`. Files name either, whichever version wrote them.
    core = "numpy._core" if hasattr(np, "_core") else "numpy.core"
    reconstruct = importlib.import_module(f"{core}.multiarray")._reconstruct
    stream = io.BytesIO(content)
    known: list[Any] = [
        (reconstruct, f"numpy.{name}.multiarray._reconstruct") for name in ("core", "_core")
    ]
    known += [np.ndarray, np.dtype]
    known += {type(np.dtype(kind)) for kind in (object, np.int64, np.float64, np.float32)}
    try:
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        with torch.serialization.safe_globals(known):
            pickled = io.BytesIO(LEGACY + stream.read() + b"\x80\x02].")
            return cast(np.ndarray, torch.load(pickled, weights_only=True))
    except Exception as error:  # the reader raises what the bytes lead it to
        raise AmodalError(
            "this .npy file holds more than plain values and arrays, and is not read"
        ) from error


def _regular(tar: tarfile.TarFile, below: str) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        path = member.name.removeprefix("./")
        if member.isfile() and path.startswith(below) and (file := tar.extractfile(member)):
            yield path, file.read()
