"""What a map shows: similarity to texts, segments, change, or classes that were learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Tokens
from amodal.core.protocols import Segments
from amodal.stats.kmeans import kmeans

MAX_FITTED = 1000
"""Records by which segments and scales are fitted."""
MAX_PATCHES = 20_000
"""Patches of these."""
MAX_LAYERS = 250
"""A label map has a byte a pixel, and 255 is unknown."""
COLOURS = 3
"""Principal components that become red, green and blue."""


class Mode(Protocol):
    """Layers of values at the places of a picture, of which one is chosen at each place.

    Attributes:
        kind: "queries", "segments", "change" or "classes".
        layers: Their names. With one layer a threshold divides it.
        colours: Whether `COLOURS` more layers follow, of principal components.
        folder: Of the pictures of single layers.
    """

    @property
    def kind(self) -> str: ...
    @property
    def layers(self) -> tuple[str, ...]: ...
    @property
    def colours(self) -> bool: ...
    @property
    def folder(self) -> str: ...

    def values(self, grids: tuple[Tensor, ...]) -> np.ndarray:
        """Grids (rows, columns, D) of the views of an item -> (C, rows, columns) float32."""


@dataclass(frozen=True)
class QueryMode:
    """Cosines of patches with texts.

    Args:
        layers: The queries.
        query_KE: Unit vectors.
        absolute: Whether the sign of a cosine means nothing.
    """

    layers: tuple[str, ...]
    query_KE: Tensor
    absolute: bool = False
    kind: str = "queries"
    colours: bool = False
    folder: str = "similarity"

    def values(self, grids: tuple[Tensor, ...]) -> np.ndarray:
        """See `Mode.values`."""
        cosine = grids[0] @ self.query_KE.T
        return _layers_first(cosine.abs() if self.absolute else cosine)


@dataclass(frozen=True)
class SegmentMode:
    """Minus the squared distance of patches to centres, and their principal components.

    Args:
        mean_D: Of patches; directions from it are clustered.
        centre_KD: Of the clusters.
        axis_D3: Principal components.
        layers: Names of the segments.
    """

    mean_D: Tensor
    centre_KD: Tensor
    axis_D3: Tensor
    layers: tuple[str, ...]
    kind: str = "segments"
    colours: bool = True
    folder: str = "components"

    def values(self, grids: tuple[Tensor, ...]) -> np.ndarray:
        """See `Mode.values`."""
        x = grids[0] - self.mean_D
        unit = normalize(x, dim=2)
        square = 1 - 2 * unit @ self.centre_KD.T + self.centre_KD.square().sum(1)
        return _layers_first(torch.cat([-square, x @ self.axis_D3], 2))


@dataclass(frozen=True)
class ChangeMode:
    """The distance between two pictures' patches of one place.

    From the differences of a pair their median over places is taken off, in each dimension: light
    and season change all patches, and patches that have seen the whole picture all know of a change
    in one place.

    Args:
        scale_D: Standard deviation of each dimension over patches, in which distances are measured.
    """

    scale_D: Tensor
    layers: tuple[str, ...] = ("changed",)
    kind: str = "change"
    colours: bool = False
    folder: str = "distance"

    def values(self, grids: tuple[Tensor, ...]) -> np.ndarray:
        """See `Mode.values`."""
        before, after = grids
        if before.shape != after.shape:
            raise AmodalError(
                "pixels of one place are compared, and two pictures of a place have grids of "
                f"{before.shape[0]} x {before.shape[1]} and {after.shape[0]} x {after.shape[1]} "
                "patches"
            )
        difference = (after - before) / self.scale_D
        difference = difference - difference.flatten(0, 1).median(0).values
        return _layers_first(difference.square().mean(2, keepdim=True).sqrt())


@dataclass(frozen=True)
class ClassMode:
    """Probabilities of classes that a method has learnt."""

    layers: tuple[str, ...]
    kind: str = "classes"
    colours: bool = False
    folder: str = "probability"

    def values(self, grids: tuple[Tensor, ...]) -> np.ndarray:
        """See `Mode.values`."""
        return _layers_first(grids[0])


def _layers_first(x_RCK: Tensor) -> np.ndarray:
    out: np.ndarray = x_RCK.permute(2, 0, 1).contiguous().numpy().astype(np.float32)
    return out


def fit_segments(x_TD: Tensor, number: int, seed: int) -> dict[str, np.ndarray]:
    """K-means of the directions of patches from their mean, and their principal components.

    Args:
        x_TD: Patches of a sample of records.
        number: K.
        seed: Of k-means.

    Returns:
        The arrays of a `SegmentMode`.

    Raises:
        AmodalError: For patches that are all the same, or not finite.
    """
    mean = x_TD.mean(0)
    centred = x_TD - mean
    if not torch.isfinite(centred).all():
        raise AmodalError("features of patches are not finite: the run has diverged")
    if float(centred.abs().max()) < 1e-6:
        raise AmodalError("the features of all patches are the same: there is nothing to divide")
    centres = kmeans(normalize(centred, dim=1), number, seed=seed)[1].float()
    _, axes = torch.linalg.eigh((centred.T @ centred).double())
    axis = axes.flip(1)[:, :COLOURS].float()
    axis = torch.nn.functional.pad(axis, (0, COLOURS - axis.shape[1]))
    tensors = {"mean_D": mean, "centre_KD": centres, "axis_D3": axis}
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def fit_change(x_TD: Tensor) -> dict[str, np.ndarray]:
    """The scale of each dimension.

    Args:
        x_TD: Patches of both pictures of a sample.

    Returns:
        The array of a `ChangeMode`.

    Raises:
        AmodalError: For patches that are all the same, or not finite.
    """
    if not torch.isfinite(x_TD).all():
        raise AmodalError("features of patches are not finite: the run has diverged")
    scale = x_TD.std(0)
    if float(scale.max()) < 1e-6:
        raise AmodalError("the features of all patches are the same: there is nothing to compare")
    # dimensions that hardly vary would blow up what they have of noise
    floor = float(scale.median()) / 10 + 1e-12
    return {"scale_D": scale.clamp_min(floor).numpy()}


def class_tokens(method: Segments, batch: Batch) -> Tokens:
    """Probabilities of places as tokens.

    Args:
        method: Has learnt classes of places.
        batch: With its fields.
    """
    column = method.class_maps(batch)
    x_NKRC = column.flat
    count, _, rows, columns = x_NKRC.shape
    y, x = torch.arange(rows), torch.arange(columns)
    place = torch.cartesian_prod(torch.zeros(1, dtype=torch.int64), y, x).float()
    return Tokens.of(
        x_NKRC.permute(0, 2, 3, 1).flatten(0, 2),
        column.rows,
        torch.full((count,), rows * columns, device=column.rows.device),
        place.repeat(count, 1).to(x_NKRC.device),
        "classes",
        batch.size,
    )
