"""Similarity transforms: rotation, scale and translation that map points of an object's own space
to where a camera sees them.

Closed form: Umeyama 1991, IEEE TPAMI 13(4). With wrong pairs among them: RANSAC, Fischler and
Bolles 1981. Two sets of points that filter each other: the bidirectional filter of UDA-COPE, Lee et
al. 2022, arXiv:2111.12580. All for N objects of up to P points at once.

Ours: many objects at once, on any device. scikit-image's `SimilarityTransform` and `ransac` take
one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.masking.hashing import uniform

MIN_POINTS = 4
"""Below which nothing is fitted."""


@dataclass(frozen=True)
class Similarity:
    """y = scale * rotation x + shift.

    Args:
        scale: (...)
        rotation: (..., 3, 3)
        shift: (..., 3)
    """

    scale: Tensor
    rotation: Tensor
    shift: Tensor

    def __call__(self, x_P3: Tensor) -> Tensor:
        """Map points of the object's space to the camera's, (..., P, 3)."""
        return self.scale[..., None, None] * x_P3 @ self.rotation.mT + self.shift[..., None, :]

    def inverse(self, y_P3: Tensor) -> Tensor:
        """Map points of the camera's space to the object's, (..., P, 3)."""
        return (y_P3 - self.shift[..., None, :]) @ self.rotation / self.scale[..., None, None]

    def where(self, mask: Tensor, other: Similarity) -> Similarity:
        """This transform where mask (...,) is true, else the other."""
        pairs = zip(
            (self.scale, self.rotation, self.shift), (other.scale, other.rotation, other.shift)
        )
        return Similarity(
            *(
                torch.where(mask.view(*mask.shape, *[1] * (a.dim() - mask.dim())), a, b)
                for a, b in pairs
            )
        )


def umeyama(x_P3: Tensor, y_P3: Tensor, weight_P: Tensor) -> Similarity:
    """The similarity of least squared error, never a reflection. All in float64.

    Points that coincide, or no weight at all, give a scale of 1e-9 at least and some rotation.

    Args:
        x_P3: (..., P, 3) points.
        y_P3: Where they should go.
        weight_P: (..., P) >= 0.
    """
    x, y, w = x_P3.double(), y_P3.double(), weight_P.double()
    w = (w / w.sum(-1, keepdim=True).clamp(min=1e-12))[..., None]
    mean_x, mean_y = (w * x).sum(-2), (w * y).sum(-2)
    dx, dy = x - mean_x[..., None, :], y - mean_y[..., None, :]
    u, d, vh = torch.linalg.svd((w * dy).mT @ dx)
    sign = torch.ones_like(d)
    # where the best orthogonal map is a reflection, the direction of least weight is turned round
    # (Umeyama's eq. 39 and 43)
    sign[..., 2] = torch.where(torch.linalg.det(u @ vh) < 0, -1.0, 1.0)
    rotation = u * sign[..., None, :] @ vh
    scale = ((d * sign).sum(-1) / (w * dx.square()).sum((-1, -2)).clamp(min=1e-12)).clamp(min=1e-9)
    return Similarity(
        scale, rotation, mean_y - scale[..., None] * (rotation @ mean_x[..., None])[..., 0]
    )


def ransac(
    x_NP3: Tensor,
    y_NP3: Tensor,
    valid_NP: Tensor,
    seeds_N: Tensor,
    *,
    near: float,
    tries: int = 100,
    draws: int = 5,
) -> tuple[Similarity, Tensor]:
    """The similarity that most pairs agree with.

    Args:
        x_NP3: Points of the object's space.
        y_NP3: The same in the camera's space.
        valid_NP: bool, which pairs exist.
        seeds_N: Seeds of the rows.
        near: How far a pair may be off, in the object's space.
        tries: Fits to random pairs.
        draws: Pairs of each, drawn with replacement.

    Returns:
        The fit to all pairs that agree; (N, P) bool, which these are. Rows of fewer than 4 pairs
        are fitted to what they have, and none of theirs agrees.
    """
    n, p = valid_NP.shape
    x, y, count = x_NP3.double(), y_NP3.double(), valid_NP.sum(1)
    order = torch.argsort((~valid_NP).long(), dim=1, stable=True)  # valid ones first
    number = torch.arange(tries * draws, device=x.device)
    pick = (
        (uniform(seeds_N[:, None], number).double() * count[:, None])
        .long()
        .clamp(max=max(p - 1, 0))
    )
    pick = torch.gather(order, 1, pick)[..., None].expand(-1, -1, 3)
    some_x, some_y = (torch.gather(v, 1, pick).view(n, tries, draws, 3) for v in (x, y))
    fits = umeyama(some_x, some_y, torch.ones_like(some_x[..., 0]))
    agree = ((fits.inverse(y[:, None]) - x[:, None]).norm(dim=-1) <= near) & valid_NP[:, None]
    best = agree.sum(2).argmax(1)
    inside = agree[torch.arange(n, device=x.device), best] & (count >= MIN_POINTS)[:, None]
    enough = inside.sum(1) >= MIN_POINTS
    fit = umeyama(x, y, inside).where(enough, umeyama(x, y, valid_NP))
    return fit, inside & enough[:, None]


def bidirectional_filter(
    x_NP3: Tensor,
    y_NP3: Tensor,
    valid_NP: Tensor,
    seeds_N: Tensor,
    *,
    near: float,
    far: float,
    tries: int = 100,
    draws: int = 5,
) -> tuple[Similarity, Tensor]:
    """Fit a similarity to predicted coordinates x of points y that pass a check in both directions.

    Dropped are points farther than `near` from all coordinates, in the object's space (outliers of
    the sensor), and coordinates farther than `far` from all points (wrong predictions). The
    remaining pairs may still be wrong, so the last fit is one of `ransac` too.

    Args:
        x_NP3: Predicted coordinates in the object's space.
        y_NP3: Points in the camera's space.
        valid_NP: bool, which pairs exist.
        seeds_N: Seeds of the rows.
        near: In units of the object's space.
        far: In units of the object's space.
        tries: See `ransac`.
        draws: See `ransac`.

    Returns:
        The fit; (N, P) bool, the pairs that are left. Rows with fewer than 4 have none, and the
        first fit.
    """
    first, _ = ransac(x_NP3, y_NP3, valid_NP, seeds_N, near=near, tries=tries, draws=draws)
    distance = torch.cdist(
        first.inverse(y_NP3.double()), x_NP3.double()
    )  # (N, points, coordinates)
    absent = ~valid_NP
    of_points = distance.masked_fill(absent[:, None, :], torch.inf).amin(2)
    of_coordinates = distance.masked_fill(absent[:, :, None], torch.inf).amin(1)
    left = valid_NP & (of_points <= near) & (of_coordinates <= far)
    enough = left.sum(1) >= MIN_POINTS
    second, _ = ransac(x_NP3, y_NP3, left, seeds_N, near=near, tries=tries, draws=draws)
    return second.where(enough, first), left & enough[:, None]
