"""What every kind of data can do, and what the five of them share.

A modality is a frozen record of what the schema says about one field: sizes, rates, names, means. It is all that is
needed to decode new data the way the training data was decoded, so a model carries its modalities.
"""

from __future__ import annotations

import datetime
import io
import math
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged, unknown

Raw = Path | bytes | str | np.ndarray | list | dict | float | int
"""A value as a reader hands it over. A `str` is the text itself for `text`, a path for the kinds that live in files."""

VIEWS = ("plain", "weak", "strong", "local")
"""plain: as it is, for evaluation · weak: lightly changed · strong: SimCLR's · local: a small part (DINO's
multi-crop)."""


class BadValue(AmodalError):
    """A value that cannot be decoded; the text is the reason, short enough for a table of quarantined values."""


class Modality(Protocol):
    """One field of the data. Everything is a function of its arguments: no state, no global random generator."""

    suffixes: ClassVar[frozenset[str]]
    """File endings that this kind of data is read from, with the dot, lower case."""

    @classmethod
    def infer(cls, samples: Sequence[Raw], **given) -> Modality:
        """Parameters from up to ~200 raw samples; `given` ones win. Samples that cannot be decoded are passed over,
        unless none can: then `BadValue`."""

    def decode(self, raw: Raw) -> np.ndarray:
        """One raw value in canonical form. Raises BadValue."""

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """Another view of a decoded value, of the same kind: a pure function of `value`, `view` and the state of
        `rng`."""

    def collate(self, values: Sequence[np.ndarray] | np.ndarray) -> Tensor | Ragged:
        """N >= 0 decoded values as one. Those that are bytes (uint8) and of one shape may come as one array of them."""

    def tokenizer(self, width: int) -> nn.Module:
        """A module (column, name, size) -> Tokens of content; where a token is stands in `Tokens.position`, for the
        encoder."""

    def targets(self, values: Tensor | Ragged) -> Tensor:
        """(T, ...) what a masked model predicts for each token, in the tokenizer's order."""

    def predictor(self, width: int) -> nn.Module:
        """A module (t, width) -> predictions that `token_loss` understands."""

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) the loss of each token."""

    def show(self, value: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 picture of a decoded value."""

    def describe(self, value: np.ndarray) -> str:
        """One short line about a decoded value."""


M = TypeVar("M", bound=Modality)


def build(cls: type[M], parameters: Mapping[str, Any]) -> M:
    """`cls` with these parameters, as read from TOML or JSON. Raises AmodalError for unknown names and wrong types."""
    kind, defaults = cls.__name__.lower(), cls()
    known = {f.name: f.type for f in fields(cls)}
    for name in parameters:
        if name not in known:
            raise unknown(f"parameter of {kind}", name, known)
    return cls(**{n: _typed(f"{kind}.{n}", v, getattr(defaults, n), known[n]) for n, v in parameters.items()})


LARGEST = 2**31
"""No size, rate or count of a modality is larger; the smaller limits of each are in its page."""


def _typed(name: str, value: Any, default: Any, declared: str) -> Any:
    """`value` in the type of the parameter's default: lists become tuples, whole numbers may stand for floats. declared: the
    annotation, which says what is in a tuple. Numbers are finite and none is huge: they may come from a file that anybody wrote."""
    wanted = type(default)
    if wanted is tuple and isinstance(value, (list, tuple)):
        each = {"tuple[str": "", "tuple[int": 0, "tuple[float": 0.0}.get(declared.partition(",")[0])
        return tuple(value if each is None else (_typed(f"each of {name}", v, each, "") for v in value))
    if wanted is dict and isinstance(value, Mapping):
        return {str(k): _typed(f"{name}.{k}", v, (), "tuple[str, ...]") for k, v in value.items()}
    if wanted is str and isinstance(value, (str, os.PathLike)) and "\0" not in os.fspath(value):
        return os.fspath(value)
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if number and not (abs(value) <= LARGEST if wanted is int else abs(value) <= float(np.finfo(np.float32).max)):
        raise AmodalError(f"{name} must be a finite number of reasonable size, got {shortened(repr(value))}")
    if wanted is float and number or wanted is int and number and int(value) == value:
        return wanted(value)
    if wanted is bool and isinstance(value, bool):
        return value
    word = {
        tuple: "a list",
        dict: "a table",
        str: "text",
        float: "a number",
        int: "a whole number",
        bool: "true or false",
    }
    raise AmodalError(f"{name} must be {word[wanted]}, got {shortened(repr(value))}")


