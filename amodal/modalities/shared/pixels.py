"""Pictures of any kind as arrays, and the linear maps that augment them."""

from __future__ import annotations

import io
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps

from amodal.modalities.shared.base import BadValue, Raw
from amodal.modalities.shared.files import is_numpy, load_numpy, read_bytes, unwrap
from amodal.modalities.shared.requests import NUMPY, Limits, TooLarge, array_of, file_of

try:
    import simplejpeg
except ImportError:  # no more than faster
    simplejpeg = None

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
SMALL, BLOCK = 64, 32
"""Sides up to which a map is multiplied out as it is, and rows of larger ones that go together."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""What is read from strangers, by Pillow's names."""
SCANS, PASSES = 64, 12
"""Scans of a JPEG; progressive ones have about ten, and each goes over the whole picture however
few bytes it takes. So of the largest pictures no more than PASSES."""
DEEP = ("I", "F")  # Pillow's modes of more than 8 bits: I, I;16, I;16B, F

Picture = Pillow.Image | np.ndarray
"""Of eight bits with Pillow or, grey or colour, (C, H, W) uint8; deeper ones are (C, H, W) float32.
"""


def read(raw: Raw, near: int = 0) -> Picture:
    """A picture from a file, its bytes, an array (H, W), (H, W, C) or (C, H, W), or a Pillow image.

    near: the side that is wanted in the end, which lets JPEG skip detail that would be thrown away;
    0 reads everything. Sixteen bits are scaled to 0 … 1; floats and other integers are taken as
    they are, in whatever unit they have.
    """
    raw = unwrap(raw)
    if isinstance(raw, (Path, str, bytes)):
        data = read_bytes(raw)
        if (quick := _plain_jpeg(data, near)) is not None:
            return quick
        raw = load_numpy(data) if is_numpy(data) else _open(data, near)
    if isinstance(raw, Pillow.Image):
        return _upright(raw)
    if isinstance(raw, (np.ndarray, list, tuple)):
        return _from_array(raw)
    raise BadValue(f"a {type(raw).__name__} is not a picture: expected a path, bytes or an array")


PNG = b"\x89PNG\r\n\x1a\n"
SEEN = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"eXIf")
"""The parts of a PNG that decide how it looks."""


def _check_png(data: bytes) -> None:
    """Raises BadValue where a checksum is wrong: Pillow leaves out those of the pixels."""
    at = len(PNG)
    while at + 12 <= len(data):
        kind, stop = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
        if kind in SEEN and stop + 4 <= len(data):
            if zlib.crc32(memoryview(data)[at + 4 : stop]) != int.from_bytes(
                data[stop : stop + 4], "big"
            ):
                raise BadValue(
                    f"damaged picture: the checksum of {kind.decode()} at byte {at:,} is wrong"
                )
        at = len(data) if kind == b"IEND" else stop + 4


def _open(data: bytes, near: int) -> Pillow.Image:
    if data.startswith(PNG):
        _check_png(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Pillow.DecompressionBombWarning)
            picture = Pillow.open(io.BytesIO(data))
            if near:
                picture.draft(None, (2 * near, 2 * near))
            picture.load()
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise BadValue(f"too many pixels: {error}") from None
    except Pillow.UnidentifiedImageError:
        raise BadValue("not a picture in any format that Pillow reads") from None
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged bytes
        raise BadValue(f"damaged picture: {error}") from error
    return picture


def _plain_jpeg(data: bytes, near: int) -> np.ndarray | None:
    """(C, H, W) uint8 by simplejpeg (extra `vision`), in a third of the time and to the same
    pixels, of a whole JPEG, grey or colour, not turned by its metadata, not too large, and not to
    be shrunk while it is decoded. None for all else: Pillow reads it or says no."""
    if simplejpeg is None or not data.startswith(b"\xff\xd8") or b"Exif\0" in data:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        shrinks = near and min(height, width) >= 4 * near
        if (
            space not in ("Gray", "YCbCr")
            or height * width > (Pillow.MAX_IMAGE_PIXELS or 0)
            or shrinks
        ):
            return None
        return simplejpeg.decode_jpeg(data, "GRAY" if space == "Gray" else "RGB").transpose(2, 0, 1)
    except ValueError:
        return None


