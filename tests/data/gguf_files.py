"""Writes GGUF files by the rules of the format, for tests of what reads them."""

import struct

import numpy as np

NUMBERS = {int: (4, "<I"), float: (6, "<f"), bool: (7, "?")}
"""Type in Python -> number of the type in a file, and its form there."""


def text(value):
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def value(x):
    """Type and bytes of a value of the metadata."""
    if isinstance(x, str):
        return struct.pack("<I", 8) + text(x)
    if isinstance(x, np.ndarray):  # of int32, as types of tokens are
        return struct.pack("<IIQ", 9, 5, len(x)) + x.astype("<i4").tobytes()
    if isinstance(x, list):
        return struct.pack("<IIQ", 9, 8, len(x)) + b"".join(map(text, x))
    number, form = NUMBERS[type(x)]
    return struct.pack("<I", number) + struct.pack(form, x)


def written(metadata, tensors, *, version=3, step=32):
    """A file.

    Args:
        metadata: Key -> value.
        tensors: Name -> (shape as numpy has it, number of the type, bytes).
        version: Of the format.
        step: Places of tensors are multiples of it.
    """
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    parts += [text(key) + value(x) for key, x in metadata.items()]
    place, body = 0, []
    for name, (shape, kind, raw) in tensors.items():
        sides = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        parts.append(text(name) + sides + struct.pack("<IQ", kind, place))
        padded = raw + bytes(-len(raw) % step)
        body.append(padded)
        place += len(padded)
    head = b"".join(parts)
    return head + bytes(-len(head) % step) + b"".join(body)
