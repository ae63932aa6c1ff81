"""Point clouds: the modality `points`.

Tokens are neighbouring points, found along a space-filling curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged, Tokens
from amodal.modalities import BadValue, Modality, NoSimpleFeatures, Raw, SimpleFeatures
from amodal.modalities.shared import ragged, requests
from amodal.modalities.shared.base import (
    FILE,
    Attribute,
    Schema,
    at_most,
    build,
    check_view,
    decodable,
)
from amodal.modalities.shared.files import is_numpy, load_numpy, read_bytes
from amodal.objectives.reconstruction import masked_mse


@dataclass(frozen=True)
class Points(Modality):
    """A value is (n, 3) float32: points around their centre, neighbours beside each other.

    max_points: as many are drawn from larger clouds, evenly; patch: points in a token;
    size: the usual distance of a point from the centre, measured by `infer`.
    """

    max_points: int = 1024
    patch: int = 16
    size: float = 1.0

    suffixes: ClassVar[frozenset[str]] = frozenset({".xyz", ".ply", ".npy"})
    magic: ClassVar[tuple[bytes, ...]] = (b"ply\n", b"ply\r\n")

    def __post_init__(self):
        if self.max_points < 1 or self.patch < 1 or not self.size > 0:
            raise AmodalError("points need max_points and patch of at least 1 and a size above 0")
        at_most("points", {"max_points": (self.max_points, 2**20), "patch": (self.patch, 4096)})

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides) -> "Points":
        points = build(cls, overrides)
        values = decodable(points, samples)
        patch = max(1, -(-int(np.median([len(v) for v in values])) // 32))  # about 32 tokens
        size = float(f"{np.sqrt(np.concatenate([(v**2).sum(1) for v in values]).mean()):.6g}")
        return build(cls, {"patch": patch, "size": size or 1.0} | overrides)

    def decode(self, raw: Raw) -> np.ndarray:
        xyz = _read(raw)
        if xyz.ndim != 2 or xyz.shape[1] < 3 or not len(xyz):
            raise BadValue(f"expected (n, 3) coordinates, n > 0, not shape {xyz.shape}")
        if not (np.abs(xyz[:, :3]) < 1e30).all():
            raise BadValue("a coordinate is missing, infinite or too large")
        xyz = xyz[np.linspace(0, len(xyz) - 1, min(len(xyz), self.max_points)).astype(int), :3]
        return _ordered(xyz.astype(np.float64) - xyz.mean(0, dtype=np.float64))

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """weak: turned by up to 15 degrees about z; strong: by any angle, scaled, thinned, moved by
        2 % of the size; local: the third of the points around one of them, turned likewise."""
        check_view(view)
        if view == "plain":
            return value
        angle = rng.uniform(-np.pi, np.pi) / (12 if view == "weak" else 1)
        turn = np.array(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )
        if view == "local":
            far = ((value - value[rng.integers(len(value))]) ** 2).sum(1)
            value = value[np.argsort(far)[: max(1, len(value) // 3)]]
        if view == "strong":
            keep = rng.random(len(value)) < rng.uniform(0.5, 1)
            value = (value[keep] if keep.any() else value) * rng.uniform(0.8, 1.25)
            value = value + 0.02 * self.size * rng.standard_normal(value.shape)
        return _ordered(value @ turn.T)

    def collate(self, values: Sequence[np.ndarray]) -> Ragged:
        return ragged.pack(values, np.zeros((0, 3), dtype=np.float32))

    def patches(self, clouds: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """(T, patch, 3) points around the centre of their token in units of `size`, NaN past the
        end; (T, 3) the centres; (N,) tokens of each cloud."""
        points_TP3, counts_N = ragged.patches(
            Ragged(clouds.flat / self.size, clouds.lengths), self.patch, torch.nan
        )
        centre_T3 = points_TP3.nanmean(1)
        return points_TP3 - centre_T3[:, None], centre_T3, counts_N

    def tokenizer(self, width: int) -> "PointsTokenizer":
        return PointsTokenizer(self, width)

    def targets(self, clouds: Ragged) -> Tensor:
        return self.patches(clouds)[0].flatten(1)

    def predictor(self, width: int) -> nn.Linear:
        return nn.Linear(width, 3 * self.patch)

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return masked_mse(prediction, target, normalise=False)

    def show(self, value: np.ndarray) -> np.ndarray:
        """From the front, 96 x 96; what is nearer is darker."""
        picture = np.full((96, 96), 255, dtype=np.uint8)
        x, depth, z = (value / (3 * self.size) + 0.5).clip(0, 1).T
        pixel = ((1 - z) * 95).astype(int), (x * 95).astype(int)
        np.minimum.at(picture, pixel, (200 * depth).astype(np.uint8))
        return np.repeat(picture[:, :, None], 3, axis=2)

    def describe(self, value: np.ndarray) -> str:
        return f"{len(value)} points, {' x '.join(f'{s:.3g}' for s in np.ptp(value, axis=0))}"

    def attributes(self) -> dict[str, Attribute]:
        return {
            "points": Attribute("number", len),
            "height": Attribute("number", lambda v: float(np.ptp(v[:, 2]))),
        }

    def simple_features(self, train: Sequence[Raw]) -> SimpleFeatures:
        """How far the points reach along their principal axes, in deviations."""

        def extents(raws: Sequence[Raw]) -> np.ndarray:
            values = (self.decode(raw) for raw in raws)
            rows = [np.linalg.svd(v, compute_uv=False) / len(v) ** 0.5 for v in values]
            return np.array(rows, dtype=np.float32).reshape(-1, 3)

        known = extents(train)
        if not len(known):
            raise NoSimpleFeatures("there is no cloud to fit simple features on")
        mean, std = known.mean(0), np.maximum(known.std(0), 1e-6)
        return lambda raws: (extents(raws) - mean) / std

    def json_schema(self, limits: requests.Limits) -> Schema:
        point = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
        return {"anyOf": [{"type": "array", "items": point, "minItems": 1}, FILE]}

    def bounds(self, raw: Any, limits: requests.Limits) -> Raw:
        if not isinstance(raw, bytes):
            return requests.cells_of(raw, limits)
        return (
            requests.array_of(raw)
            if is_numpy(raw)
            else requests.text_of(requests.file_of(raw), limits)
        )

    def deviation(self, value: np.ndarray) -> np.ndarray:
        return np.full(1, self.size / 3**0.5)


class PointsTokenizer(nn.Module):
    """A linear map of the points of a token around its centre, and of the centre."""

    def __init__(self, points: Points, width: int):
        super().__init__()
        self.points = points
        self.project = nn.Linear(3 * points.patch + 3, width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Positions are centres, four units for the size of a cloud."""
        inside_TP3, centre_T3, counts_N = self.points.patches(column.values)
        x_TD = self.project(torch.cat([inside_TP3.nan_to_num().flatten(1), centre_T3], 1))
        return Tokens.of(x_TD, column.rows, counts_N, 4 * centre_T3, name, size)


