"""Rasters of labels: the class number of every pixel of a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from amodal.modalities.shared import pixels, raster_values
from amodal.modalities.shared.base import BadValue, Raw
from amodal.modalities.shared.files import is_numpy, load_numpy, read_bytes, unwrap
from amodal.modalities.shared.png import header_of

UNKNOWN = 255
"""The class number of pixels whose class is not known."""


def class_raster(raw: Raw) -> np.ndarray:
    """Class numbers as they stand in a file, not resized and not scaled.

    Args:
        raw: A file of one channel or with a palette, its bytes, or an array (H, W).

    Returns:
        (H, W) int64. A mask of truth values is 0 and 1.

    Raises:
        BadValue: For what is no raster of whole numbers from 0 on.
    """
    content: object = unwrap(raw)
    if isinstance(content, (Path, str, bytes)):
        data = read_bytes(content)
        content = load_numpy(data) if is_numpy(data) else _open(data)
    if isinstance(content, Pillow.Image):
        if content.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
            raise BadValue(
                "a raster of labels has one channel or a palette, and this picture is "
                f"{content.mode}"
            )
    numbers = np.asarray(content)
    numbers = numbers[..., 0] if numbers.ndim == 3 and numbers.shape[2] == 1 else numbers
    numbers = numbers[0] if numbers.ndim == 3 and numbers.shape[0] == 1 else numbers
    if numbers.ndim != 2 or numbers.dtype.kind not in "bui" or 0 in numbers.shape:
        raise BadValue(
            "a raster of labels is whole numbers of shape (H, W), not "
            f"{numbers.dtype} of shape {numbers.shape}"
        )
    if numbers.min() < 0:
        raise BadValue(f"class numbers begin at 0, and this raster has {numbers.min()}")
    return numbers.astype(np.int64)


def amount_raster(raw: Raw) -> np.ndarray:
    """Amounts, such as depth, as they stand in a file; pictures of 16 bits as 0 … 1.

    Args:
        raw: A GeoTIFF, .npy or picture of one channel, its bytes, or an array (H, W).

    Returns:
        (H, W) float64, NaN where missing.

    Raises:
        BadValue: For what has more than one channel.
    """
    content = unwrap(raw)
    try:
        found = raster_values.read(content).pixels[0]
    except BadValue:
        picture = pixels.read(content)
        found = picture if isinstance(picture, np.ndarray) else np.asarray(picture)[None]
    if found.ndim != 3 or len(found) != 1:
        raise BadValue(f"amounts are one channel (H, W), not an array of shape {found.shape}")
    amounts = found[0].astype(np.float64)
    return np.where(np.isfinite(amounts), amounts, np.nan)


def _open(data: bytes) -> Pillow.Image:
    try:
        picture = Pillow.open(io.BytesIO(data))
        picture.load()
    except UnidentifiedImageError:
        raise BadValue("not a picture in any format that Pillow reads") from None
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged bytes
        raise BadValue(f"damaged picture: {error}") from error
    return picture


def nearest_pixels(raster_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """A raster at another size, each pixel that of the nearest one: numbers have no means."""
    rows = ((np.arange(height) + 0.5) * raster_HW.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * raster_HW.shape[1] / width).astype(int)
    out: np.ndarray = raster_HW[rows[:, None], columns]
    return out


def picture_sides(raw: Raw) -> tuple[int, int]:
    """(height, width) of a picture or raster, of a file by its header alone.

    Raises:
        BadValue: If it cannot be read.
    """
    content: object = unwrap(raw)
    if isinstance(content, (Path, str, bytes)):
        data = read_bytes(content)
        if not is_numpy(data):
            return _header_sides(data)
        content = load_numpy(data)
    if isinstance(content, Pillow.Image):
        return content.height, content.width
    shape = np.asarray(content).shape
    if len(shape) not in (2, 3):
        raise BadValue(f"an array of shape {shape} is no picture")
    # channels are the short side, first or last
    rows = shape[1:] if len(shape) == 3 and shape[0] < min(shape[1:]) else shape
    return int(rows[0]), int(rows[1])


def _header_sides(data: bytes) -> tuple[int, int]:
    try:
        with header_of(io.BytesIO(data)) as picture:
            turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = picture.size
    except Exception as error:  # whatever Pillow's plugins raise
        raise BadValue(f"not a picture: {error}") from error
    return (width, height) if turned else (height, width)
