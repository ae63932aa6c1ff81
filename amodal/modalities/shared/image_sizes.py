"""At which size pictures are read: by their own sizes, bounded by the cost of their tokens."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amodal.modalities.shared import pixels
from amodal.modalities.shared.base import BadValue, Raw
from amodal.modalities.shared.files import is_numpy, read_bytes, unwrap
from amodal.modalities.shared.png import check_sides, header_of

BACKBONES = ("timm", "transformers", "open_clip", "convnet", "caffenet", "vgg", "amdim")
"""Libraries and networks that read pictures."""
MIN_SIDE, MAX_SIDE = 8, 224
"""Sides that `default_size` chooses between. The upper one bounds the cost alone: it is what most
models of photographs read, at 196 tokens a picture."""
UNITS = ((32, 4), (112, 8), (math.inf, 16))
"""Sides up to which tokens are so many pixels wide: 64 tokens at 32 pixels, 196 at 112 and 224."""
EVEN_SIDE = 64
"""Up to here a token of an eighth of the side, which is the default of a patch, is as cheap."""
MAX_TOKENS = 256
"""Of a picture that is read whole in the advice of `comment`."""


def default_size(side: float, patch: object = 0) -> tuple[int, int]:
    """The size at which pictures are read unless somebody says another.

    Args:
        side: of the median picture, the shorter one, in pixels.
        patch: side of a token in pixels if it is given, not checked yet; 0 for any.

    Returns:
        The size, a whole number of patches, and the patch; 0 for an eighth of the size.
    """
    wanted = min(max(side, MIN_SIDE), MAX_SIDE)
    fixed = patch if isinstance(patch, int) and patch > 0 else 0
    unit = fixed or next(u for most, u in UNITS if wanted <= most)
    size = unit * max(1, math.floor(wanted / unit + 0.5))
    if size > MAX_SIDE > unit:
        size -= unit
    return size, fixed or (unit if size > EVEN_SIDE else 0)


def median_side(raws: Sequence[Raw]) -> float:
    """The median of the pictures' shorter sides, in pixels; 0 where none can be read."""
    sides = []
    for raw in raws:
        try:
            sides.append(short_side(raw))
        except BadValue:
            pass
    return float(np.median(sides)) if sides else 0.0


def short_side(raw: Raw) -> int:
    """The shorter side of a picture, of a file by its header alone.

    Raises:
        BadValue: it is no picture.
    """
    raw = unwrap(raw)
    if isinstance(raw, (Path, str, bytes)):
        data = read_bytes(raw)
        if not is_numpy(data):
            try:
                with header_of(io.BytesIO(data)) as picture:
                    check_sides(*picture.size)
                    return int(min(picture.size))
            except BadValue:
                raise
            except Exception as error:  # as `pixels.read`: plugins raise nearly anything
                raise BadValue(f"not a picture: {error}") from None
    return min(pixels.shape(pixels.read(raw))[1:])


def comment(side: float, size: int, tile: int) -> str:
    """What to know about the size of a field, in dataset.toml.

    Args:
        side: of the median picture, see `median_side`; 0 for unknown.
        size: at which pictures are read.
        tile: side of a token in pixels.
    """
    tokens = (size // tile) ** 2
    shown = f"size: {size} pixels a side, {tokens} tokens a picture, (size / patch)^2"
    if not side:
        return shown
    if side <= size + tile:
        return f"{shown}: what the median picture has ({side:g})"
    patch = next(p for p in range(4, 2**14, 4) if (side / p) ** 2 <= MAX_TOKENS)
    whole = patch * max(1, math.floor(side / patch + 0.5))
    return (
        f"{shown}:\na bound of the cost, the median picture has {side:g}. To read all of it: "
        f"size = {whole}, patch = {patch}\n({(whole // patch) ** 2} tokens); any size that patch "
        "divides will do"
    )


def native_shape(height: int, width: int, tile: int, tokens: int) -> tuple[int, int]:
    """Height and width in whole tokens, at most so many, at about the same aspect.

    As in NaViT (Dehghani et al. 2023, arXiv:2307.06304) and NaFlex (Tschannen et al. 2025,
    arXiv:2502.14786), but a picture that has fewer tokens is not enlarged.

    Args:
        height, width: of the picture, in pixels.
        tile: side of a token in pixels.
        tokens: how many at most, 1 or more.
    """
    scale = min(1.0, math.sqrt(tokens / (height * width)) * tile) / tile
    wanted = height * scale, width * scale

    def distortion(shape: tuple[int, int]) -> float:
        return sum(math.log(side / real) ** 2 for side, real in zip(shape, wanted))

    shapes = []
    for rows in _whole(wanted[0], tokens):
        shapes += [(rows, columns) for columns in _whole(wanted[1], tokens // rows)]
    rows, columns = min(shapes, key=distortion)
    return rows * tile, columns * tile


def _whole(side: float, most: int) -> list[int]:
    """The whole numbers below and above, at least 1 and at most so much."""
    return [min(max(n, 1), most) for n in (math.floor(side), math.ceil(side))]
