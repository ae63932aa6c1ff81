"""Pictures as arrays, and the linear maps that augment them."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from amodal.core.regular_file import regular
from amodal.modalities.shared.base import BadValue, Raw
from amodal.modalities.shared.files import is_numpy, load_numpy, read_bytes, unwrap
from amodal.modalities.shared.image_maps import LUMA
from amodal.modalities.shared.png import PNG, check_png, check_sides, header_of
from amodal.modalities.shared.requests import NUMPY, Limits, TooLarge, array_of, file_of

try:
    import simplejpeg
except ImportError:  # only faster
    simplejpeg = None

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""Accepted formats of untrusted files, by Pillow's names."""
MAX_SCANS, MAX_FULL_SCANS = 64, 12
"""Scans of a JPEG; progressive ones have about ten, and each goes over the whole picture however
few bytes it takes. So of the largest pictures no more than PASSES."""
DEEP_MODES = ("I", "F")  # Pillow's modes of more than 8 bits: I, I;16, I;16B, F

Picture = Pillow.Image | np.ndarray
"""Of eight bits with Pillow or, grey or colour, (C, H, W) uint8; deeper ones are (C, H, W) float32.
"""


def read(raw: Raw, target_size: int = 0) -> Picture:
    """A picture of any kind.

    Args:
        raw: a file, its bytes, an array (H, W), (H, W, C) or (C, H, W), or a Pillow image.
        target_size: the final side, which lets JPEG skip detail; 0 reads everything.

    Returns:
        See `Picture`. Sixteen bits are scaled to 0 … 1; floats and other integers keep their unit.

    Raises:
        BadValue: it is no picture, damaged, or too large.
    """
    raw = unwrap(raw)
    if isinstance(raw, (Path, str, bytes)):
        data = read_bytes(raw)
        if (fast := _fast_jpeg(data, target_size)) is not None:
            return fast
        if not is_numpy(data):
            return _normalise_picture(_open(data, target_size))
        raw = load_numpy(data)
    if isinstance(raw, Pillow.Image):
        try:
            raw.load()  # its file is read only now
            return _normalise_picture(raw)
        except (OSError, SyntaxError, ValueError) as error:
            raise BadValue(f"the picture that Pillow opened cannot be read: {error}") from error
    if isinstance(raw, (np.ndarray, list, tuple)):
        return _from_array(raw)
    raise BadValue(f"a {type(raw).__name__} is not a picture: expected a path, bytes or an array")


def _open(data: bytes, target_size: int) -> Pillow.Image:
    if data.startswith(PNG):
        check_png(data)
    try:
        with warnings.catch_warnings():
            # up to twice its limit Pillow only warns
            warnings.simplefilter("error", Pillow.DecompressionBombWarning)
            picture = Pillow.open(io.BytesIO(data))
            check_sides(*picture.size)
            if target_size:
                # a JPEG is decoded at a half, a quarter or an eighth, with twice the final side at
                # least, so that the resampling still averages; other formats are read whole
                picture.draft(None, (2 * target_size, 2 * target_size))
            picture.load()
    except BadValue:
        raise
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise BadValue(f"too many pixels: {error}") from None
    except UnidentifiedImageError:
        raise BadValue("not a picture in any format that Pillow reads") from None
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged bytes
        raise BadValue(f"damaged picture: {error}") from error
    return picture


def _fast_jpeg(data: bytes, target_size: int) -> np.ndarray | None:
    """(C, H, W) uint8 by simplejpeg (extra `vision`), the same pixels as Pillow's in less time.

    For a whole JPEG, grey or colour, not rotated by its metadata, not too large. None for all
    others: Pillow reads or rejects them.
    """
    if simplejpeg is None or not data.startswith(b"\xff\xd8") or b"Exif\0" in data:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in ("Gray", "YCbCr") or height * width > (Pillow.MAX_IMAGE_PIXELS or 0):
            return None
        colours = "GRAY" if space == "Gray" else "RGB"
        # the sides at which Pillow's `draft` above would decode: measured 20 % faster than that
        factor = _shrinking(min(height, width), target_size)
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, colours, min_height=-(-height // factor), min_width=-(-width // factor)
        )
        return pixels.transpose(2, 0, 1)
    except ValueError:
        return None


def _shrinking(side: int, target_size: int) -> int:
    """By how much a JPEG of this shorter side is shrunk while it is decoded: 1, 2, 4 or 8."""
    if not target_size:
        return 1
    return max(
        factor for factor in (1, 2, 4, 8) if factor == 1 or side // (2 * target_size) >= factor
    )


