"""What backbones of all libraries share: image scaling, feature maps, matching of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from amodal.core import AmodalError, Ragged

MIN_SHARE = 0.9
"""A weights file with a smaller share of a model's parameters is of another model."""


class Body(nn.Module):
    """A model of any library, as a backbone needs it.

    Attributes:
        width: Dimensions of its features.
        is_scratch: Whether it begins random on purpose, so that it learns where others are frozen.
        prefix_tokens: How many tokens stand before those of the parts of a value, such as
            registers; the first of them stands for the whole.
        is_one_vector: Whether a value has one token.
        is_space: Whether its features are vectors of a space that was learnt for comparing them
            with those of another body. They reach the encoder's vectors unchanged.
    """

    width: int
    is_scratch: bool = False
    prefix_tokens: int = 0
    is_one_vector: bool = False
    is_space: bool = False

    def example(self) -> Tensor | Ragged:
        """One row of values."""
        raise NotImplementedError

    def forward(self, values: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Values of N rows -> features (T, width), lengths (N,), positions (T, 3)."""
        raise NotImplementedError


def register_moments(body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Give a body the buffers `mean` and `std`, (C, 1, 1), by which it scales pictures."""
    for name, numbers in (("mean", mean), ("std", std)):
        body.register_buffer(name, torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1))


@runtime_checkable
class Layered(Protocol):
    """A body that says what its layers give."""

    def hidden_states(self, values: Any) -> list[Tensor]:
        """Layer by layer, the mean over the tokens of N values, (N, D)."""
        ...