def at_most(kind: str, limits: Mapping[str, tuple[float, float]]) -> None:
    """limits: parameter -> (its value, the most that it can be). Raises AmodalError for one that would only fill the memory."""
    for name, (value, most) in limits.items():
        if value > most:
            raise AmodalError(f"{kind}.{name} is at most {most:,}, got {value:,}")


def check_view(view: str) -> None:
    if view not in VIEWS:
        raise unknown("view", view, VIEWS)


def decodable(modality: Modality, samples: Sequence[Raw]) -> list[np.ndarray]:
    """The samples that decode. Raises the first BadValue if none does."""
    values, first = [], BadValue("no samples to look at")
    for raw in samples:
        try:
            values.append(modality.decode(raw))
        except BadValue as error:
            first = error if not values else first
    if not values:
        raise first
    return values


def read_bytes(raw: Path | str | bytes) -> bytes:
    """The content of a file, or the bytes themselves. Raises BadValue if there is no such file or nothing in it."""
    if not isinstance(raw, bytes):
        try:
            with open(raw, "rb") as file:
                raw = file.read()
        except FileNotFoundError:
            raise BadValue(f"no such file: {raw}") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            raise BadValue(f"cannot read {str(raw)[:200]!r}: {getattr(error, 'strerror', None) or error}") from None
    if not raw:
        raise BadValue("empty file")
    return raw


def unwrap(raw: Raw) -> Raw:
    """Hugging Face's {"bytes": ..., "path": ...} as the one of the two that is there; anything else as it is."""
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
    """Raises BadValue where a numpy file announces more than it holds or, compressed, more than there should be room for: numpy would
    ask for that memory first and look afterwards."""
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
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    promised, size = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if not dtype.hasobject and (promised > size or min(shape, default=0) < 0):
        raise BadValue(f"truncated: {size:,} bytes, but shape {shape} of {dtype} needs {promised:,}")


def is_missing(cell: Any) -> bool:
    """Whether a cell of a table says that there is no value."""
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip().lower() in {"", "na", "n/a", "nan", "null", "none", "-"}
    return isinstance(cell, (float, np.floating)) and not np.isfinite(cell)


def as_number(cell: Any) -> float:
    """A cell as a number: NaN where missing or infinite, dates as seconds. Raises ValueError."""
    if is_missing(cell):
        return float("nan")
    if isinstance(cell, datetime.datetime):
        return cell.replace(tzinfo=cell.tzinfo or datetime.UTC).timestamp()
    if isinstance(cell, datetime.date):
        return cell.toordinal() * 86400.0
    try:
        number = float(cell)
    except TypeError as error:
        raise ValueError(str(error)) from None
    except OverflowError:  # a whole number of more digits than a float has room for
        return float("nan")
    return number if np.isfinite(number) else float("nan")


def moments(columns: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each column of (n, C), NaN left out, six digits: they are written into files that
    people read. A column that never varies has deviation 1, one without any value also mean 0."""
    seen = np.isfinite(columns)
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen, columns, 0).sum(0, dtype=np.float64) / count
    std = np.sqrt((np.where(seen, columns - mean, 0).astype(np.float64) ** 2).sum(0) / count)
    return tuple(map(tidy, mean)), tuple(tidy(s) if s > 1e-12 else 1.0 for s in std)


def tidy(number: float) -> float:
    return float(f"{number:.6g}")


def shortened(text: str, length: int = 72) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def listed(parts: Iterable[str], length: int = 72) -> str:
    """As many of `parts` as a line takes."""
    return shortened(", ".join(parts), length)
