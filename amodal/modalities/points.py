"""Clouds of points, from scanners or from the surfaces of meshes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged, unknown
from amodal.modalities.shared import points_files as _files
from amodal.modalities.shared import points_groups as _groups
from amodal.modalities.shared import points_shape as _shape
from amodal.modalities.shared import points_values as _values
from amodal.modalities.shared import points_views as _views
from amodal.modalities.shared import simple as _simple
from amodal.modalities.shared.base import (
    FILE,
    Attribute,
    Modality,
    Raw,
    Schema,
    at_most,
    build,
    check_view,
    decodable,
    format_range,
    from_json,
    read_each,
)
from amodal.modalities.shared.cells import moments, tidy
from amodal.modalities.shared.tokenizers.points import PointsGraph, PointsTokenizer

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

SCALES = ("sphere", "metres")
UP = ("z", "y", "x", "")


@dataclass(frozen=True)
class Points(Modality):
    """A cloud of points; a mesh becomes points of its surface, each area with its share of them.

    A value is (n, 3 + C) float32: x, y and z in metres (the units of the file) from the mean of the
    points, then channels, NaN where missing. n is at most `POOL` times `points`, of which a batch
    takes `points`: always the same ones of a plain view, others in every other view. Points stand
    in an order of their own, so that that of the file changes nothing.

    A token is a group of neighbours about a centre, see `points_groups`; its position is that
    centre. Groups overlap, as in Point-MAE, so that what is seen knows the borders of what is
    hidden.

    Attributes:
        channels: names of the numbers of a point beside its place.
        points: of a cloud at most.
        groups: tokens of a cloud at most; small ones have fewer.
        neighbours: points of a group.
        scale: "sphere": a cloud is divided by its radius, as the field does, and each token sees
            the logarithm of that radius beside; "metres": all clouds are divided by `radius`, so
            that lengths can be compared.
        up: the axis that is vertical, about which views are turned; "" turns nothing.
        radius: metres, the median radius of clouds, measured by `infer`; 0 if unknown.
        spread: radii, how far the points of a group are from its centre, measured by `infer`.
        mean, std: of each channel, measured by `infer`.
    """

    channels: tuple[str, ...] = ()
    points: int = 1024
    groups: int = 64
    neighbours: int = 32
    scale: str = "sphere"
    up: str = "z"
    radius: float = 0.0
    spread: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    simple_name: ClassVar[str] = "statistics of shapes"
    suffixes: ClassVar[frozenset[str]] = frozenset(
        {".ply", ".xyz", ".pts", ".las", ".laz", ".obj", ".stl", ".off", ".glb"}
    )
    magic: ClassVar[tuple[bytes, ...]] = (b"ply\n", b"ply\r", b"LASF", b"glTF", b"OFF\n", b"OFF\r")
    placeholder: ClassVar[str] = "[[x, y, z], …]"
    accepts: ClassVar[str] = ".ply,.xyz,.las,.laz,.obj,.stl,.off,.glb"
    example_tokens: ClassVar[int] = 64
    axis_names: ClassVar[Mapping[int, str]] = {0: "x", 1: "y", 2: "z"}

    def __post_init__(self) -> None:
        for name in self.channels:
            if name not in _files.ATTRIBUTES:
                raise unknown("channel of points", name, _files.ATTRIBUTES)
        if len(set(self.channels)) < len(self.channels):
            raise AmodalError(f"points.channels are different names, not {list(self.channels)}")
        for group in (_files.COLOUR, _files.NORMAL):
            if 0 < len(set(group) & set(self.channels)) < 3:
                raise AmodalError(
                    f"points.channels has all or none of {', '.join(group)}, and it is "
                    f"{list(self.channels)}"
                )
        if self.scale not in SCALES:
            raise unknown("points.scale", self.scale, SCALES)
        if self.up not in UP:
            raise unknown("points.up", self.up, UP)
        if min(self.points, self.groups, self.neighbours) < 1 or min(self.radius, self.spread) < 0:
            raise AmodalError(
                "points, groups and neighbours are at least 1, radius and spread at least 0; got "
                f"{self.points}, {self.groups}, {self.neighbours}, {self.radius} and {self.spread}"
            )
        limits = {"points": (self.points, 2**18), "groups": (self.groups, 2**14)}
        at_most("points", limits | {"neighbours": (self.neighbours, 1024)})
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, len(self.channels)):
                raise AmodalError(
                    f"points.{name} has {len(getattr(self, name))} numbers for "
                    f"{len(self.channels)} channels"
                )

    @property
    def suits_small_networks(self) -> bool:
        """See `Modality.suits_small_networks`: none reads groups of points."""
        return False

    @property
    def vertical(self) -> str:
        """The axis of heights; z where none is known."""
        return self.up or "z"

    @property
    def below_zero(self) -> bool:
        """See `AboutCentre`: places in metres may be farther from the middle than `radius`."""
        return self.scale == "metres"

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides: Any) -> Points:
        """See `Modality.infer`.

        channels: those that all samples have. up: y where most are OBJ or glTF, else z. radius,
        spread, mean and std: measured.
        """
        clouds = read_each(samples, _files.read)
        shared = frozenset.intersection(*(cloud.names for cloud in clouds))
        upward = Counter("y" if cloud.y_up else "z" for cloud in clouds).most_common(1)
        measured: dict[str, Any] = {
            "channels": tuple(n for n in _files.ATTRIBUTES if n in shared),
            "up": upward[0][0],
        }
        del clouds
        made = build(cls, measured | overrides)
        values = decodable(made, samples)
        radii = [r for value in values if (r := _shape.radius(value))]
        made = replace(made, radius=made.radius or (tidy(float(np.median(radii))) if radii else 0))
        made = replace(made, spread=made.spread or _values.spread(values, made))
        mean, std = moments(np.concatenate([value[:, 3:] for value in values]))
        # normals keep their length, as views turn them
        known = [(n in _files.NORMAL, m, s) for n, m, s in zip(made.channels, mean, std)]
        return replace(
            made,
            mean=made.mean or tuple(0.0 if normal else m for normal, m, _ in known),
            std=made.std or tuple(1.0 if normal else s for normal, _, s in known),
        )

    def decode(self, raw: Raw) -> np.ndarray:
        """(n, 3 + C) float32 from a file (path or bytes), an array (n, 3 or more), lists of
        these, or {"points": array, "intensity": numbers, …}. Absent channels are missing."""
        return _values.decoded(_files.read(raw), self.channels, self.points)

    def place_points(self, raw: Raw | None) -> _values.Placed:
        """See `HasPoints`."""
        return _values.placed(raw, self)

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """See `Modality.augment`.

        All: points drawn anew from the value, turned by any angle about the vertical, each axis of
        another length, each point moved a little. weak: lengths change by 10 %. strong: by up to a
        half, of 50-100 % of the cloud, without up to half of its points. local: as strong, of
        15-40 % of the cloud, with all of their points.
        """
        check_view(view, self.views)
        if view == "plain":
            return value
        return _views.view_of(value, view, self.points, self.up, self.channels, rng)

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel; 0 and 1 where not measured."""
        count = len(self.channels)
        return self.mean or (0.0,) * count, self.std or (1.0,) * count

    def collate(self, values: Sequence[np.ndarray]) -> Ragged:
        """Lists of groups with their positions; see `points_groups`."""
        return _groups.groups_of(values, self)

    def tokenizer(self, width: int) -> PointsTokenizer:
        return PointsTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> nn.Module:
        return PointsGraph(cast(PointsTokenizer, tokenizer))

    def targets(self, values: Ragged) -> Tensor:
        """(T, neighbours * 3) relative places of a group's points in `spread`, the nearest to the
        centre first, so that they are those of a set; NaN past the last."""
        content: Tensor = values.flat[:, _groups.PLACE :].unflatten(1, (self.neighbours, -1))
        return content[..., :3].flatten(1)

    def predictor(self, width: int) -> nn.Linear:
        return nn.Linear(width, self.neighbours * 3)

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) Chamfer distance of the predicted and the true group, in squares of `spread`."""
        from amodal.objectives.chamfer import chamfer

        of_sets = (x.unflatten(1, (self.neighbours, 3)) for x in (prediction, target))
        loss: Tensor = chamfer(*of_sets)
        return loss

    def show(self, value: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8: seen from above and the side, in its colours or by height."""
        return _shape.picture(value, self.channels, self.vertical)

    def describe(self, value: np.ndarray) -> str:
        sides = " x ".join(f"{side:.3g}" for side in _shape.extents(value))
        plural = "s" * (len(value) > 1)
        return f"{len(value):,} point{plural}, {sides} m" + _values.names_of(self.channels)

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        counts, meshes, unmeasured = _values.counts(raws)
        words = "points or corners" if meshes else "points"
        parts = [format_range(counts, words)] if counts else []
        if meshes:
            parts.append(f"{meshes:.0%} meshes")
        if unmeasured:
            parts.append(f"{unmeasured:.1%} of points at (0, 0, 0) left out")
        longest = [max(_shape.extents(value)) for value in values]
        if longest:
            low, high = f"{min(longest):.3g}", f"{max(longest):.3g}"
            parts.append(f"{low} … {high} m long" if low != high else f"{low} m long")
        return ", ".join(parts) + _values.names_of(self.channels)

    def comment(self, raws: Sequence[Raw]) -> str:
        return (
            f"up: {self.up or 'none'}, see a picture of one; scale: {self.scale}; "
            f"{self.groups} tokens of {self.neighbours} points, of {self.points} at most"
        )

    def mismatch(self, trained: Modality) -> str:
        """Another vertical, or lengths of another unit."""
        if not isinstance(trained, Points):
            return ""
        if self.up and trained.up and self.up != trained.up:
            return f"{self.up} as its vertical (up), and the run was trained on {trained.up}"
        if not self.radius or not trained.radius:
            return ""
        ratio = self.radius / trained.radius
        if 0.05 < ratio < 20:
            return ""
        return (
            f"clouds of {self.radius:.3g} m about their middle, and the run was trained on "
            f"{trained.radius:.3g} m: one of them may be in other units"
        )

    def attributes(self) -> dict[str, Attribute]:
        found = {"points": Attribute("number", lambda value: float(len(value)))}
        for axis, name in enumerate(_shape.AXES):
            found[f"extent {name}"] = Attribute("number", partial(_shape.extent, axis=axis))
        means = {
            f"mean {name}": Attribute("number", partial(_values.mean, column=3 + i))
            for i, name in enumerate(self.channels)
            if name not in _files.NORMAL
        }
        return found | {"radius": Attribute("number", _shape.radius)} | means

    def simple_groups(self, raws: Sequence[Raw]) -> list[_simple.Array]:
        """Extents, eigenvalues, histograms of distances and heights: see
        `points_shape.statistics`."""
        return _shape.statistics(self.decode_all(raws), self.vertical)

    def queries(self, value: Any) -> list[Raw]:
        value = from_json(value)
        # the points of one cloud are one value
        rows = isinstance(value, (list, tuple)) and value and not isinstance(value[0], str)
        return [value] if rows and np.ndim(value[0]) == 1 else super().queries(value)

    def json_schema(self, limits: Limits) -> Schema:
        return _values.SCHEMA | {"anyOf": [*_values.SCHEMA["anyOf"], FILE]}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        """See `Modality.bounds`: JSON, or the bytes of a file, by what its header declares."""
        return _values.checked(raw, limits)

    def parts(self, value: np.ndarray) -> np.ndarray:
        """(n,): the nearest of the centres of groups that do not overlap."""
        return _values.regions(value, self)

    def deviation(self, value: np.ndarray) -> np.ndarray:
        size = self.radius or _shape.radius(value)
        return np.array((size / math.sqrt(3) / 2,) * 3 + tuple(self.moments()[1]))

    @classmethod
    def example(
        cls, tokens: int, rng: np.random.Generator
    ) -> tuple[Points, Callable[[], np.ndarray]]:
        made = cls()
        count = tokens * made.neighbours // 2
        made = replace(made, groups=tokens, points=max(count, 1))
        return made, lambda: rng.standard_normal((count, 3), dtype=np.float32)
