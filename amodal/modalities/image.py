"""Images: pictures and small rasters of any size, depth and number of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged, unknown
from amodal.core.host import constant
from amodal.modalities.shared import image_maps as _maps
from amodal.modalities.shared import image_sizes as _sizes
from amodal.modalities.shared import image_views as _views
from amodal.modalities.shared import native_aspect as _native
from amodal.modalities.shared import pixel_units as _units
from amodal.modalities.shared import pixels as _pixels
from amodal.modalities.shared import simple as _simple
from amodal.modalities.shared.base import (
    FILE,
    Attribute,
    BadValue,
    Modality,
    Raw,
    Schema,
    at_most,
    build,
    check_view,
    decodable,
)
from amodal.modalities.shared.cells import moments
from amodal.modalities.shared.tokenizers.image import ImageGraph, ImageTokenizer

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

NATIVE = "native"
FITS = ("stretch", "crop", "pad", NATIVE)
EXAMPLE_PATCH = 16  # pixels, of made-up pictures


@dataclass(frozen=True)
class Image(Modality):
    """An image. A value is (C, size, size), or (C, height, width) with fit "native"; a batch always
    float32.

    uint8 where the source has 8 bits, else float32: 16 bits scaled to 0 … 1, others in their own
    unit (see `check_unit`). A batch has 8 bits scaled to 0 … 1; `mean`, `std` are on that scale.

    Attributes:
        size: side in pixels.
        channels: C.
        patch: side of a token in pixels, a divisor of `size`; 0: about size / 8, at least 4.
        fit: for images that are not square. "stretch" loses and invents nothing, so it is the
            default; "crop" keeps the middle square, "pad" adds bars in the mean colour. "native"
            keeps each image's aspect, in whole patches, at most (size / patch)^2 of them; a smaller
            image is not enlarged.
        flip: whether a mirror image means the same (not so for text, maps, left and right hands).
        mean, std: of each channel, measured by `infer`.
    """

    size: int = 32
    channels: int = 3
    patch: int = 0
    fit: str = "stretch"
    flip: bool = True
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    simple_name: ClassVar[str] = "tiny pixels"
    simple_by_column: ClassVar[bool] = False
    suffixes: ClassVar[frozenset[str]] = frozenset(
        {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"}
    )
    magic: ClassVar[tuple[bytes, ...]] = (
        b"\x89PNG",
        b"\xff\xd8\xff",
        b"GIF8",
        b"BM",
        b"II*\0",
        b"MM\0*",
    )
    accepts: ClassVar[str] = "image/*,.npy"
    layout: ClassVar[str] = "grid"
    self_explaining: ClassVar[bool] = True
    backbones: ClassVar[tuple[str, ...]] = _sizes.BACKBONES
    packaged: ClassVar[tuple[str, ...]] = ("efficientnet_lite0",)
    example_tokens: ClassVar[int] = 196
    axis_names: ClassVar[Mapping[int, str]] = {1: "row", 2: "column"}
    views: ClassVar[tuple[str, ...]] = ("plain", *_views.VIEWS, *_views.WHOLE)

    def __post_init__(self) -> None:
        if self.size < 1 or self.channels < 1:
            raise AmodalError(
                f"an image needs size and channels of at least 1, got {self.size} and "
                f"{self.channels}"
            )
        at_most("image", {"size": (self.size, 16384), "channels": (self.channels, 4096)})
        if self.fit not in FITS:
            raise unknown("fit", self.fit, FITS)
        if self.patch and self.size % self.patch:
            raise AmodalError(
                f"patches of {self.patch} pixels do not tile an image of {self.size}: choose one "
                f"of {self._divisors()}"
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, self.channels):
                raise AmodalError(
                    f"image.{name} has {len(getattr(self, name))} numbers for {self.channels} "
                    "channels"
                )

    def _divisors(self) -> list[int]:
        return [d for d in range(1, self.size + 1) if self.size % d == 0]

    @property
    def tile(self) -> int:
        """Side of a token in pixels: `patch`, or the default for 0."""
        at_least = min(self.size, max(4, self.size // 8))
        return self.patch or next(d for d in self._divisors() if d >= at_least)

    @property
    def suits_small_networks(self) -> bool:
        """See `Modality.suits_small_networks`. `convnet` is for squares of at most 64 pixels."""
        return self.size <= 64 and self.fit != NATIVE

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides: Any) -> Image:
        """See `Modality.infer`.

        size: the shorter side of the median sample in whole patches, at most 224 for the cost, and
        patch with it (`image_sizes.default_size`). channels: one if every sample is grey. mean and
        std: measured.
        """
        pictures = []
        for raw in samples:
            with suppress(BadValue):
                pictures.append(_pixels.read(raw))
        sides = [min(_pixels.shape(p)[1:]) for p in pictures] or [32]
        # Four bands of eight bits are a colour picture with alpha, which goes over white.
        bands = [
            p.shape[0] if isinstance(p, np.ndarray) else min(3, _pixels.shape(p)[0])
            for p in pictures
        ] or [3]
        measured: dict[str, Any] = {"channels": max(bands)}
        if "size" not in overrides:
            # of a size that somebody chose the patch stays that of `tile`
            size, patch = _sizes.default_size(float(np.median(sides)), overrides.get("patch", 0))
            measured |= {"size": size, "patch": patch}
        image = build(cls, measured | overrides)
        values = decodable(image, samples)
        is_open = "channels" not in overrides and image.channels == 3
        if is_open and all((v == v[:1]).all() for v in values):
            image = build(cls, measured | {"channels": 1} | overrides)
            values = decodable(image, samples)
        mean, std = moments(
            np.concatenate([_as_float(v).reshape(image.channels, -1).T for v in values])
        )
        return replace(image, mean=image.mean or mean, std=image.std or std)

    def decode(self, raw: Raw) -> np.ndarray:
        """(C, size, size), or (C, height, width), from a path, bytes, a Pillow image, or an array.

        An array is (H, W), (H, W, C) or (C, H, W).
        """
        picture = _pixels.with_channels(_pixels.read(raw, target_size=self.size), self.channels)
        _units.check_unit(picture, self.mean, self.std)
        if not self.is_native:
            return _pixels.resized(picture, self.size, self.fit, self.scale()[0])
        _, height, width = _pixels.shape(picture)
        shape = _sizes.native_shape(height, width, self.tile, (self.size // self.tile) ** 2)
        return _pixels.resample(picture, *shape, (0, 0, width, height))

    def is_one(self, shape: Sequence[int]) -> bool:
        return _units.is_one_picture(shape, self.channels)

    @property
    def is_native(self) -> bool:
        """Whether each picture keeps its aspect, so that a batch is a list of patches."""
        return self.fit == NATIVE

    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel; those of a typical photograph where not measured."""
        return self.mean or (0.5,) * self.channels, self.std or (0.25,) * self.channels

    @property
    def local_size(self) -> int:
        """Side of a "local" view: about half, a whole number of patches."""
        return self._share(self.size, 0.5)

    def _share(self, side: int, share: float) -> int:
        """About this share of a side, a whole number of patches."""
        return self.tile * max(1, round(side * share / self.tile))

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """See `Modality.augment`.

        weak: a crop of 60-100 % of the area, flipped half the time. strong: SimCLR's (20-100 %,
        colour, grey, blur). local: 5-40 %, at `local_size`, with strong's colours. Others are those
        of papers, see `image_views`. With fit "native" a crop has the shape of its picture, or half
        of it.

        Cropping, resizing, blurring and flipping are linear along each side, colour jitter across
        channels: small matrix products, which cost the same for any number of channels and bits.
        Above 64 pixels a crop is of whole pixels, and the weak view of bytes in whole numbers.
        """
        check_view(view, self.views)
        if view == "plain":
            return value
        if view in _views.WHOLE:
            return _views.WHOLE[view](value, rng)
        style, whole = _views.VIEWS[view], value.shape[1:]
        height, width = whole if style.side == 1 else (self._share(n, style.side) for n in whole)
        # SimCLR blurs by up to 2 pixels of 224; the same share of a smaller picture.
        blurred = style.blur > 0 and rng.random() < style.blur
        sigma = rng.uniform(0.1, 2.0) * min(height, width) / 224 if blurred else 0.0
        low, high, mirrored = self._crop(style, whole, rng)
        if style.is_clean:
            sigma, style = 0.0, replace(style, jitter=None, solarize=0.0)
        if max(whole) > _maps.MAX_DENSE_SIDE:
            (top, left), (bottom, right) = low.astype(int), high.astype(int)
            # from here on relative to what was cut out
            value, low, high = value[:, top:bottom, left:right], low - low, high - low
            if style.jitter is None and value.dtype == np.uint8:
                return _pixels.resize_uint8(value, height, width, mirrored)
        rows, columns = (
            _maps.resampling_matrix(n, a, b, out, sigma=sigma, flip=m)
            for n, a, b, out, m in zip(
                value.shape[1:], low.tolist(), high.tolist(), (height, width), (False, mirrored)
            )
        )
        out = _maps.apply_maps(value.astype(np.float32), rows, columns)
        if style.jitter is not None:
            out = _views.jitter_colour(out, style.jitter, rng)
        if style.solarize > 0 and rng.random() < style.solarize:
            # floats may be in any unit, so their range is what the picture has
            ends = (0, 255) if value.dtype == np.uint8 else (float(out.min()), float(out.max()))
            out = _views.solarized(out, *ends)
        return np.rint(out).clip(0, 255).astype(np.uint8) if value.dtype == np.uint8 else out

    def _crop(
        self, style: _views.ImageView, shape: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """A random resized crop: start and end (y, x), and whether it is flipped."""
        whole = np.array(shape)
        area, ratio = rng.uniform(*style.area), np.exp(rng.uniform(*np.log(style.aspect)))
        sides, offset = (
            np.minimum(1, np.sqrt([area / ratio, area * ratio])) * whole,
            rng.random(2),
        )
        if whole.max() > _maps.MAX_DENSE_SIDE:
            sides = np.maximum(1, np.rint(sides))
            low = np.floor(offset * (whole - sides + 1))
        else:
            low = offset * (whole - sides)
        return low, low + sides, bool(self.flip and style.flips and rng.random() < 0.5)

    def collate(self, values: Sequence[np.ndarray] | np.ndarray) -> Tensor | Ragged:
        """(N, C, size, size) float32, or (N, C, local_size, local_size) of local views.

        With fit "native" lists of patches and their positions, see `native_aspect.patches_of`.
        """
        return _native.patches_of(values, self) if self.is_native else self._stacked(values)

    def _stacked(self, values: Sequence[np.ndarray] | np.ndarray) -> Tensor:
        if not len(values):
            return torch.zeros(0, self.channels, self.size, self.size)
        if isinstance(values, np.ndarray) and values.dtype == np.uint8:
            return torch.from_numpy(values).float().div_(255)
        if all(v.dtype == np.uint8 for v in values):
            return torch.from_numpy(np.stack(list(values))).float().div_(255)
        return torch.from_numpy(np.stack([_as_float(v) for v in values]))

    def patches(self, images_NCHW: Tensor) -> Tensor:
        """(N, rows, columns, C * tile * tile) standardised."""
        mean, std = (constant(s, images_NCHW).view(-1, 1, 1) for s in self.scale())
        tiles = (
            ((images_NCHW - mean) / std)
            .unfold(2, self.tile, self.tile)
            .unfold(3, self.tile, self.tile)
        )
        return tiles.permute(0, 2, 3, 1, 4, 5).flatten(3)

    def tokenizer(self, width: int) -> ImageTokenizer:
        return ImageTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> nn.Module:
        made = _native.NativeImageGraph if self.is_native else ImageGraph
        return made(cast(ImageTokenizer, tokenizer))

    def targets(self, values: Tensor | Ragged) -> Tensor:
        """(T, C * tile * tile) standardised pixels."""
        if isinstance(values, Ragged):
            return _native.standardised(values.flat, self)
        return self.patches(values).flatten(0, 2)

    def predictor(self, width: int) -> nn.Linear:
        return nn.Linear(width, self.channels * self.tile**2)

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) squared error of pixels normalised within their patch.

        He et al., MAE, 2022, section 4.1.
        """
        from amodal.objectives.reconstruction import masked_mse

        return masked_mse(prediction, target, normalise=True)

    def show(self, value: np.ndarray) -> np.ndarray:
        """(size, size, 3) uint8, or (height, width, 3).

        Floats are scaled by the range of the image: what they measure may vary little within one.
        """
        chosen = value[:3] if len(value) >= 3 else value[[0, 0, 0]]
        if value.dtype != np.uint8:
            low, high = chosen.min((1, 2), keepdims=True), chosen.max((1, 2), keepdims=True)
            chosen = (
                ((chosen - low) / np.maximum(high - low, 1e-12) * 255).clip(0, 255).astype(np.uint8)
            )
        return np.ascontiguousarray(chosen.transpose(1, 2, 0))

    def describe(self, value: np.ndarray) -> str:
        channels, height, width = value.shape
        plural = "s" * (channels > 1)
        size, span = f"{height} x {width} pixels", f"{value.min():.4g} … {value.max():.4g}"
        return f"{size}, {channels} channel{plural}, {span}"

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        summary = _pixels.summary(raws)
        most = "up to " if self.is_native else ""
        return f"{summary}, read at {most}{self.size} x {self.size}" if summary else ""

    def comment(self, raws: Sequence[Raw]) -> str:
        return _sizes.comment(_sizes.median_side(raws), self.size, self.tile)

    def doubt(self, raws: Sequence[Raw]) -> str:
        return _pixels.doubt(raws)

    def own_size(self, raws: Sequence[Raw]) -> float:
        """The shorter side of the median picture as it came, in pixels; 0 if none can be read."""
        return _sizes.median_side(raws)

    def attributes(self) -> dict[str, Attribute]:
        return {
            "brightness": Attribute("number", lambda value: float(value.mean())),
            "contrast": Attribute("number", lambda value: float(value.std())),
        }

    def simple_groups(self, raws: Sequence[Raw]) -> list[_simple.Array]:
        """12 x 12 pixels, colours, and orientations of gradients; see `simple.pixels`."""
        shape = (self.size, self.size)
        square = [_maps.of_shape(v, shape) for v in self.decode_all(raws)]
        return _simple.pixels(self._stacked(square), *self.scale())

    def json_schema(self, limits: Limits) -> Schema:
        return FILE | {
            "description": f"the bytes of a picture ({', '.join(_pixels.FORMATS)}, or .npy)"
        }

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        # a Pillow image is a raw value of this modality alone
        return cast(Raw, _pixels.decode_untrusted(raw, limits, target_size=self.size))

    def parts(self, value: np.ndarray) -> np.ndarray:
        """(H, W): patches."""
        down, across = (np.arange(side) // self.tile for side in value.shape[1:])
        return cast(np.ndarray, down[:, None] * (across[-1] + 1) + across)

    def deviation(self, value: np.ndarray) -> np.ndarray:
        return np.array(self.scale()[1]).reshape(-1, 1, 1) * _units.unit(value)

    def exchanged(self, value: np.ndarray, other: np.ndarray, hit: np.ndarray) -> np.ndarray:
        other = _maps.of_shape(other, value.shape[1:])
        return np.where(hit, other, value) if other.dtype == value.dtype else value

    def dropped(self, value: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """The mean colour in their place."""
        mean = np.array(self.scale()[0]).reshape(-1, 1, 1) * _units.unit(value)
        mean = np.rint(mean) if value.dtype == np.uint8 else mean
        return np.where(hit, mean, value).astype(value.dtype)

    @classmethod
    def example(
        cls, tokens: int, rng: np.random.Generator
    ) -> tuple[Image, Callable[[], np.ndarray]]:
        side = EXAMPLE_PATCH * max(round(math.sqrt(tokens)), 1)
        return cls(size=side, patch=EXAMPLE_PATCH), lambda: rng.integers(
            0, 255, (side, side, 3), dtype=np.uint8
        )


def _as_float(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) / 255 if value.dtype == np.uint8 else value