def _upright(picture: Pillow.Image) -> Picture:
    """EXIF orientation applied; deep modes as float32, all others as L, RGB or RGBA."""
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception:  # damaged metadata do not make the pixels bad
        pass
    if picture.mode.startswith(DEEP):
        # PNG has no 32-bit mode: older Pillow reads 16 bits as "I".
        sixteen = picture.mode.startswith("I;16") or picture.format == "PNG"
        return _filled(np.asarray(picture, dtype=np.float32)[None] / (65535 if sixteen else 1))
    if "transparency" in picture.info or picture.mode in ("LA", "PA", "La", "RGBa", "RGBA"):
        return picture.convert("RGBA")
    return (
        picture
        if picture.mode in ("L", "RGB")
        else picture.convert("L" if picture.mode == "1" else "RGB")
    )


def _from_array(raw: np.ndarray | list | tuple) -> Picture:
    try:
        array = np.asarray(raw)
    except ValueError as error:
        raise BadValue(f"not an array of pixels: {error}") from None
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "buif":
        wanted = "(H, W), (H, W, C) or (C, H, W) numbers"
        raise BadValue(
            f"an array of shape {array.shape} and type {array.dtype} is not a picture: expected "
            f"{wanted}"
        )
    if array.ndim == 2:
        array = array[None]
    elif array.shape[2] < array.shape[0] or array.shape[2] in MODES and array.shape[0] not in MODES:
        array = np.moveaxis(array, 2, 0)  # the channels are the short side
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype == np.uint8 and len(array) in MODES:
        hwc = np.ascontiguousarray(np.moveaxis(array, 0, 2))
        return Pillow.fromarray(hwc[..., 0] if len(array) == 1 else hwc)
    scale = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(array.dtype, 1)
    return _filled(array.astype(np.float32) / scale)


def _filled(planes: np.ndarray) -> np.ndarray:
    """Pixels without a value (NaN, infinite) get the mean of their channel: resampling would spread
    them."""
    bad = ~np.isfinite(planes)
    if not bad.any():
        return planes
    if bad.all():
        raise BadValue("no pixel has a finite value")
    mean = np.where(bad, 0, planes).sum((1, 2)) / np.maximum((~bad).sum((1, 2)), 1)
    return np.where(bad, mean[:, None, None], planes).astype(np.float32)


def shape(picture: Picture) -> tuple[int, int, int]:
    """(channels, height, width)."""
    if isinstance(picture, np.ndarray):
        return picture.shape
    return len(picture.getbands()), picture.height, picture.width


def with_channels(picture: Picture, channels: int) -> Picture:
    """The picture in so many channels: alpha over white, colour to grey by luma, grey to colour by
    repeating."""
    have = shape(picture)[0]
    if have == channels:
        return picture
    picture = _with_pillow(picture)
    if isinstance(picture, Pillow.Image) and channels in MODES:
        if have == 4:
            white = Pillow.new("RGBA", picture.size, "white")
            picture = Pillow.alpha_composite(white, picture)
        return picture.convert(MODES[channels])
    if isinstance(picture, np.ndarray) and (have, channels) in ((1, 3), (3, 1)):
        return np.repeat(picture, 3, 0) if channels == 3 else np.tensordot(LUMA, picture, 1)[None]
    raise BadValue(f"the picture has {have} channels, the field {channels}")


def _with_pillow(picture: Picture) -> Picture:
    """Eight bits as Pillow has them."""
    if isinstance(picture, Pillow.Image) or picture.dtype != np.uint8:
        return picture
    return Pillow.fromarray(
        picture[0] if len(picture) == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0))
    )


