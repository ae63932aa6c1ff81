"""What some modalities have beside the members of `Modality`, by which others ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from amodal.modalities.shared.base import Modality, Raw
from amodal.modalities.shared.points_values import Placed
from amodal.modalities.shared.raster_values import Stack


class Grid(Protocol):
    """What a modality of layout "grid" has beside the members of `Modality`.

    Attributes:
        size: side of a value in pixels.
        channels: of a value.
        tile: side of a token in pixels.
    """

    size: int
    channels: int

    @property
    def tile(self) -> int: ...

    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel."""


def is_pixel_map(modality: Modality) -> bool:
    """Whether its values are pictures of one square size, so that a batch is (N, C, size, size)."""
    return modality.layout == "grid" and isinstance(modality.collate([]), Tensor)


@runtime_checkable
class OnGround(Protocol):
    """A modality whose values may say where on the earth they lie.

    Attributes:
        size: side in pixels of the largest value that a network reads whole.
    """

    size: int

    @property
    def tile(self) -> int:
        """Side of a token in pixels."""
        ...

    def on_ground(self, raw: Raw | None) -> tuple[np.ndarray, tuple[str, tuple[float, ...]]]:
        """A decoded value of any size, and its coordinate reference system and transform.

        Raises:
            BadValue: it cannot be decoded.
        """


@runtime_checkable
class Tiled(Protocol):
    """A modality whose values may be larger than a network reads at a time.

    Its tokens lie on a grid of A axes, 2 or 3, and a window is a part of that grid.

    Attributes:
        window_cells: tokens of a window along each axis.
        cell_sides: entries of a value along each axis of a token.
    """

    @property
    def window_cells(self) -> tuple[int, ...]: ...

    @property
    def cell_sides(self) -> tuple[int, ...]: ...

    def token_cells(self, value: np.ndarray) -> tuple[int, ...]:
        """Tokens along each axis of a decoded value of any size."""
        ...

    def window(self, value: np.ndarray, corner: Sequence[int]) -> np.ndarray | None:
        """The window that begins at so many tokens along each axis; None if nothing is there."""
        ...

    def cells(self, window: np.ndarray, position_TP: np.ndarray) -> np.ndarray:
        """(T, A) int64, which token along each axis of a window each one is.

        Args:
            window: a decoded value.
            position_TP: (T, 3), of its tokens.
        """
        ...

    def truth(self, raw: Raw, amounts: bool) -> np.ndarray:
        """What is known of each entry along these axes, as a file has it: class numbers from 0 on,
        255 where unknown; or amounts as float64, NaN where unknown.

        Raises:
            BadValue: it cannot be read.
        """
        ...

    def other_grid(self, raw: Raw, truth: Raw) -> str:
        """How the grid of a map differs from that of its value, both as files have them: a sentence
        with a cure; "" where it does not, or where files do not say.

        Raises:
            BadValue: one of them cannot be read.
        """
        ...


@runtime_checkable
class HasPoints(Protocol):
    """A modality whose tokens lie among the points of a cloud."""

    def place_points(self, raw: Raw | None) -> Placed:
        """A decoded value, and where every point of its file lies among its tokens.

        Raises:
            BadValue: it cannot be decoded.
        """
        ...


@runtime_checkable
class InSpace(Protocol):
    """A modality whose tokens lie at three coordinates of one unit, which may be negative."""

    @property
    def token_length(self) -> float:
        """The usual distance of neighbouring tokens, in that unit."""
        ...


@runtime_checkable
class AboutCentre(Protocol):
    """A modality whose tokens lie about a centre, perhaps on both sides of 0."""

    @property
    def below_zero(self) -> bool:
        """Whether a coordinate of a token may be negative."""
        ...


