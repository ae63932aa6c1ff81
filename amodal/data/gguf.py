"""Files of weights in the GGUF format of ggml, versions 2 and 3, read with numpy alone.

A file has its counts, named metadata, the names, shapes and places of tensors, and their bytes,
in blocks that are quantised in one of many types; `TYPES` are those that are read. A file is
checked before anything of its size is made: what it claims must lie within its bytes.

The public package `gguf` reads and writes more types. It trusts its file, and brings a client of
HTTP and YAML with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from amodal.core import AmodalError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
VALUES = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""Number of a type of metadata -> the type in numpy; strings and arrays are beside them."""
LEAST_ENTRY = 8 + 4 + 1
"""Bytes of an entry of the metadata: a length, a type, a value."""
LEAST_TENSOR = 8 + 4 + 8 + 4 + 8
"""Bytes of the description of a tensor: a length, a rank, a side, a type, a place."""
MAX_RANK = 4
ALIGNMENT = "general.alignment"


class Type(NamedTuple):
    """A type of tensors.

    Attributes:
        name: In ggml.
        weights: In a block; rows hold whole blocks.
        bytes: Of a block.
        dequantise: (blocks, bytes) -> (blocks, weights).
    """

    name: str
    weights: int
    bytes: int
    dequantise: Callable[[Bytes], Floats]


def _half(blocks: Bytes, start: int) -> Floats:
    """(N, 1), a number in half precision of each block."""
    return blocks[:, start : start + 2].copy().view("<f2").astype(np.float32)


def _q4_1(blocks: Bytes) -> Floats:
    """32 weights of 4 bits: a scale, a minimum, the first half in the low bits of 16 bytes."""
    packed = blocks[:, 4:]
    return np.hstack([packed & 15, packed >> 4]) * _half(blocks, 0) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    """32 weights of 8 bits with a sign, behind a scale."""
    return blocks[:, 2:].view(np.int8) * _half(blocks, 0)


TYPES = {
    0: Type("F32", 1, 4, lambda blocks: blocks.view("<f4").astype(np.float32)),
    1: Type("F16", 1, 2, lambda blocks: blocks.view("<f2").astype(np.float32)),
    3: Type("Q4_1", 32, 20, _q4_1),
    8: Type("Q8_0", 32, 34, _q8_0),
}
"""Number of a type of tensors -> the type."""


class Stored(NamedTuple):
    """A tensor of a file.

    Attributes:
        shape: As numpy has it, rows first.
        type: Of its blocks.
        start: Of its first byte in the file.
        bytes: How many there are.
    """

    shape: tuple[int, ...]
    type: Type
    start: int
    bytes: int