def resized(picture: Picture, size: int, fit: str, blank: Sequence[float]) -> np.ndarray:
    """(C, size, size) uint8 or float32; see `Image.fit`. blank (C,): what `fit="pad"` fills up
    with, on the scale 0 … 1."""
    _, height, width = shape(picture)
    side = min(height, width)
    left, top = ((width - side) / 2, (height - side) / 2) if fit == "crop" else (0, 0)
    box = (left, top, width - left, height - top)
    if fit != "pad" or height == width:
        return _resampled(picture, size, size, box)
    h, w = (max(1, round(size * s / max(height, width))) for s in (height, width))
    small = _resampled(picture, h, w, box)
    filling = np.asarray(blank, dtype=np.float32)
    filling = np.rint(filling * 255).clip(0, 255) if small.dtype == np.uint8 else filling
    canvas = np.empty((len(small), size, size), small.dtype)
    canvas[:] = filling[:, None, None]
    y, x = (size - h) // 2, (size - w) // 2
    canvas[:, y : y + h, x : x + w] = small
    return canvas


def _resampled(picture: Picture, height: int, width: int, box: tuple[float, ...]) -> np.ndarray:
    """(C, height, width) of what is in the box (left, top, right, bottom)."""
    if box == (0, 0, *shape(picture)[:0:-1]) and (planes := _bytes(picture)) is not None:
        return (
            np.ascontiguousarray(planes)
            if planes.shape[1:] == (height, width)
            else stretched(planes, height, width)
        )
    picture = _with_pillow(picture)
    # Pillow widens this kernel when it shrinks a picture, so nothing aliases, and a triangle never
    # overshoots.
    planes = (
        [Pillow.fromarray(p) for p in picture] if isinstance(picture, np.ndarray) else [picture]
    )
    small = [
        np.asarray(p.resize((width, height), Pillow.Resampling.BILINEAR, box=box)) for p in planes
    ]
    array = small[0] if len(small) == 1 else np.stack(small, 2)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0))


def _bytes(picture: Picture) -> np.ndarray | None:
    """(C, H, W) uint8 of grey or colour, None of all else."""
    if isinstance(picture, Pillow.Image) and picture.mode in ("L", "RGB"):
        array = np.array(picture)
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return picture if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 else None


def stretched(planes: np.ndarray, height: int, width: int, mirrored: bool = False) -> np.ndarray:
    """(C, height, width) from (C, H, W) uint8: Pillow's kernel, in whole numbers as there, in a
    third of the time; no pixel differs from Pillow's by more than one of 255 levels."""
    out = torch.nn.functional.interpolate(
        torch.from_numpy(planes)[None], (height, width), mode="bilinear", antialias=True
    )[0]
    return (out.flip(-1) if mirrored else out).numpy()


def sampling(
    n_in: int, low: float, high: float, n_out: int, *, sigma: float = 0.0, flip: bool = False
) -> np.ndarray:
    """(n_out, n_in) float32: the linear map that cuts low … high (pixels) out of a side, resizes it
    to `n_out` with the kernel of `resized`, blurs it by a Gaussian of `sigma` output pixels and
    turns it round."""
    step = (high - low) / n_out
    centre = low + (np.arange(n_out, dtype=np.float32) + 0.5) * step
    if flip:
        centre = centre[::-1]
    distance = np.abs(np.arange(0.5, n_in, dtype=np.float32) - centre[:, None])
    weight = np.maximum(0, 1 - distance / max(step, 1))
    weight /= weight.sum(1, keepdims=True)
    # a narrower blur changes nothing
    return banded(gaussian(n_out, sigma), weight) if sigma > 0.25 else weight


def gaussian(n: int, sigma: float) -> np.ndarray:
    """(n, n) float32: blur along a side of n pixels."""
    weight = np.exp(np.arange(n, dtype=np.float32) ** 2 / (-2 * sigma**2))
    # far from the middle it is too small for normal floats, which are many times faster
    weight *= weight > 1e-6
    weight = weight[_apart(n)]
    return weight / weight.sum(1, keepdims=True)


@cache
def _apart(n: int) -> np.ndarray:
    """(n, n): how many pixels lie between two of a side."""
    return np.abs(np.arange(n)[:, None] - np.arange(n))


