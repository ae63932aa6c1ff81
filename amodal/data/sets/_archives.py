"""Files inside the archives of packages."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from amodal.core import AmodalError


def deb(archive: Path, below: str = "") -> Iterator[tuple[str, bytes]]:
    """(path, content) of the regular files of a Debian package whose path starts with `below`, in their order."""
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
            raise AmodalError(f"{archive} is packed with zstd; the Debian archive's own package is expected")
        with tarfile.open(fileobj=io.BytesIO(stream.read(size)), mode="r|*") as tar:
            yield from _regular(tar, below)


def tgz(archive: Path, below: str = "package/") -> Iterator[tuple[str, bytes]]:
    """(path, content) of the files of an npm package."""
    with tarfile.open(archive, mode="r|gz") as tar:
        yield from _regular(tar, below)


def wheel(archive: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)


def _regular(tar: tarfile.TarFile, below: str) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        path = member.name.removeprefix("./")
        if member.isfile() and path.startswith(below):
            yield path, tar.extractfile(member).read()
