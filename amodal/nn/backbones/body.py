"""What pretrained backbones of every library share: how images come in, what their maps look like,
which weights matched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from amodal.core import AmodalError

LEAST = 0.9
"""Share of a model's parameters that a weights file must have, or loading it was a mistake."""


class ImageBody(nn.Module):
    """What all image models share: size, scale and places. A subclass gives `maps`: (N, 3, side,
    side) -> (N, rows, columns, C).

    modality: an Image, whose reference grid the positions are in; mean, std: what the model was
    trained with, for 0 … 1.
    """

    def __init__(self, modality, *, width: int, side: int, mean, std):
        super().__init__()
        if modality.channels not in (1, 3):
            raise AmodalError(
                f"pretrained image models see 1 or 3 channels, and this field has {modality.channels}"
            )
        self.width, self.side, self.channels = width, side, modality.channels
        self.grid = modality.size / modality.tile
        # No numbers in 0 … 1 have such moments: a field in a unit of its own is brought to mean 0,
        # deviation 1 by its own.
        if modality.mean and any(
            not 0 <= m <= 1 or s > 0.5 for m, s in zip(modality.mean, modality.std)
        ):
            mean, std = modality.mean, modality.std
        for name, numbers in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1))

    def example(self) -> Tensor:
        return torch.zeros(1, self.channels, self.side, self.side)

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = (images_NCHW.expand(-1, 3, -1, -1) - self.mean) / self.std
        if x.shape[2:] != (self.side, self.side):
            x = interpolate(x, (self.side, self.side), mode="bicubic", antialias=True)
        maps = self.maps(x)
        n, rows, columns = maps.shape[:3]
        y, x = (
            (torch.arange(k, device=maps.device) + 0.5) / k * self.grid - 0.5
            for k in (rows, columns)
        )
        place = torch.cartesian_prod(torch.zeros(1, device=maps.device), y, x)
        return (
            maps.flatten(0, 2),
            torch.full((n,), rows * columns, device=maps.device),
            place.repeat(n, 1),
        )

    def maps(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def as_map(features: Tensor, width: int, *, rows: int | None = None, spec: str = "") -> Tensor:
    """What an image model returns as (N, rows, columns, C): (N, C, h, w), (N, h, w, C), or (N, L,
    C), whose last rows * rows tokens are the patches and whose first are class and register tokens,
    which are left out."""
    if features.dim() == 4 and features.shape[1] == width:
        return features.permute(0, 2, 3, 1)
    if features.dim() == 4 and features.shape[3] == width:
        return features
    if features.dim() == 3:
        rows = rows or int(features.shape[1] ** 0.5)
        if rows**2 <= features.shape[1] <= rows**2 + 16:
            return features[:, -(rows**2) :].unflatten(1, (rows, rows))
    raise AmodalError(
        f"the features of {spec} are {tuple(features.shape)}, which is no map of {width} channels and no row of patches"
    )


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a model came from a file. matched, missing: of the model; unexpected: of the
    file; mismatched: (name, shape in the model, shape in the file); share: of the model's numbers
    that matched, 0 … 1."""

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    share: float

    @staticmethod
    def of(
        source: str, model: dict[str, Tensor], file: dict[str, Tensor] | dict[str, torch.Size]
    ) -> LoadReport:
        """model: its state; file: name -> tensor or shape."""
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

    def check(self, least: float = LEAST) -> None:
        if self.share < least:
            raise AmodalError(
                f"these weights are not of this model: {self}. Expected at least {least:.0%} of its numbers; choose the model that "
                f"the weights are of, or pass least={self.share:.2f} if this is what you want"
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
            f"{name} {list(here)}, in the file {list(there)}"
            for name, here, there in self.mismatched
        )
        return "; ".join([*parts, f"{len(wrong)} of another shape{_some(wrong)}"])


def _some(names: tuple[str, ...], most: int = 4) -> str:
    return f" ({', '.join(names[:most])}{', …' if len(names) > most else ''})" if names else ""


def existing(path: str, what: str) -> Path:
    """The path, which must exist. Raises AmodalError."""
    found = Path(path).expanduser()
    if not found.exists():
        raise AmodalError(f"there is no {what} {found}")
    return found