def _normalise_picture(picture: Pillow.Image) -> Picture:
    """EXIF orientation applied; deep modes as float32, all others as L, RGB or RGBA."""
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception:  # damaged metadata do not make the pixels bad
        pass
    if picture.mode.startswith(DEEP_MODES):
        # PNG has no 32-bit mode: older Pillow reads 16 bits as "I".
        sixteen = picture.mode.startswith("I;16") or picture.format == "PNG"
        return _fill_missing(
            np.asarray(picture, dtype=np.float32)[None] / (65535 if sixteen else 1)
        )
    if "transparency" in picture.info or picture.mode in ("LA", "PA", "La", "RGBa", "RGBA"):
        return picture.convert("RGBA")
    return (
        picture
        if picture.mode in ("L", "RGB")
        else picture.convert("L" if picture.mode == "1" else "RGB")
    )


def _from_array(raw: np.ndarray | list[Any] | tuple[Any, ...]) -> Picture:
    try:
        array = np.asarray(raw)
    except ValueError as error:
        raise BadValue(f"not an array of pixels: {error}") from None
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "buif":
        expected = "(H, W), (H, W, C) or (C, H, W) numbers"
        raise BadValue(
            f"an array of shape {array.shape} and type {array.dtype} is not a picture: expected "
            f"{expected}"
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
    return _fill_missing(array.astype(np.float32) / scale)


def _fill_missing(planes: np.ndarray) -> np.ndarray:
    """Replace missing pixels (NaN, infinite) by the channel's mean; resampling spreads them."""
    invalid = ~np.isfinite(planes)
    if not invalid.any():
        return planes
    if invalid.all():
        raise BadValue("no pixel has a finite value")
    mean = np.where(invalid, 0, planes).sum((1, 2)) / np.maximum((~invalid).sum((1, 2)), 1)
    return np.where(invalid, mean[:, None, None], planes).astype(np.float32)


def shape(picture: Picture) -> tuple[int, int, int]:
    """(channels, height, width)."""
    if isinstance(picture, np.ndarray):
        return picture.shape
    return len(picture.getbands()), picture.height, picture.width


def with_channels(picture: Picture, channels: int) -> Picture:
    """Convert to `channels`: alpha over white, colour to grey by luma, grey to colour by repeating.

    Raises:
        BadValue: there is no such conversion.
    """
    current = shape(picture)[0]
    if current == channels:
        return picture
    picture = _to_pillow(picture)
    if isinstance(picture, Pillow.Image) and channels in MODES:
        if current == 4:
            white = Pillow.new("RGBA", picture.size, "white")
            picture = Pillow.alpha_composite(white, picture)
        return picture.convert(MODES[channels])
    if isinstance(picture, np.ndarray) and (current, channels) in ((1, 3), (3, 1)):
        return np.repeat(picture, 3, 0) if channels == 3 else np.tensordot(LUMA, picture, 1)[None]
    raise BadValue(f"the picture has {current} channels, the field {channels}")


def _to_pillow(picture: Picture) -> Picture:
    """Eight-bit pictures as Pillow images."""
    if isinstance(picture, Pillow.Image) or picture.dtype != np.uint8:
        return picture
    return Pillow.fromarray(
        picture[0] if len(picture) == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0))
    )


def resized(picture: Picture, size: int, fit: str, blank: Sequence[float]) -> np.ndarray:
    """(C, size, size) uint8 or float32.

    Args:
        picture: to resize.
        size: side in pixels.
        fit: see `Image.fit`.
        blank: (C,) fill of `fit="pad"`, on the scale 0 … 1.
    """
    _, height, width = shape(picture)
    side = min(height, width)
    left, top = ((width - side) / 2, (height - side) / 2) if fit == "crop" else (0, 0)
    box = (left, top, width - left, height - top)
    if fit != "pad" or height == width:
        return resample(picture, size, size, box)
    h, w = (max(1, round(size * s / max(height, width))) for s in (height, width))
    small = resample(picture, h, w, box)
    filling = np.asarray(blank, dtype=np.float32)
    filling = np.rint(filling * 255).clip(0, 255) if small.dtype == np.uint8 else filling
    canvas = np.empty((len(small), size, size), small.dtype)
    canvas[:] = filling[:, None, None]
    y, x = (size - h) // 2, (size - w) // 2
    canvas[:, y : y + h, x : x + w] = small
    return canvas


