"""Points as a binary PLY file, which nearly every tool for points reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.core import AmodalError
from amodal.modalities.shared.points_files import COLOUR


def ply_bytes(values: np.ndarray, channels: Sequence[str] = ()) -> bytes:
    """A PLY file of points.

    Args:
        values: (n, 3 + C), as `Points.decode` makes them: x, y and z, then channels; colours 0 … 1.
        channels: names of the C columns.

    Returns:
        The file: places and channels as float32, colours as bytes.

    Raises:
        AmodalError: the numbers are not of this shape.
    """
    if values.ndim != 2 or values.shape[1] != 3 + len(channels):
        raise AmodalError(
            f"{3 + len(channels)} numbers a point (x, y, z and {len(channels)} channels) are "
            f"written, and the shape is {values.shape}"
        )
    names = ("x", "y", "z", *channels)
    kinds = {name: "u1" if name in COLOUR else "<f4" for name in names}
    rows = np.empty(len(values), dtype=list(kinds.items()))
    for name, column in zip(names, values.T):
        whole = (np.nan_to_num(column).clip(0, 1) * 255).round()
        rows[name] = whole if name in COLOUR else column
    words = {"u1": "uchar", "<f4": "float"}
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(values)}"]
    head += [f"property {words[kind]} {name}" for name, kind in kinds.items()]
    return "\n".join([*head, "end_header", ""]).encode() + rows.tobytes()