class GgufFile:
    """Metadata and tensors of a file.

    Args:
        content: Of the file.
        name: Of the file, for messages.

    Attributes:
        metadata: Key -> number, bool, text, list of texts, or array of numbers.
        tensors: Name -> where it is.

    Raises:
        AmodalError: If it is no GGUF file of a version that is read, or a damaged one: cut off,
            with counts, lengths or places outside of it, or tensors that lie in one another.
    """

    def __init__(self, content: bytes, name: str = "the file"):
        self._content, self._name, self._place = content, name, 0
        if content[:4] != MAGIC:
            raise AmodalError(f"{name} is no GGUF file: it begins with {content[:4]!r}")
        self._place = 4
        version = self._number("<u4")
        if version not in VERSIONS:
            raise AmodalError(
                f"{name} is GGUF of version {version}; little-endian files of version "
                f"{' or '.join(map(str, VERSIONS))} are read"
            )
        tensors = self._count(LEAST_TENSOR, "tensors")
        entries = self._count(LEAST_ENTRY, "entries of metadata")
        self.metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._text()
            if key in self.metadata:
                raise self._damaged(f"the key {key!r} stands twice")
            self.metadata[key] = self._value(self._number("<u4"))
        described = [self._description() for _ in range(tensors)]
        self.tensors = self._located(described)

    def array(self, name: str) -> Floats:
        """The weights of a tensor, dequantised.

        Raises:
            AmodalError: If there is no such tensor.
        """
        if name not in self.tensors:
            raise AmodalError(f"{self._name} has no tensor {name!r}")
        shape, kind, start, size = self.tensors[name]
        blocks = np.frombuffer(self._content, np.uint8, size, start).reshape(-1, kind.bytes)
        return kind.dequantise(blocks).reshape(shape)

    def _description(self) -> tuple[str, tuple[int, ...], Type, int]:
        name, rank = self._text(), self._number("<u4")
        if not 1 <= rank <= MAX_RANK:
            raise self._damaged(f"the tensor {name!r} has {rank} sides, not 1 to {MAX_RANK}")
        # the side along which weights lie in the file is first
        sides = [int(self._number("<u8")) for _ in range(rank)]
        number, place = self._number("<u4"), self._number("<u8")
        if number not in TYPES:
            raise AmodalError(
                f"the tensor {name!r} of {self._name} is of type {number}; those that are read are "
                + ", ".join(f"{t.name} ({n})" for n, t in TYPES.items())
            )
        kind = TYPES[number]
        if 0 in sides or sides[0] % kind.weights:
            raise self._damaged(
                f"the tensor {name!r} of type {kind.name} has sides {sides}; the first is a "
                f"multiple of {kind.weights}, and none is 0"
            )
        return name, tuple(reversed(sides)), kind, place

    def _located(
        self, described: Sequence[tuple[str, tuple[int, ...], Type, int]]
    ) -> dict[str, Stored]:
        """Tensors where they lie: behind the descriptions, at multiples of the alignment."""
        step = self.metadata.get(ALIGNMENT, 32)
        if type(step) is not int or step < 1:
            raise self._damaged(f"{ALIGNMENT} is {step!r}, not a number of bytes")
        base = -(-self._place // step) * step
        stored: dict[str, Stored] = {}
        for name, shape, kind, place in described:
            size = math.prod(shape) // kind.weights * kind.bytes
            start = base + place
            if place % step or start + size > len(self._content):
                raise self._damaged(
                    f"the tensor {name!r} has {size} bytes from byte {start} on, and the file ends "
                    f"at {len(self._content)} (places are multiples of {step})"
                )
            if name in stored:
                raise self._damaged(f"the tensor {name!r} stands twice")
            stored[name] = Stored(shape, kind, start, size)
        # so that all of them together are as large as the file, and not many times as large
        ordered = sorted(stored.items(), key=lambda item: item[1].start)
        for (one, first), (other, second) in zip(ordered, ordered[1:]):
            if first.start + first.bytes > second.start:
                raise self._damaged(f"the tensors {one!r} and {other!r} lie in one another")
        return stored

    def _value(self, number: int) -> Any:
        if number == STRING:
            return self._text()
        if number == ARRAY:
            return self._values(self._number("<u4"))
        if number not in VALUES:
            raise self._damaged(f"a value has type {number}, which there is not")
        return self._number(VALUES[number])

    def _values(self, number: int) -> Any:
        if number == STRING:
            return [self._text() for _ in range(self._count(8, "texts"))]
        if number not in VALUES:
            raise self._damaged(f"a list has values of type {number}, not numbers or texts")
        dtype = np.dtype(VALUES[number])
        count = self._count(dtype.itemsize, "numbers")
        array = np.frombuffer(self._content, dtype, count, self._place)
        self._place += array.nbytes
        return array

    def _count(self, least: int, things: str) -> int:
        """How many things follow, each of which takes this many bytes at least."""
        count = int(self._number("<u8"))
        if count > (len(self._content) - self._place) // least:
            raise self._damaged(f"it claims {count} {things}, more than its bytes can hold")
        return count

    def _number(self, code: str) -> Any:
        dtype = np.dtype(code)
        return np.frombuffer(self._taken(dtype.itemsize), dtype)[0].item()

    def _text(self) -> str:
        raw = self._taken(self._number("<u8"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(f"a text is not UTF-8 ({error})") from None

    def _taken(self, size: int) -> bytes:
        if size > len(self._content) - self._place:
            raise self._damaged(
                f"{size} bytes are asked for at byte {self._place} of {len(self._content)}"
            )
        self._place += size
        return self._content[self._place - size : self._place]

    def _damaged(self, reason: str) -> AmodalError:
        return AmodalError(f"{self._name} is damaged: {reason}")
