"""Sizes of encoders."""

from __future__ import annotations

from dataclasses import dataclass

from amodal.core import unknown


@dataclass(frozen=True)
class Size:
    """A size of encoders.

    Attributes:
        width, depth, heads: D, blocks and H.
        batch, lr: That suit it, with AdamW.
    """

    width: int
    depth: int
    heads: int
    batch: int
    lr: float


SIZES = {
    "nano": Size(64, 2, 2, 256, 2e-3),
    "tiny": Size(128, 4, 4, 256, 1e-3),
    "small": Size(384, 12, 6, 512, 5e-4),
    "base": Size(768, 12, 12, 1024, 3e-4),
    "large": Size(1024, 24, 16, 2048, 2e-4),
    "huge": Size(1280, 32, 16, 2048, 1e-4),
}


def size_of(name: str) -> Size:
    """The size of a name.

    Raises:
        AmodalError: For a name that is not in `SIZES`.
    """
    if name not in SIZES:
        raise unknown("size", name, SIZES)
    return SIZES[name]
