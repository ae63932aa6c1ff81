"""Batches of clouds: each is cut into groups of neighbours about centres far from each other.

As in Point-BERT (Yu et al., CVPR 2022, arXiv:2111.14819, section 3.1) and Point-MAE (Pang et al.,
ECCV 2022, arXiv:2203.06604, section 3.1). Everything here is a function of the points in their
canonical order, see `in_order`, so that no order of a file matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from amodal.core import Ragged

if TYPE_CHECKING:
    from amodal.modalities.points import Points

POSITION = 3
"""Numbers of the position of a token: x, y and z of its centre."""
PLACE = POSITION + 1
"""Numbers before the points of a group: its position, and the logarithm of the cloud's extent."""
STEPS = 8.0
"""Of position from the middle of a cloud to its border. Embeddings of positions are made for
counts of tokens, whose neighbours are about 1 apart; a power of 2, so that nothing is rounded."""
TINY = 1e-12
"""Squared distance, in radii, below which points are one."""
SPREAD = 0.2
"""Distance of a point from its centre, in radii, where it was not measured."""
EXTENTS = (1e-2, 1e2)
"""Of a cloud, in those of the field, from and to; beyond there is nothing to compare."""
MIX = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
"""Odd numbers of 64 bits."""


def in_order(points: np.ndarray, most: int) -> np.ndarray:
    """Which points are taken, in an order that does not depend on theirs.

    Args:
        points: (n, 3 or more) float64.
        most: points that are taken; of more those with the smallest hashes of their coordinates
            and of their number among the points at one place, so that neither the order of points
            nor the value of a coordinate matters, and a place has its share.

    Returns:
        (m,) int64, sorted by x, then y, z and the rest.
    """
    index = np.arange(len(points))
    if len(points) > most:
        place = _hashes(points[:, :3])
        order = np.argsort(place, kind="stable")
        first = np.ones(len(points), dtype=bool)
        first[1:] = np.diff(place[order]) > 0
        if not first.all():
            # equal rows may be exchanged; of others at one place the hash of all columns decides
            order = np.lexsort((_hashes(points), place))
        number = np.empty(len(points), dtype=np.uint64)
        number[order] = index - np.maximum.accumulate(np.where(first, index, 0))
        index = np.argpartition(_mixed(place, number), most - 1)[:most]
    chosen: np.ndarray = index[np.lexsort(points[index].T[::-1])]
    return chosen


def _hashes(columns: np.ndarray) -> np.ndarray:
    """(n,) uint64 of the rows of (n, C) float64; all NaN are one, and 0.0 and -0.0."""
    hashed = np.full(len(columns), MIX[1], dtype=np.uint64)
    for column in columns.T:
        bits = np.where(np.isnan(column), np.nan, column + 0.0).view(np.uint64)
        hashed = _mixed(hashed, bits)
    return hashed


