"""Colours of the points of an OFF file, which trimesh does not read.

As Geomview writes them (its manual, section "OFF Files"): COFF has red, green, blue and alpha
after the place of a point, and after its normal in CNOFF.
"""

from __future__ import annotations

import numpy as np

from amodal.modalities.shared.base import BadValue
from amodal.modalities.shared.points_headers import HEAD, OFF_HEADER


def vertex_colours(data: bytes) -> np.ndarray | None:
    """(n, 3) of the points, int64 where the file has whole numbers, else float64.

    Args:
        data: the file, whose header is right.

    Returns:
        None where its first word has no C.

    Raises:
        BadValue: a point has no colour.
    """
    match = OFF_HEADER.match(data[:HEAD])
    if match is None or b"C" not in match.group("kind"):
        return None
    kind = match.group("kind")
    lines = (line.partition(b"#")[0].split() for line in data[match.end() :].splitlines())
    rows = [line for line in lines if line]
    first = 3 + (b"4" in kind) + 3 * (b"N" in kind)
    words = [row[first : first + 3] for row in rows[1 : 1 + int(rows[0][0])]]
    if any(len(word) < 3 for word in words):
        raise BadValue(f"damaged OFF: it begins with {kind.decode()}, and a point has no colour")
    whole = all(part.isdigit() for word in words for part in word)
    try:
        return np.array(words, dtype=np.int64 if whole else np.float64).reshape(-1, 3)
    except (ValueError, OverflowError):
        raise BadValue("damaged OFF: a colour that is no number") from None