def mapped(planes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """rows @ planes @ columns.T: planes (C, H, W) float32 sent through maps of `sampling` along
    height and along width."""
    if max(rows.shape + columns.shape) <= SMALL:
        return rows @ planes @ columns.T
    return banded(rows, banded(columns, planes.swapaxes(1, 2)).swapaxes(1, 2))


def banded(matrix: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """matrix (M, N) @ planes (..., N, W), where a row of the matrix looks at a short stretch of the
    N: in blocks of rows, each by what they look at, which at 224 pixels takes a quarter of the
    time."""
    if max(matrix.shape) <= SMALL:
        return matrix @ planes
    out = np.empty((*planes.shape[:-2], len(matrix), planes.shape[-1]), dtype=np.float32)
    for start in range(0, len(matrix), BLOCK):
        block = matrix[start : start + BLOCK]
        looks = np.flatnonzero(block.any(0))
        near = slice(looks[0], looks[-1] + 1)
        np.matmul(block[:, near], planes[..., near, :], out=out[..., start : start + BLOCK, :])
    return out


def hue_rotation(angle: float) -> np.ndarray:
    """(3, 3): turn colours by `angle` radians about the grey axis."""
    cos, sin = np.cos(angle), np.sin(angle) / np.sqrt(3)
    return cos * np.eye(3) + (1 - cos) / 3 + sin * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])


def summary(raws: Sequence[Raw]) -> str:
    """Sizes and modes of pictures, in a few words; "" where none can be opened."""
    sizes, modes = [], Counter()
    for raw in raws:
        try:
            with Pillow.open(io.BytesIO(raw) if isinstance(raw, bytes) else str(raw)) as picture:
                sizes.append(picture.size)
                modes[picture.mode] += 1
        except Exception:  # not a file of a picture, or a damaged one
            if isinstance(raw, np.ndarray) and raw.ndim > 1:
                last = raw.shape[-2:] if raw.shape[-1] not in (1, 3, 4) else raw.shape[-3:-1]
                sizes.append(last)
                modes[str(raw.dtype)] += 1
    if not sizes:
        return ""
    small, large = min(sizes, key=np.prod), max(sizes, key=np.prod)
    span = f"{small[0]} x {small[1]}"
    span += f" … {large[0]} x {large[1]}" if large != small else ""
    return f"{span}, {'/'.join(m for m, _ in modes.most_common(3))}"


def bounded(raw: Any, limits: Limits, near: int) -> np.ndarray | Pillow.Image:
    """A picture from a stranger, decoded as far as the formats and sizes are harmless.

    Args:
        near: the side that it will have in the end, in pixels.

    Raises:
        TooLarge: it has more pixels than `limits` allow.
        BadValue: no picture, a damaged one, or one that takes too long to read.
    """
    data = file_of(raw)
    if data.startswith(NUMPY):
        return array_of(data)
    try:
        picture = Pillow.open(io.BytesIO(data), formats=FORMATS)
        _allow(picture, limits)
        if any(tile[0] in Pillow.DECODERS for tile in picture.tile):
            raise BadValue("a picture in an old form that is slow to read; save it as PNG")
        scans = data.count(b"\xff\xda") if picture.format == "JPEG" else 1
        if scans > SCANS or scans * picture.width * picture.height > PASSES * limits.pixels:
            raise BadValue(f"a JPEG of {scans} scans")
        picture.draft(None, (2 * near, 2 * near))
        picture.load()
        _allow(picture, limits)
        return picture
    except BadValue:
        raise
    except Pillow.DecompressionBombError as error:
        raise TooLarge(f"too many pixels: {error}") from None
    except Pillow.UnidentifiedImageError:
        taken = ", ".join(FORMATS)
        raise BadValue(f"no picture in a format that is taken: {taken}, or .npy") from None
    except Exception as error:  # as in the image modality
        raise BadValue(f"damaged picture: {error}") from None


def _allow(picture: Pillow.Image, limits: Limits) -> None:
    width, height = picture.size
    if width * height > limits.pixels:
        raise TooLarge(f"{width} x {height} pixels; at most {limits.pixels:,} are read")