class MultiScaleBody(Body):
    """A model with one token a value, and lists of features that have seen less of it.

    Attributes:
        scale_widths: Name of a scale -> dimensions of its features.
    """

    scale_widths: Mapping[str, int]

    def at_scales(self, values: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Values of N rows -> (N, width) of the whole, and scale -> (N, L, scale_widths)."""
        raise NotImplementedError

    def position(self, one_ND: Tensor) -> Tensor:
        """(N, 3), where the tokens (N, width) of wholes are."""
        raise NotImplementedError

    def forward(self, values: Any) -> tuple[Tensor, Tensor, Tensor]:
        """See `Body.forward`."""
        whole_ND, _ = self.at_scales(values)
        return whole_ND, ones_like_rows(whole_ND), self.position(whole_ND)


def ones_like_rows(x_ND: Tensor) -> Tensor:
    """(N,) int64, ones."""
    return torch.ones(len(x_ND), dtype=torch.int64, device=x_ND.device)


class ImageField(Protocol):
    """What a body asks of a field of images: side and patch in pixels, how pictures are fitted into
    it, moments of each channel."""

    @property
    def channels(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def tile(self) -> int: ...
    @property
    def fit(self) -> str: ...
    @property
    def mean(self) -> Sequence[float]: ...
    @property
    def std(self) -> Sequence[float]: ...


class ImageBody(Body):
    """What all image models share. A subclass defines `maps`.

    Args:
        modality: Of the field. Positions are in its reference grid of patches.
        width: C of the maps.
        side: Of the model's input, in pixels.
        mean, std: Of each channel in 0 … 1, as the model was trained.

    Raises:
        AmodalError: For a number of channels other than 1 and 3, and pictures that are no squares.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        modality: ImageField,
        *,
        width: int,
        side: int,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        if modality.fit == "native":
            raise AmodalError(
                "pretrained image models read squares, and this field keeps each picture's aspect "
                '(fit = "native"): set fit = "stretch", "crop" or "pad" for it, or leave the '
                "backbone out"
            )
        if modality.channels not in (1, 3):
            raise AmodalError(
                "pretrained image models see 1 or 3 channels, and this field has "
                f"{modality.channels}"
            )
        self.width, self.side, self.channels = width, side, modality.channels
        self.grid = modality.size / modality.tile
        # No numbers in 0 … 1 have such moments: a field in a unit of its own is brought to mean 0,
        # deviation 1 by its own.
        if modality.mean and any(
            not 0 <= m <= 1 or s > 0.5 for m, s in zip(modality.mean, modality.std)
        ):
            mean, std = modality.mean, modality.std
        register_moments(self, mean, std)

    def example(self) -> Tensor:
        """(1, C, side, side), zeros."""
        return torch.zeros(1, self.channels, self.side, self.side)

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images -> features of patches.

        Args:
            images_NCHW: Values of N rows.

        Returns:
            Features (T, width), lengths (N,), positions (T, 3), where T = N rows columns.
        """
        return map_tokens(self.maps(self.scaled(images_NCHW)), self.grid)

    def scaled(self, images_NCHW: Tensor) -> Tensor:
        """Images as the model was trained on, (N, 3, side, side)."""
        x = (images_NCHW.expand(-1, 3, -1, -1) - self.mean) / self.std
        if x.shape[2:] != (self.side, self.side):
            x = interpolate(x, (self.side, self.side), mode="bicubic", antialias=True)
        return x

    def maps(self, images: Tensor) -> Tensor:
        """(N, 3, side, side) -> (N, rows, columns, C)."""
        raise NotImplementedError


def map_tokens(maps: Tensor, grid: float) -> tuple[Tensor, Tensor, Tensor]:
    """The cells of maps as tokens.

    Args:
        maps: (N, rows, columns, C).
        grid: Side of the grid that the field's own tokenizer would make.

    Returns:
        Features (T, C), lengths (N,), positions (T, 3), where T = N rows columns.
    """
    n, rows, columns = maps.shape[:3]
    # centres of the map's cells, in units of the grid, so that positions mean the same with any
    # backbone
    y, x = ((torch.arange(k, device=maps.device) + 0.5) / k * grid - 0.5 for k in (rows, columns))
    position = torch.cartesian_prod(torch.zeros(1, device=maps.device), y, x)
    return (
        maps.flatten(0, 2),
        torch.full((n,), rows * columns, device=maps.device),
        position.repeat(n, 1),
    )


def as_map(features: Tensor, width: int, *, rows: int | None = None, spec: str = "") -> Tensor:
    """What an image model returns, as a map.

    Args:
        features: (N, C, h, w), (N, h, w, C), or (N, L, C), whose last rows * rows tokens are
            patches. Class and register tokens before them are left out.
        width: C.
        rows: Of the patches; found from L unless given.
        spec: Of the model, for messages.

    Returns:
        (N, rows, columns, C).

    Raises:
        AmodalError: For any other shape.
    """
    if features.dim() == 4 and features.shape[1] == width:
        return features.permute(0, 2, 3, 1)
    if features.dim() == 4 and features.shape[3] == width:
        return features
    if features.dim() == 3:
        # The root is right as long as class and register tokens are at most 2 rows: else `rows` is
        # needed.
        rows = rows or int(features.shape[1] ** 0.5)
        if rows**2 <= features.shape[1] <= rows**2 + 16:
            out: Tensor = torch.unflatten(features[:, -(rows**2) :], 1, (rows, rows))
            return out
    raise AmodalError(
        f"the features of {spec} are {tuple(features.shape)}, which is no map of {width} channels "
        "and "
        "no row of patches"
    )


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a model came from a file.

    Attributes:
        source: The file.
        matched, missing: Tensors of the model.
        unexpected: Tensors of the file.
        mismatched: (name, shape in the model, shape in the file).
        share: Of the model's numbers that matched, 0 … 1.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    share: float

    @staticmethod
    def of(
        source: str,
        model: Mapping[str, Tensor],
        file: Mapping[str, Tensor] | Mapping[str, Sequence[int]],
    ) -> LoadReport:
        """Compare a model with a file.

        Args:
            source: What to call the file.
            model: The model's state.
            file: Name -> tensor or shape.
        """
        shapes = {n: tuple(getattr(t, "shape", t)) for n, t in file.items()}
        wrong = {
            n: (tuple(t.shape), shapes[n])
            for n, t in model.items()
            if n in shapes and shapes[n] != tuple(t.shape)
        }
        matched = tuple(n for n in model if n in shapes and n not in wrong)
        total = sum(t.numel() for t in model.values())
        return LoadReport(
            source,
            matched,
            tuple(n for n in model if n not in shapes),
            tuple(sorted(n for n in shapes if n not in model)),
            tuple((n, *both) for n, both in wrong.items()),
            sum(model[n].numel() for n in matched) / max(total, 1),
        )

    def check(self, min_share: float = MIN_SHARE) -> None:
        """Raise AmodalError unless at least this share of the numbers matched."""
        if self.share < min_share:
            raise AmodalError(
                f"these weights are not of this model: {self}. Expected at least {min_share:.0%} "
                "of "
                "its numbers; choose the model that the weights are of, or pass "
                f"min_share={self.share:.2f} if this is what you want"
            )

    def __str__(self) -> str:
        parts = [
            f"{self.source}: {len(self.matched)} tensors matched ({self.share:.1%} of the numbers)"
        ]
        parts += [
            f"{len(names)} {word}{_some(names)}"
            for word, names in (("missing", self.missing), ("unexpected", self.unexpected))
        ]
        wrong = tuple(
            f"{name} {list(shape)}, in the file {list(shape_in_file)}"
            for name, shape, shape_in_file in self.mismatched
        )
        return "; ".join([*parts, f"{len(wrong)} of another shape{_some(wrong)}"])


def _some(names: tuple[str, ...], most: int = 4) -> str:
    return f" ({', '.join(names[:most])}{', …' if len(names) > most else ''})" if names else ""


def existing(path: str, what: str) -> Path:
    """The path, which must exist, else AmodalError."""
    full = Path(path).expanduser()
    if not full.exists():
        raise AmodalError(f"there is no {what} {full}")
    return full
