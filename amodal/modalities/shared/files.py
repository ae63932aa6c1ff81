"""Bytes and files from readers."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from amodal.core.regular_file import regular
from amodal.modalities.shared.base import BadValue, Raw


def read_bytes(raw: Path | str | bytes) -> bytes:
    """The content of a file, or the bytes themselves.

    Raises:
        BadValue: there is no such file, or it is empty.
    """
    if not isinstance(raw, bytes):
        try:
            with open(regular(raw), "rb") as file:
                raw = file.read()
        except FileNotFoundError:
            raise BadValue(f"no such file: {raw!s}") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            raise BadValue(
                f"cannot read {str(raw)[:200]!r}: {getattr(error, 'strerror', None) or error}"
            ) from None
    if not raw:
        raise BadValue("empty file")
    return raw


def unwrap(raw: Raw) -> Raw:
    """Hugging Face's {"bytes": ..., "path": ...} as the one of the two that is set.

    Anything else as it is.
    """
    if isinstance(raw, dict) and raw and raw.keys() <= {"bytes", "path"}:
        content: Any = raw["bytes"] if raw.get("bytes") is not None else raw.get("path")
        return Path(content) if isinstance(content, str) else cast(Raw, content)
    return raw


def is_numpy(data: bytes) -> bool:
    """Whether bytes begin like a .npy or .npz file."""
    return data[:6] == b"\x93NUMPY" or data[:4] == b"PK\x03\x04"


def load_numpy(data: bytes) -> np.ndarray | dict[str, np.ndarray]:
    """A .npy file, or a .npz file as name -> array (the array itself if it holds only one).

    Raises:
        BadValue: it is neither, or damaged.
    """
    try:
        _check_declared_size(data)
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        arrays = {name: loaded[name] for name in loaded.files}
    except BadValue:
        raise
    except Exception as error:  # numpy and zipfile raise whatever they stumble over first
        raise BadValue(f"cannot read the numpy file: {error}") from error
    return arrays if len(arrays) != 1 else next(iter(arrays.values()))


MAX_UNPACKED = 2**30
"""Bytes that a compressed file may become."""


def read_numbers(raw: Raw, parse: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """The numbers of a .npy file, of a file of another kind, or of an array or lists.

    Args:
        raw: A path, the content of a file, or the numbers.
        parse: What makes numbers of the content of a file that is not numpy's.

    Raises:
        BadValue: It has no numbers.
    """
    if isinstance(raw, (Path, str, bytes)):
        data = read_bytes(raw)
        loaded = load_numpy(data) if is_numpy(data) else parse(data)
        raw = cast(Raw, loaded)
    try:
        return np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadValue("expected numbers, as an array or lists") from None


def _check_declared_size(data: bytes) -> None:
    """Raise BadValue where a numpy file declares more than it holds or unpacks to too much.

    numpy would allocate that memory first and check afterwards.
    """
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > MAX_UNPACKED:
                raise BadValue(f"it unpacks to {unpacked:,} bytes, more than {MAX_UNPACKED:,}")
            for member in archive.infolist():
                with archive.open(member) as stream:
                    _check_npy(stream, member.file_size)
    else:
        _check_npy(io.BytesIO(data), len(data))


def _check_npy(stream: IO[bytes], size: int) -> None:
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(stream)
    declared, size = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if not dtype.hasobject and (declared > size or min(shape, default=0) < 0):
        raise BadValue(
            f"truncated: {size:,} bytes, but shape {shape} of {dtype} needs {declared:,}"
        )
