"""Bytes and files as readers hand them over."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from amodal.modalities.shared.base import BadValue, Raw


def read_bytes(raw: Path | str | bytes) -> bytes:
    """The content of a file, or the bytes themselves. Raises BadValue if there is no such file or
    nothing in it."""
    if not isinstance(raw, bytes):
        try:
            with open(raw, "rb") as file:
                raw = file.read()
        except FileNotFoundError:
            raise BadValue(f"no such file: {raw}") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            raise BadValue(
                f"cannot read {str(raw)[:200]!r}: {getattr(error, 'strerror', None) or error}"
            ) from None
    if not raw:
        raise BadValue("empty file")
    return raw


def unwrap(raw: Raw) -> Raw:
    """Hugging Face's {"bytes": ..., "path": ...} as the one of the two that is there; anything else
    as it is."""
    if isinstance(raw, dict) and raw and raw.keys() <= {"bytes", "path"}:
        raw = raw["bytes"] if raw.get("bytes") is not None else raw.get("path")
        return Path(raw) if isinstance(raw, str) else raw
    return raw


def is_numpy(data: bytes) -> bool:
    return data[:6] == b"\x93NUMPY" or data[:4] == b"PK\x03\x04"


def load_numpy(data: bytes) -> np.ndarray | dict[str, np.ndarray]:
    """A .npy file, or a .npz file as name -> array (the array itself if it holds only one)."""
    try:
        _promised(data)
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        arrays = {name: loaded[name] for name in loaded.files}
    except BadValue:
        raise
    except Exception as error:  # numpy and zipfile raise whatever they stumble over first
        raise BadValue(f"cannot read the numpy file: {error}") from error
    return arrays if len(arrays) != 1 else next(iter(arrays.values()))


UNPACKED = 2**30
"""Bytes that a compressed file may become."""


def _promised(data: bytes) -> None:
    """Raises BadValue where a numpy file announces more than it holds or, compressed, more than
    there should be room for: numpy would ask for that memory first and look afterwards."""
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > UNPACKED:
                raise BadValue(f"it unpacks to {unpacked:,} bytes, more than {UNPACKED:,}")
            for member in archive.infolist():
                with archive.open(member) as stream:
                    _promised_npy(stream, member.file_size)
    else:
        _promised_npy(io.BytesIO(data), len(data))


def _promised_npy(stream, size: int) -> None:
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(stream)
    promised, size = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if not dtype.hasobject and (promised > size or min(shape, default=0) < 0):
        raise BadValue(
            f"truncated: {size:,} bytes, but shape {shape} of {dtype} needs {promised:,}"
        )