@runtime_checkable
class WritesFeatures(Protocol):
    """A tiled modality that writes the features of its tokens as a file of its own kind.

    Attributes:
        features_suffixes: endings of that file, the usual one first.
    """

    features_suffixes: ClassVar[tuple[str, ...]]

    def placed(self, raw: Raw | None) -> tuple[np.ndarray, Any]:
        """A decoded value of any size, and where it lies.

        Raises:
            BadValue: it cannot be decoded.
        """
        ...

    def features_file(self, grid: np.ndarray, place: Any, made_by: str, suffix: str) -> bytes:
        """The content of a file of features.

        Args:
            grid: (*cells, D) float32, NaN where there is no data.
            place: of the value, as `placed` gives it.
            made_by: what `features_made_by` reads.
            suffix: of the file.
        """
        ...

    def features_made_by(self, content: bytes) -> str:
        """What made a file of features; "" for any other file."""
        ...


@runtime_checkable
class Surveys(Protocol):
    """A modality of measurements of the ground, in bands, at one date or more."""

    def stack(self, raw: Raw) -> Stack:
        """The pixels as the data has them: all bands and dates, in the order of the file.

        Raises:
            BadValue: it cannot be read.
        """

    def footprint(self, raw: Raw) -> tuple[str, tuple[float, ...], int, int] | None:
        """Coordinate reference system, transform, height and width, without reading pixels; None
        where it is not known.

        Raises:
            BadValue: it cannot be read.
        """


@runtime_checkable
class HasBands(Protocol):
    """A modality of measurements in bands, whose targets are values of these bands.

    Attributes:
        bands: their names, in order.
    """

    bands: tuple[str, ...]

    def band_of_targets(self) -> list[int]:
        """(P,) the number of the band of each value of a target, see `Modality.targets`."""
        ...


@runtime_checkable
class ReadByWavelength(Protocol):
    """A modality of measurements in bands, each of which has a wavelength.

    Attributes:
        by_wavelength: whether each band has tokens of its own, of which no more is known than
            their wavelength, so that what reads them reads any bands.
    """

    by_wavelength: bool

    def read_by_wavelength(self) -> Modality:
        """The same with such tokens.

        Raises:
            AmodalError: the wavelength of a band is not known, or two are the same.
        """
        ...


def is_picture(modality: Modality) -> bool:
    """Whether a value is one picture (C, H, W), of any sides."""
    return modality.layout == "grid" and not isinstance(modality, OnGround)


@runtime_checkable
class Readable(Protocol):
    """A modality whose values are text to a person."""

    def text(self, value: np.ndarray) -> str:
        """The text of a decoded value."""


@runtime_checkable
class HasNext(Protocol):
    """A modality of which one event follows another, so that the next one can be predicted."""

    def before_last(self, value: np.ndarray) -> np.ndarray | None:
        """The value without its last event; None if no event would be left."""

    def last(self, value: np.ndarray) -> dict[str, str | float | None]:
        """Name -> what the last event holds, a class, a number, or None where it is missing."""


@runtime_checkable
class Exports(Protocol):
    """A modality whose trained tokenizer has a dense form, for graphs of other runtimes."""

    def graph(self, tokenizer: nn.Module) -> nn.Module:
        """See `amodal.modalities.shared.dense`."""


@runtime_checkable
class MakesExamples(Protocol):
    """A modality with made-up values, to count the cost of a model."""

    @classmethod
    def example(cls, tokens: int, rng: np.random.Generator) -> tuple[Modality, Callable[[], Raw]]:
        """A modality whose values have about `tokens` tokens, and a maker of raw values."""


@runtime_checkable
class VariesByStep(Protocol):
    """A modality of which each step of training makes something else of all values, such as patches
    of another size."""

    def of_step(self, rng: np.random.Generator) -> Modality:
        """The modality for one step.

        Args:
            rng: the only source of randomness.
        """
        ...


@runtime_checkable
class ResizesPatches(Protocol):
    """A modality whose tokens may be patches of other sides, by resized weights.

    Attributes:
        patches: sides in pixels that training draws from.
    """

    patches: tuple[int, ...]

    def with_patch(self, side: int) -> Modality:
        """The same with patches of another side."""
        ...
