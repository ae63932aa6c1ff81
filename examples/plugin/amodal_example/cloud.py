"""Point clouds of one sensor's files: the modality `cloud`.

Tokens are neighbouring points, found along a space-filling curve. amodal's own `points` are groups
about centres; this one shows how little a modality of one's own needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Ragged
from amodal.modalities import BadValue, Raw
from amodal.modalities.shared import files, ragged, requests
from amodal.modalities.shared.base import (
    FILE,
    Attribute,
    Schema,
    at_most,
    build,
    check_view,
    decodable,
)
from amodal.modalities.shared.vectors import VectorTokens


@dataclass(frozen=True)
class Cloud(VectorTokens):
    """A value is (n, 3) float32: points around their centre, neighbours beside each other.

    max_points: as many are drawn from larger clouds, evenly; patch: points in a token;
    size: the usual distance of a point from the centre, measured by `infer`.
    """

    max_points: int = 1024
    patch: int = 16
    size: float = 1.0

    suffixes: ClassVar[frozenset[str]] = frozenset({".pcd", ".npy"})
    magic: ClassVar[tuple[bytes, ...]] = (b"# .PCD v",)
    position_unit: ClassVar[float] = 4.0

    def __post_init__(self):
        if self.max_points < 1 or self.patch < 1 or not self.size > 0:
            raise AmodalError("a cloud needs max_points and patch of at least 1 and a size above 0")
        at_most("cloud", {"max_points": (self.max_points, 2**20), "patch": (self.patch, 4096)})

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides) -> "Cloud":
        cloud = build(cls, overrides)
        values = decodable(cloud, samples)
        patch = max(1, -(-int(np.median([len(v) for v in values])) // 32))  # about 32 tokens
        size = float(f"{np.sqrt(np.concatenate([(v**2).sum(1) for v in values]).mean()):.6g}")
        return build(cls, {"patch": patch, "size": size or 1.0} | overrides)

    def decode(self, raw: Raw) -> np.ndarray:
        xyz = files.read_numbers(raw, _from_text)
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

    @property
    def token_size(self) -> int:
        return 3 * self.patch

    def vectors(self, clouds: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """Points around the centre of their token, in units of `size`; the centres."""
        scaled = Ragged(clouds.flat / self.size, clouds.lengths)
        points_TP3, counts_N = ragged.patches(scaled, self.patch, torch.nan)
        centre_T3 = points_TP3.nanmean(1)
        return (points_TP3 - centre_T3[:, None]).flatten(1), centre_T3, counts_N

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

    def simple_groups(self, raws: Sequence[Raw]) -> list[np.ndarray]:
        """How far the points reach along their principal axes."""
        values = self.decode_all(raws)
        return [np.array([np.linalg.svd(v, compute_uv=False) / len(v) ** 0.5 for v in values])]

    def json_schema(self, limits: requests.Limits) -> Schema:
        point = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
        return {"anyOf": [{"type": "array", "items": point, "minItems": 1}, FILE]}

    def bounds(self, raw: Any, limits: requests.Limits) -> Raw:
        return requests.numbers_of(raw, limits)

    def deviation(self, value: np.ndarray) -> np.ndarray:
        return np.full(1, self.size / 3**0.5)


def _from_text(data: bytes) -> np.ndarray:
    """Lines of x, y, z and more, behind the header of a .pcd file where there is one."""
    try:
        text = data.decode("ascii").replace("\r\n", "\n")
        head, mark, body = text.partition("DATA ascii\n")
        lines = (body if mark else head).split("\n")
        words = map(str.split, head.split("\n") if mark else [])
        count = next((int(w[1]) for w in words if w[:1] == ["POINTS"]), None)
        return np.array(
            [line.replace(",", " ").split()[:3] for line in lines if line.strip()][:count],
            dtype=float,
        )
    except (ValueError, IndexError) as error:
        raise BadValue(f"no lines of x, y, z, nor an ascii .pcd file: {str(error)[:60]}") from None


def _ordered(points: np.ndarray) -> np.ndarray:
    """Points along Morton's curve, on which neighbours in the list are neighbours in space."""
    low, high = points.min(0), points.max(0)
    cell = ((points - low) / max((high - low).max(), 1e-12) * 1023).astype(np.int64)
    code = sum(
        ((cell[:, axis] >> bit) & 1) << (3 * bit + axis) for bit in range(10) for axis in range(3)
    )
    return points[np.argsort(code, kind="stable")].astype(np.float32)