def _mixed(hashed: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """(n,) uint64 of two; all bits of both move all bits, as in MurmurHash3's last step."""
    mixed: np.ndarray = hashed ^ bits
    mixed += np.uint64(MIX[0])  # or zero would stay zero
    for odd in MIX[1:]:
        mixed ^= mixed >> np.uint64(33)
        mixed *= np.uint64(odd)
    mixed ^= mixed >> np.uint64(33)
    return mixed


@lru_cache(maxsize=64)
def _subset(count: int, most: int) -> np.ndarray:
    """`most` of `count` indices, ascending; the same ones for the same numbers."""
    drawn = np.random.default_rng(count).permutation(count)[:most]
    return np.sort(drawn)


def thinned(value: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the points of a value, the same ones in every call."""
    return value[_subset(len(value), most)] if len(value) > most else value


def frame(value: np.ndarray, points: Points) -> tuple[np.ndarray, float]:
    """The centre of a value's points and the length that counts as 1.

    Args:
        value: (n, 3 + C), n >= 1.
        points: the field.

    Returns:
        (3,) float32 and the radius, in metres; 0 for one point, or points at one place.
    """
    if points.scale != "sphere":
        return np.zeros(3, dtype=np.float32), points.radius or 1.0
    xyz = value[:, :3].astype(np.float64)
    centre = xyz.mean(0).astype(np.float32)
    return centre, float(np.sqrt(np.square(xyz - centre).sum(1).max()))


def farthest(clouds: Sequence[np.ndarray], counts: Sequence[int]) -> list[np.ndarray]:
    """Farthest-point samples (Eldar et al. 1997), of all clouds together.

    The first is the point farthest from the mean; each further one is the farthest from all before.

    Args:
        clouds: N of (n, 3) float32, n >= 1.
        counts: points wanted of each; where fewer are apart, fewer are found.

    Returns:
        N of (up to count,) indices.
    """
    if not len(clouds):
        return []
    longest = max(map(len, clouds))
    x_3Nn = np.zeros((3, len(clouds), longest), dtype=np.float32)
    nearest = np.full((len(clouds), longest), -1.0, dtype=np.float32)  # what pads is never far
    first = np.zeros(len(clouds), dtype=np.int64)
    for i, cloud in enumerate(clouds):
        x_3Nn[:, i, : len(cloud)] = cloud.T
        nearest[i, : len(cloud)] = np.inf
        first[i] = np.square(cloud - cloud.mean(0, dtype=np.float64)).sum(1).argmax()
    row, current = np.arange(len(clouds)), first
    chosen, reach = [], []
    for _ in range(max(counts)):
        chosen.append(current)
        x, y, z = (axis - axis[row, current][:, None] for axis in x_3Nn)
        np.minimum(nearest, x * x + y * y + z * z, out=nearest)
        current = nearest.argmax(1)
        reach.append(nearest[row, current])
    index_NG, reach_NG = np.stack(chosen, 1), np.stack(reach, 1)
    # after g samples nothing is apart any more
    enough = 1 + (reach_NG > TINY).cumprod(1).sum(1)
    return [i[: min(c, e)] for i, c, e in zip(index_NG, counts, enough.tolist())]


def sizes(count: int, points: Points) -> tuple[int, int]:
    """Groups of a cloud, and points of a group.

    Groups cover each point about twice, as 64 groups of 32 do 1,024 points, so that small clouds
    have fewer groups. No group has more than half of a cloud that is more than one group: hiding it
    would hide nothing.

    Args:
        count: of the points.
        points: the field.
    """
    groups = min(points.groups, max(1, -(-2 * count // points.neighbours)))
    return groups, min(points.neighbours, count if groups == 1 else max(1, count // 2))


def groups_of(values: Sequence[np.ndarray], points: Points) -> Ragged:
    """A batch of clouds.

    Args:
        values: N of (n, 3 + C) float32, n >= 1; attributes may be NaN.
        points: the field.

    Returns:
        Ragged of N lists of groups (4 + k * (3 + C),): see `PLACE`; then the k points of a group,
        nearest to the centre first: relative coordinates in `Points.spread`, and standardised
        attributes. NaN past the last.
    """
    channels = 3 + len(points.channels)
    width = PLACE + points.neighbours * channels
    if not len(values):
        return Ragged(torch.zeros(0, width), torch.zeros(0, dtype=torch.int64))
    mean, std = (np.asarray(s, dtype=np.float32) for s in points.moments())
    clouds, rests, extents = [], [], []
    for value in values:
        thin = thinned(value, points.points)
        centre, radius = frame(thin, points)
        # 0.0 and -0.0 are one place
        clouds.append((thin[:, :3] - centre) / np.float32(radius or 1.0) + np.float32(0.0))
        rests.append((thin[:, 3:] - mean) / std)
        share = radius / (points.radius or radius or 1.0)
        extents.append(float(np.log(np.clip(share, *EXTENTS))))
    counts = [sizes(len(cloud), points) for cloud in clouds]
    centres = farthest(clouds, [groups for groups, _ in counts])
    made = [
        torch.from_numpy(_cut(cloud, rest, index, k, extent, points))
        for cloud, rest, index, (_, k), extent in zip(clouds, rests, centres, counts, extents)
    ]
    return Ragged.of(made)


def _cut(
    cloud: np.ndarray, rest: np.ndarray, index: np.ndarray, k: int, extent: float, points: Points
) -> np.ndarray:
    """(G, 4 + k * (3 + C)), the groups about some points, in order of their centres."""
    centres = cloud[index]
    centres = centres[np.lexsort(centres.T[::-1])]
    x, y, z = (c[:, None] - p for c, p in zip(centres.T, cloud.T))
    distance_Gn = x * x + y * y + z * z
    near = np.argpartition(distance_Gn, k - 1, axis=1)[:, :k]
    near.sort(1)  # points as near as each other stay in the order of the cloud
    by_distance = np.take_along_axis(distance_Gn, near, 1).argsort(1, kind="stable")
    near = np.take_along_axis(near, by_distance, 1)
    channels = 3 + rest.shape[1]
    made = np.full((len(centres), PLACE + points.neighbours * channels), np.nan, dtype=np.float32)
    made[:, :POSITION] = positions(centres)
    made[:, POSITION] = extent
    relative = (cloud[near] - centres[:, None]) / np.float32(points.spread or SPREAD)
    made[:, PLACE : PLACE + k * channels] = np.concatenate([relative, rest[near]], 2).reshape(
        len(centres), -1
    )
    return made


def positions(places: np.ndarray) -> np.ndarray:
    """Positions of tokens: coordinates in radii -> steps, of which the middle of a cloud is
    `STEPS`, so that none of a cloud in the unit sphere is negative."""
    out: np.ndarray = (places * np.float32(STEPS) + np.float32(STEPS)).astype(np.float32)
    return out
