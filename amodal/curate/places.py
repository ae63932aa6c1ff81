"""Draw places for a dataset of the earth: around cities, none upon another.

Wang et al. 2023, SSL4EO-S12, arXiv:2211.07044: a city is drawn, then an offset of a Gaussian of 50
km; a place that overlaps an earlier one is drawn anew. Places are looked for in a grid of cubes
about the globe, so that a draw costs the same however many there are.

The authors' offset has one deviation in degrees of latitude and of longitude, so that its width on
the ground shrinks with the cosine of the latitude, their grid of degrees misses overlaps across its
lines, and a place may lie closer than a side. Here the deviation is in kilometres on the ground and
no two squares overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import numpy as np

from amodal.core import AmodalError

RADIUS = 6371.0
"""Kilometres, of the earth."""
TRIES = 200
"""Draws for each place at most."""


class PlaceIndex:
    """Squares on the ground, looked up by the cubes of a grid about the globe.

    Args:
        side: of a square in kilometres.
    """

    def __init__(self, side: float) -> None:
        self.side = side
        self.cells: dict[tuple[int, int, int], list[tuple[float, float]]] = defaultdict(list)

    def overlaps(self, latitude: float, longitude: float) -> bool:
        """Whether the square about a place shares ground with one that was added."""
        return any(
            max(map(abs, offset(one, (latitude, longitude)))) < self.side
            for one in self._near(latitude, longitude)
        )

    def add(self, latitude: float, longitude: float) -> None:
        """Put a square there."""
        self.cells[self._cell(latitude, longitude)].append((latitude, longitude))

    def _near(self, latitude: float, longitude: float) -> Iterator[tuple[float, float]]:
        middle = self._cell(latitude, longitude)
        for step in product((-1, 0, 1), repeat=3):
            cell = (middle[0] + step[0], middle[1] + step[1], middle[2] + step[2])
            yield from self.cells.get(cell, ())

    def _cell(self, latitude: float, longitude: float) -> tuple[int, int, int]:
        # corners of overlapping squares are a diagonal apart, so that a cube is that long
        x, y, z = np.floor(on_globe(latitude, longitude) / (self.side * 2**0.5)).astype(int)
        return int(x), int(y), int(z)


def on_globe(latitude: float, longitude: float) -> np.ndarray:
    """(3,) kilometres from the middle of the earth."""
    a, b = np.radians(latitude), np.radians(longitude)
    return RADIUS * np.array([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)])


def offset(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Kilometres north and east from one (latitude, longitude) to another one nearby."""
    north = np.radians(second[0] - first[0]) * RADIUS
    turn = (second[1] - first[1] + 180) % 360 - 180  # across the date line
    east = np.radians(turn) * RADIUS * np.cos(np.radians((first[0] + second[0]) / 2))
    return float(north), float(east)


def draw_places(
    centres: np.ndarray,
    count: int,
    *,
    deviation: float = 50.0,
    side: float = 2.64,
    existing: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw places around centres.

    Args:
        centres: (N, 2) latitude and longitude in degrees.
        count: places to draw.
        deviation: of the Gaussian to the north and to the east, in kilometres.
        side: of the square of a place, in kilometres; 2.64 is 264 pixels of 10 m.
        existing: (M, 2) places that are taken.
        seed: of the draws.

    Returns:
        (count, 2) latitude and longitude, and (count,) the number of the centre of each.

    Raises:
        AmodalError: a number is out of range, or there is no room for so many.
    """
    centres = np.asarray(centres, dtype=np.float64)
    check_degrees(centres, "centres")
    for name, value in (("count", count), ("deviation", deviation), ("side", side)):
        if not 0 < value < np.inf:
            raise AmodalError(f"{name} must be a number above 0, got {value}")
    if seed < 0:
        raise AmodalError(f"seed must be 0 or more, got {seed}")
    index = PlaceIndex(side)
    if existing is not None and len(existing):
        check_degrees(np.asarray(existing), "places that are there")
        for latitude, longitude in np.asarray(existing, dtype=np.float64).tolist():
            index.add(latitude, longitude)
    rng = np.random.default_rng(seed)
    places, sources = np.empty((count, 2)), np.empty(count, dtype=np.int64)
    for n in range(count):
        for _ in range(TRIES):
            centre = int(rng.integers(len(centres)))
            latitude, longitude = moved(centres[centre], rng.normal(0, deviation, 2))
            if not index.overlaps(latitude, longitude):
                break
        else:
            raise AmodalError(
                f"there is room for {n:,} of {count:,} places of {side:g} km around "
                f"{len(centres):,} centres: the last {TRIES} draws overlap others. Bring more "
                "centres, or ask for fewer places, a smaller side or a larger deviation."
            )
        index.add(latitude, longitude)
        places[n], sources[n] = (latitude, longitude), centre
    return places, sources


def moved(centre: np.ndarray, kilometres: np.ndarray) -> tuple[float, float]:
    """A place so many kilometres north and east of another, along great circles."""
    north, east = (kilometres / RADIUS).tolist()
    distance = float(np.hypot(north, east))
    if distance == 0:
        return float(centre[0]), float(centre[1])
    a, heading = np.radians(centre[0]), np.arctan2(east, north)
    sine = np.sin(a) * np.cos(distance) + np.cos(a) * np.sin(distance) * np.cos(heading)
    latitude = np.arcsin(np.clip(sine, -1, 1))
    turn = np.arctan2(
        np.sin(heading) * np.sin(distance) * np.cos(a),
        np.cos(distance) - np.sin(a) * np.sin(latitude),
    )
    longitude = (centre[1] + np.degrees(turn) + 180) % 360 - 180
    return float(np.degrees(latitude)), float(longitude)


def check_degrees(places: np.ndarray, what: str) -> None:
    """Raise AmodalError unless these are (N, 2) latitudes and longitudes of at least one place."""
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise AmodalError(
            f"{what} are (N, 2) latitudes and longitudes, not an array of shape {places.shape}"
        )
    latitude, longitude = np.abs(places).max(0)
    if not (latitude <= 90 and longitude <= 360):
        raise AmodalError(
            f"{what} have a latitude of {latitude:g} and a longitude of {longitude:g}; expected "
            "degrees up to 90 and 180, latitude first"
        )