def resample(
    picture: Picture, height: int, width: int, box: tuple[float, float, float, float]
) -> np.ndarray:
    """(C, height, width) of the box (left, top, right, bottom)."""
    # torch resizes whole pictures only; boxes, which may cut pixels, are for Pillow
    if box == (0, 0, *shape(picture)[:0:-1]) and (planes := _as_uint8(picture)) is not None:
        return (
            np.ascontiguousarray(planes)
            if planes.shape[1:] == (height, width)
            else resize_uint8(planes, height, width)
        )
    picture = _to_pillow(picture)
    # Pillow widens this kernel when it shrinks a picture, so nothing aliases, and a triangle never
    # overshoots.
    if isinstance(picture, Pillow.Image):
        pictures = [picture]
    else:
        pictures = [Pillow.fromarray(p) for p in picture]
    small = [
        np.asarray(p.resize((width, height), Pillow.Resampling.BILINEAR, box=box)) for p in pictures
    ]
    array = small[0] if len(small) == 1 else np.stack(small, 2)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0))


def _as_uint8(picture: Picture) -> np.ndarray | None:
    """(C, H, W) uint8 of grey or colour, None of all others."""
    if isinstance(picture, Pillow.Image) and picture.mode in ("L", "RGB"):
        array = np.array(picture)
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return picture if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 else None


def resize_uint8(planes: np.ndarray, height: int, width: int, mirrored: bool = False) -> np.ndarray:
    """(C, height, width) from (C, H, W) uint8 with Pillow's kernel, in a third of the time.

    No pixel differs from Pillow's by more than one of 255 levels.
    """
    out = torch.nn.functional.interpolate(
        torch.from_numpy(planes)[None], (height, width), mode="bilinear", antialias=True
    )[0]
    return (out.flip(-1) if mirrored else out).numpy()


def summary(raws: Sequence[Raw]) -> str:
    """Sizes and modes of pictures, in a few words; "" where none can be opened."""
    sizes: list[tuple[int, ...]] = []
    modes: Counter[str] = Counter()
    for raw in raws:
        try:
            opened = io.BytesIO(raw) if isinstance(raw, bytes) else regular(str(raw))
            with header_of(opened) as picture:
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


def decode_untrusted(raw: Any, limits: Limits, target_size: int) -> np.ndarray | Pillow.Image:
    """An untrusted picture, decoded only if its format and size are harmless.

    Args:
        raw: bytes.
        limits: of the cost.
        target_size: the final side, in pixels.

    Raises:
        TooLarge: it has more pixels than `limits` allow.
        BadValue: no picture, a damaged one, or one that takes too long to read.
    """
    data = file_of(raw)
    if data.startswith(NUMPY):
        return array_of(data)
    if data.startswith(PNG):
        check_png(data)
    try:
        picture = Pillow.open(io.BytesIO(data), formats=FORMATS)
        _allow(picture, limits)
        # Pillow lists there the decoders that are written in Python
        if any(tile[0] in Pillow.DECODERS for tile in picture.tile):
            raise BadValue("a picture in an old form that is slow to read; save it as PNG")
        # each scan begins with this marker, which a scan cannot contain (0xff is escaped)
        scans = data.count(b"\xff\xda") if picture.format == "JPEG" else 1
        if (
            scans > MAX_SCANS
            or scans * picture.width * picture.height > MAX_FULL_SCANS * limits.pixels
        ):
            raise BadValue(f"a JPEG of {scans} scans")
        picture.draft(None, (2 * target_size, 2 * target_size))
        picture.load()
        _allow(picture, limits)
        return picture
    except BadValue:
        raise
    except Pillow.DecompressionBombError as error:
        raise TooLarge(f"too many pixels: {error}") from None
    except UnidentifiedImageError:
        accepted = ", ".join(FORMATS)
        raise BadValue(f"no picture in an accepted format: {accepted}, or .npy") from None
    except Exception as error:  # as in the image modality
        raise BadValue(f"damaged picture: {error}") from None


def _allow(picture: Pillow.Image, limits: Limits) -> None:
    width, height = picture.size
    check_sides(width, height)
    if width * height > limits.pixels:
        raise TooLarge(f"{width} x {height} pixels; at most {limits.pixels:,} are read")


def doubt(raws: Sequence[Raw]) -> str:
    """What arrays of three long axes may also be, by the header of the first file; "" for others.

    Args:
        raws: some raw values.
    """
    first = unwrap(raws[0]) if len(raws) else None
    if not isinstance(first, Path) or first.suffix.lower() != ".npy":
        return ""
    try:
        shape = np.load(regular(first), mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, BadValue):
        return ""
    if len(shape) != 3 or min(shape) <= max(MODES):
        return ""
    return (
        f"arrays of {' x '.join(map(str, shape))} are read as pictures of {min(shape)} channels, "
        'and resized; if they are scans, write modality = "volume" and suffix = [".npy"], and '
        "nothing else of this field,"
    )
