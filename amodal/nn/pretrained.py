"""Pretrained backbones behind the face of a tokeniser: (column, name, size) -> Tokens that have already seen each other.

`timm:NAME[:SIZE][@WEIGHTS]`: any image model of timm. WEIGHTS is a file (safetensors, or .pth without code in it) or the word
`pretrained` for timm's own download. SIZE is the side that images are resized to, the model's own by default.
`transformers:DIR`: a text or image model saved in a local directory. `voice:resemblyzer@WEIGHTS`: speakers' voices in sound at 16 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from amodal.core import AmodalError, Column, Ragged, Tokens, unknown

LEAST = 0.9
"""Share of a model's parameters that a weights file must have, or loading it was a mistake."""

Body = nn.Module
"""values of N rows -> (features (T, width), lengths (N,), positions (T, 3)); has `width`, and `example`, one row of values."""


def backbone(
    spec: str, modality, width: int, *, frozen: bool = True, load: bool = True, least: float = LEAST
) -> Backbone:
    """spec: see above; modality: the field's; width: of the tokens, made by a learned linear map.

    frozen: the model's own parameters do not learn. load: False builds the model alone, for weights that a checkpoint holds.
    least: share of the parameters that the weights must match. Raises AmodalError.
    """
    library, _, rest = spec.partition(":")
    if library not in LIBRARIES or not rest:
        raise unknown("library of backbones", library, LIBRARIES, "Expected timm:NAME@WEIGHTS or transformers:DIR.")
    kind = type(modality).__name__.lower()
    if kind not in LIBRARIES[library]:
        raise AmodalError(
            f"{library} backbones are for {' and '.join(LIBRARIES[library])} fields, but this field is {kind}: {spec}"
        )
    if library == "timm":
        from amodal.nn._timm import build
    elif library == "voice":
        from amodal.nn._voice import build
    else:
        from amodal.nn._transformers import build
    body, spec, report = build(rest, modality, load)
    if load and report is None and frozen:
        raise AmodalError(
            f"{spec} names no weights, so it would stay random: add @/path/to/weights.safetensors or @pretrained, or let it learn "
            "(frozen=False)"
        )
    if report is not None:
        report.check(least)
    return Backbone(body, spec, width, frozen=frozen, report=report)


LIBRARIES = {"timm": ("image",), "transformers": ("image", "text"), "voice": ("audio",)}


class Backbone(nn.Module):
    """spec: builds the same module again, without its weights; report: what the weights matched, None if none were loaded.

    In place of values it takes what its model made of them before, rows of (tokens, width + 3): features and positions.

    The model is always in evaluation mode: dropout draws from no row's seed, and batch statistics would make a row depend on
    the rows beside it.
    """

    contextual = True

    def __init__(self, body: Body, spec: str, width: int, *, frozen: bool, report: LoadReport | None = None):
        super().__init__()
        self.body, self.spec, self.frozen, self.report = body, spec, frozen, report
        self.project = nn.Linear(body.width, width)
        self.train(self.training)
        self.body.requires_grad_(False)
        if not frozen:
            self.thaw()

    def thaw(self) -> None:
        """The model's own parameters learn from now on."""
        self.frozen = False
        self.body.requires_grad_(True)
        _stop_unused(self.body)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if isinstance(column.values, Ragged) and column.values.flat.dim() == 2:  # looked at before
                flat, lengths = column.values.flat, column.values.lengths
                features, position = flat[:, :-3].to(self.project.weight.dtype), flat[:, -3:]
            elif len(column):
                features, lengths, position = self.body(column.values)
            else:  # no row: every parameter still becomes part of the graph
                features, lengths, position = (t[:0] for t in self.body(self.body.example().to(column.rows.device)))
        return Tokens.of(self.project(features), column.rows, lengths, position, name, size)

    def extra_repr(self) -> str:
        return f"{self.spec!r}, frozen={self.frozen}"


def _stop_unused(body: Body) -> None:
    """Parameters that no token depends on (poolers, norms before a head) do not learn."""
    parameters = [p for p in body.parameters() if p.requires_grad]
    with torch.enable_grad():
        gradients = torch.autograd.grad(body(body.example())[0].sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients):
        parameter.requires_grad_(gradient is not None)


class ImageBody(nn.Module):
    """What all image models share: size, scale and places. A subclass gives `maps`: (N, 3, side, side) -> (N, rows, columns, C).

    modality: an Image, whose reference grid the positions are in; mean, std: what the model was trained with, for 0 … 1.
    """

    def __init__(self, modality, *, width: int, side: int, mean, std):
        super().__init__()
        if modality.channels not in (1, 3):
            raise AmodalError(f"pretrained image models see 1 or 3 channels, and this field has {modality.channels}")
        self.width, self.side, self.channels = width, side, modality.channels
        self.grid = modality.size / modality.tile
        # No numbers in 0 … 1 have such moments: a field in a unit of its own is brought to mean 0, deviation 1 by its own.
        if modality.mean and any(not 0 <= m <= 1 or s > 0.5 for m, s in zip(modality.mean, modality.std)):
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
        y, x = ((torch.arange(k, device=maps.device) + 0.5) / k * self.grid - 0.5 for k in (rows, columns))
        place = torch.cartesian_prod(torch.zeros(1, device=maps.device), y, x)
        return maps.flatten(0, 2), torch.full((n,), rows * columns, device=maps.device), place.repeat(n, 1)

    def maps(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def as_map(features: Tensor, width: int, *, rows: int | None = None, spec: str = "") -> Tensor:
    """What an image model returns as (N, rows, columns, C): (N, C, h, w), (N, h, w, C), or (N, L, C), whose last rows * rows
    tokens are the patches and whose first are class and register tokens, which are left out."""
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
    """Which tensors of a model came from a file. matched, missing: of the model; unexpected: of the file; mismatched: (name, shape in
    the model, shape in the file); share: of the model's numbers that matched, 0 … 1."""

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    share: float

    @staticmethod
    def of(source: str, model: dict[str, Tensor], file: dict[str, Tensor] | dict[str, torch.Size]) -> LoadReport:
        """model: its state; file: name -> tensor or shape."""
        shapes = {n: tuple(getattr(t, "shape", t)) for n, t in file.items()}
        wrong = {
            n: (tuple(t.shape), shapes[n]) for n, t in model.items() if n in shapes and shapes[n] != tuple(t.shape)
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
        parts = [f"{self.source}: {len(self.matched)} tensors matched ({self.share:.1%} of the numbers)"]
        parts += [
            f"{len(names)} {word}{_some(names)}"
            for word, names in (("missing", self.missing), ("unexpected", self.unexpected))
        ]
        wrong = tuple(f"{name} {list(here)}, in the file {list(there)}" for name, here, there in self.mismatched)
        return "; ".join([*parts, f"{len(wrong)} of another shape{_some(wrong)}"])


def _some(names: tuple[str, ...], most: int = 4) -> str:
    return f" ({', '.join(names[:most])}{', …' if len(names) > most else ''})" if names else ""


def existing(path: str, what: str) -> Path:
    """The path, which must exist. Raises AmodalError."""
    found = Path(path).expanduser()
    if not found.exists():
        raise AmodalError(f"there is no {what} {found}")
    return found