def _read(raw: Raw) -> np.ndarray:
    if isinstance(raw, (Path, str, bytes)):
        data = read_bytes(raw)
        raw = load_numpy(data) if is_numpy(data) else _from_text(data)
    try:
        return np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadValue("expected the coordinates of points as an array or lists") from None


def _from_text(data: bytes) -> np.ndarray:
    """Lines of x, y, z and more, behind the header of a .ply file where there is one."""
    try:
        text = data.decode("ascii").replace("\r\n", "\n")
        head, mark, body = text.partition("end_header\n")
        lines = (body if mark else head).split("\n")
        count = next(
            (int(w[2]) for w in map(str.split, head.split("\n")) if w[:2] == ["element", "vertex"]),
            None,
        )
        return np.array(
            [line.replace(",", " ").split()[:3] for line in lines if line.strip()][:count],
            dtype=float,
        )
    except (ValueError, IndexError) as error:
        raise BadValue(f"no lines of x, y, z, nor an ascii .ply file: {str(error)[:60]}") from None


def _ordered(points: np.ndarray) -> np.ndarray:
    """Points along Morton's curve, on which neighbours in the list are neighbours in space."""
    low, high = points.min(0), points.max(0)
    cell = ((points - low) / max((high - low).max(), 1e-12) * 1023).astype(np.int64)
    code = sum(
        ((cell[:, axis] >> bit) & 1) << (3 * bit + axis) for bit in range(10) for axis in range(3)
    )
    return points[np.argsort(code, kind="stable")].astype(np.float32)
