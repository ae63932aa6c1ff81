"""Rasters: measurements on a grid on the ground, in any bands, at one date or more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.modalities.shared import geotiff as _geotiff
from amodal.modalities.shared import raster_bands as _bands
from amodal.modalities.shared import raster_dates as _dates
from amodal.modalities.shared import raster_groups as _groups
from amodal.modalities.shared import raster_patches as _patches
from amodal.modalities.shared import raster_texts as _texts
from amodal.modalities.shared import raster_values as _values
from amodal.modalities.shared import raster_views as _views
from amodal.modalities.shared import raster_wavelengths as _wavelengths
from amodal.modalities.shared import simple as _simple
from amodal.modalities.shared.base import (
    FILE,
    VIEWS,
    Attribute,
    BadValue,
    Modality,
    Raw,
    Schema,
    at_most,
    build,
    check_view,
    decodable,
    read_each,
)
from amodal.modalities.shared.cells import moments
from amodal.modalities.shared.learnt import LEARNT
from amodal.modalities.shared.raster_tiles import RasterTiles
from amodal.modalities.shared.raster_views import CROPS, SEASONS
from amodal.modalities.shared.tokenizers.raster import RasterGraph, RasterTokenizer
from amodal.modalities.shared.tokenizers.raster_bands import BandTokenizer

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

EXAMPLE_BANDS, EXAMPLE_PATCH = 10, 8
MAX_PICTURES = 6
"""Dates that are shown beside each other."""


@dataclass(frozen=True)
class Raster(RasterTiles, Modality):
    """Measurements on a grid on the ground, such as a tile of a satellite's scene.

    A value is (T, 1 + C, H, W) float32, NaN where a pixel is missing: T dates in order; the first
    plane has the month of the date, counted from January 2000, NaN if unknown; then the bands.
    Sides are never resampled: a pixel has a size on the ground.

    Attributes:
        bands: their names, in order.
        size: pixels of the longer side at most.
        patch: side of a token in pixels; 0: about size / 8, at least 4.
        patches: sides of which each step of training draws one, up to `patch`; weights of that side
            are resized. Views then have as many patches a side as a value of `size`, at most.
        resolution: metres of a pixel's side, 0 if unknown.
        groups: name -> bands whose pixels are a token of their own, at each date and patch; a band
            of no group is a group by itself. Without groups a token has all bands.
        by_band: every band is a group by itself.
        dates: of a value at most; of more, evenly spaced ones are read, and a view draws.
        turn: whether a rotated or mirrored value means the same, as seen from above.
        mean, std: of each band, measured by `infer`.
        sensor: whose bands these are by their names, of `raster_wavelengths.SENSORS`.
        wavelengths: nanometres of each band; () for those of the sensor and of usual names.
        by_wavelength: each band has tokens of its own, known by its wavelength; a method that
            reads any bands chooses it.
    """

    bands: tuple[str, ...] = ("value",)
    size: int = 64
    patch: int = 0
    patches: tuple[int, ...] = ()
    resolution: float = 0.0
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    by_band: bool = False
    dates: int = 1
    turn: bool = True
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    sensor: str = ""
    wavelengths: tuple[float, ...] = ()
    by_wavelength: bool = field(default=False, metadata=LEARNT)

    simple_name: ClassVar[str] = "statistics of bands"
    suffixes: ClassVar[frozenset[str]] = frozenset({".tif", ".tiff", ".gtiff"})
    accepts: ClassVar[str] = ".tif,.tiff,.npy"
    layout: ClassVar[str] = "grid"
    example_tokens: ClassVar[int] = 64
    axis_names: ClassVar[Mapping[int, str]] = {0: "month", 1: "row", 2: "column"}
    views: ClassVar[tuple[str, ...]] = (*VIEWS, "turned", *SEASONS)

    def __post_init__(self) -> None:
        if not self.bands or len(set(self.bands)) < len(self.bands):
            raise AmodalError(
                f"raster.bands must be one or more different names, got {list(self.bands)}"
            )
        if self.size < 1 or self.dates < 1 or self.patch < 0:
            raise AmodalError(
                "a raster needs size and dates of at least 1 and a patch of at least 0, got "
                f"{self.size}, {self.dates} and {self.patch}"
            )
        limits = {"size": (self.size, 16384), "patch": (self.patch, 1024)}
        at_most("raster", limits | {"bands": (len(self.bands), 4096), "dates": (self.dates, 4096)})
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, len(self.bands)):
                raise AmodalError(
                    f"raster.{name} has {len(getattr(self, name))} numbers for {len(self.bands)} "
                    "bands"
                )
        _patches.check_sides(self.patches, self.tile)
        _groups.check(self.bands, self.groups, self.by_band)
        _wavelengths.check(self.bands, self.wavelengths, self.sensor)
        if self.by_wavelength:
            self.band_wavelengths()

    @property
    def tile(self) -> int:
        """Side of a token in pixels: `patch`, or the default for 0."""
        return self.patch or min(self.size, max(4, self.size // 8))

    @property
    def channels(self) -> int:
        """Number of bands."""
        return len(self.bands)

    @property
    def ground_step(self) -> float:
        """See `Modality.ground_step`."""
        return self.resolution * self.tile

    @property
    def token_groups(self) -> tuple[str, ...]:
        """See `Modality.token_groups`."""
        return tuple(self.band_groups())

    def band_wavelengths(self) -> tuple[float, ...]:
        """Nanometres of each band. Raises AmodalError where one is not known."""
        return _wavelengths.of_all(self.bands, self.wavelengths, self.sensor)

    def band_groups(self) -> dict[str, tuple[int, ...]]:
        """Name of each group -> the numbers of its bands; {} where a token has all bands."""
        return _groups.numbered(self.bands, self.groups, self.by_band)

    @property
    def unnamed(self) -> bool:
        """Whether its bands have numbers for names."""
        return self.bands == _values.numbers(len(self.bands))

    @property
    def suits_small_networks(self) -> bool:
        """See `Modality.suits_small_networks`: none reads patches with gaps."""
        return False

    @classmethod
    def recognises(cls, file: Path | bytes) -> bool:
        """See `Modality.recognises`: a TIFF with a place on the earth, or with many bands."""
        return _geotiff.is_raster(file)

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides: Any) -> Raster:
        """See `Modality.infer`.

        bands: their names in the file, or numbers. size: the longest side. dates: the most of any
        sample. resolution: the median. mean and std: measured.
        """
        stacks = read_each(samples, _values.read)
        resolutions = [s.resolution for s in stacks if s.resolution]
        measured: dict[str, Any] = {
            "bands": _values.band_names(stacks),
            "size": max(max(s.pixels.shape[2:]) for s in stacks),
            "dates": max(len(s.pixels) for s in stacks),
            "resolution": float(f"{np.median(resolutions):.4g}") if resolutions else 0.0,
        } | _values.wavelengths(stacks)
        raster = build(cls, measured | overrides)
        bands = [v[:, 1:].transpose(0, 2, 3, 1) for v in decodable(raster, samples)]
        mean, std = moments(np.concatenate([b.reshape(-1, raster.channels) for b in bands]))
        return replace(raster, mean=raster.mean or mean, std=raster.std or std)

    def decode(self, raw: Raw) -> np.ndarray:
        """(T, 1 + C, H, W) float32 from a GeoTIFF, a .npy or .npz file (path or bytes), an array
        (H, W), (C, H, W) or (T, C, H, W), or {"values": array, "dates": texts}.

        Bands of a file are found by their names where it has names, else by their order. Absent
        ones are missing.
        """
        stack = _values.read(raw, self.size, self.dates)
        height, width = stack.pixels.shape[2:]
        if max(height, width) > self.size:
            raise _geotiff.too_large(height, width, self.size)
        return self._decoded(stack)

    def on_ground(self, raw: Raw | None) -> tuple[np.ndarray, tuple[str, tuple[float, ...]]]:
        """See `OnGround`: as `decode`, of any size."""
        if raw is None:
            raise BadValue("no value")
        stack = _values.read(raw)
        return self.bounded(self._decoded(stack)), stack.place

    def stack(self, raw: Raw) -> _values.Stack:
        """See `Surveys`."""
        return _values.read(raw)

    def footprint(self, raw: Raw) -> tuple[str, tuple[float, ...], int, int] | None:
        """See `Surveys`."""
        return _values.footprint(raw)

    def _decoded(self, stack: _values.Stack) -> np.ndarray:
        return _dates.in_order(_bands.in_bands(stack, self.bands), stack.months, self.dates)

    def known_view(self, view: str) -> str:
        """See `Modality.known_view`: what must not be turned is plain."""
        return "plain" if view == "turned" and not self.turn else super().known_view(view)

    def of_step(self, rng: np.random.Generator) -> Raster:
        """See `VariesByStep`: with patches of one of `patches`."""
        return self.with_patch(int(rng.choice(self.patches))) if self.patches else self

    def with_patch(self, side: int) -> Raster:
        """With patches of another side, of which the largest value has as many."""
        return replace(self, patch=side, size=max(self.size // self.tile, 1) * side, patches=())

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """See `Modality.augment`.

        weak: a crop of 70-100 % of each side, turned and mirrored (`turn`), of half of the dates or
        more. strong: 50-100 %, each band scaled and shifted by about a tenth of its deviation,
        noise of .05, one band in five missing. local: 25-50 %, changed as strong. turned: that
        alone, alike in all fields of a record. season, season_local: strong and local of one date,
        so that two views are two acquisitions (Manas et al. 2021, arXiv:2103.16607).
        """
        check_view(view, self.views)
        if view in ("plain", "turned"):
            return value if view == "plain" else _views.turned(value, rng)
        if view in SEASONS:
            value, view = value[[int(rng.integers(len(value)))]], SEASONS[view]
        out = _views.crop(value, CROPS[view], self.tile, rng, self.size)
        out = _views.some_dates(out, rng)
        out = _views.turned(out, rng) if self.turn else out
        out = out if view == "weak" else _views.distorted(out, *self.scale(), rng)
        return np.ascontiguousarray(out) if np.isfinite(out[:, 1:]).any() else value

    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each band; 0 and 1 where not measured."""
        return self.mean or (0.0,) * self.channels, self.std or (1.0,) * self.channels

    def collate(self, values: Sequence[np.ndarray]) -> Ragged:
        """Lists of the patches that have data, with their positions; see `raster_patches`."""
        return _patches.patches_of(values, self)

    def tokenizer(self, width: int) -> RasterTokenizer | BandTokenizer:
        return BandTokenizer(self, width) if self.by_wavelength else RasterTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> nn.Module:
        return RasterGraph(cast(RasterTokenizer, tokenizer))

    def targets(self, values: Ragged) -> Tensor:
        """(T, C * tile * tile) standardised pixels, NaN where missing or of another group; by
        wavelength those of one band."""
        return values.flat[:, _patches.OF_BAND if self.by_wavelength else _patches.PLACE :]

    def band_of_targets(self) -> list[int]:
        """See `HasBands`."""
        bands = 1 if self.by_wavelength else self.channels
        return [band for band in range(bands) for _ in range(self.tile**2)]

    def predictor(self, width: int) -> nn.Linear:
        if self.patches:
            raise AmodalError(
                "pixels of a patch are predicted at one size: leave patches out of the raster, or "
                "take a method that predicts states, such as galileo"
            )
        return nn.Linear(width, len(self.band_of_targets()))

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) mean squared error over the pixels that exist, in deviations of their band."""
        present = ~target.isnan()
        error = torch.where(present, prediction - target.nan_to_num(), 0.0).square()
        loss: Tensor = error.sum(1) / present.sum(1).clamp(min=1)
        return loss

    def show(self, value: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8: dates beside each other, in true colour if it has it; gaps are grey."""
        chosen = value[np.unique(np.linspace(0, len(value) - 1, MAX_PICTURES).astype(int))]
        return _values.picture(chosen[:, 1:], self.bands)

    def describe(self, value: np.ndarray) -> str:
        return _texts.describe(value)

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        return _texts.summary(self, values)

    def comment(self, raws: Sequence[Raw]) -> str:
        return _texts.comment(self)

    def read_by_wavelength(self) -> Raster:
        """See `ReadByWavelength`."""
        if self.patches:
            raise AmodalError(
                "bands that are known by their wavelengths have patches of one side: leave patches "
                "out of the raster"
            )
        return replace(self, by_wavelength=True, groups={}, by_band=False)

    def as_in(self, here: Any) -> Raster:
        """See `Modality.as_in`: what reads any bands reads those of the data."""
        if not self.by_wavelength or set(here.bands) <= set(self.bands) or here.unnamed:
            return self
        read: Raster = replace(here, patch=self.tile, patches=())
        return read.read_by_wavelength()

    def mismatch(self, trained: Modality) -> str:
        """Another ground resolution, which is never resampled."""
        if not isinstance(trained, Raster) or not self.resolution or not trained.resolution:
            return ""
        ratio = self.resolution / trained.resolution
        if 0.8 < ratio < 1.25:
            return ""
        return (
            f"pixels of {self.resolution:g} m, and the run was trained on {trained.resolution:g} m"
        )

    def attributes(self) -> dict[str, Attribute]:
        return _texts.attributes(self)

    def simple_groups(self, raws: Sequence[Raw]) -> list[_simple.Array]:
        """Of each band mean, deviation, quantiles, differences of neighbours and change over time;
        the ratios of bands; means of 4 x 4 blocks."""
        return _values.statistics([value[:, 1:] for value in self.decode_all(raws)])

    def json_schema(self, limits: Limits) -> Schema:
        return FILE | {"description": "the bytes of a GeoTIFF, or .npy of (bands, height, width)"}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        return _values.checked(raw, limits)

    def parts(self, value: np.ndarray) -> np.ndarray:
        """(T, 1, H, W): patches."""
        down, across = (np.arange(side) // self.tile for side in value.shape[2:])
        grid = down[:, None] * (across[-1] + 1) + across
        return cast(
            np.ndarray, np.arange(len(value))[:, None, None, None] * (grid.max() + 1) + grid
        )

    def deviation(self, value: np.ndarray) -> np.ndarray:
        return np.array((0.0, *self.scale()[1]))[:, None, None]

    def exchanged(self, value: np.ndarray, other: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """Patches of the other value at the same place; where it has none they stay."""
        dates, height, width = (min(a, b) for a, b in zip(_tyx(value), _tyx(other)))
        out, part = value.copy(), (slice(dates), slice(1, None), slice(height), slice(width))
        out[part] = np.where(hit[:dates, :, :height, :width], other[part], value[part])
        return out if np.isfinite(out[:, 1:]).any() else value

    def dropped(self, value: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """NaN in their place."""
        out = value.copy()
        out[:, 1:] = np.where(hit, np.float32(np.nan), out[:, 1:])
        return out if np.isfinite(out[:, 1:]).any() else value

    @classmethod
    def example(
        cls, tokens: int, rng: np.random.Generator
    ) -> tuple[Raster, Callable[[], np.ndarray]]:
        side = EXAMPLE_PATCH * max(round(math.sqrt(tokens)), 1)
        bands = tuple(f"band {i + 1}" for i in range(EXAMPLE_BANDS))
        nanometres = tuple(float(n) for n in np.linspace(450, 2200, EXAMPLE_BANDS).round())
        made = cls(
            bands=bands, size=side, patch=EXAMPLE_PATCH, resolution=10.0, wavelengths=nanometres
        )
        return made, lambda: rng.standard_normal((EXAMPLE_BANDS, side, side), dtype=np.float32)


def _tyx(value: np.ndarray) -> tuple[int, int, int]:
    return len(value), value.shape[2], value.shape[3]
