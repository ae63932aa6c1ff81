"""What some modalities have beside the members of `Modality`, by which others ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from amodal.modalities.shared.base import Modality, Raw
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
