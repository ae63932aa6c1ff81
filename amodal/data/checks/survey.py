"""One pass over the pixels of some records: what each field holds, and how fields lie to each
other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from amodal.core import AmodalError
from amodal.data.checks.report import (
    LEAST_RECORDS,
    RECORD_DISTINCT,
    SHIFTED,
    Misregistration,
)
from amodal.data.dataset import Dataset
from amodal.data.remote import Unreachable
from amodal.modalities import BadValue
from amodal.modalities.shared.protocols import Surveys
from amodal.modalities.shared.raster_values import Stack
from amodal.stats.registration import cross_spectrum, edges, mean_shift, resampled, shift_of

LONGEST = 128
"""Pixels of a side, from the middle, that are compared of larger pictures."""
OFF = SHIFTED + 0.5
"""Pixels that a single record is off: its own estimate is less sure than that of all."""


@dataclass
class FieldSurvey:
    """What the values of a field hold.

    Attributes:
        bands, resolutions, systems: text of what a value has -> keys of those records.
        unordered: keys of values whose dates are not in order.
        undated: keys of values of more than one date that do not say which.
        missing: of each value, the share of missing pixels by date.
        zeros, pixels: pixels that are 0 in every band, and all.
        unreadable: key -> why.
    """

    bands: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    resolutions: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    systems: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unordered: list[str] = field(default_factory=list)
    undated: list[str] = field(default_factory=list)
    missing: list[np.ndarray] = field(default_factory=list)
    zeros: int = 0
    pixels: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def zero(self) -> float:
        """Share of the pixels that are 0 in every band."""
        return self.zeros / max(self.pixels, 1)

    def add(self, key: str, stack: Stack) -> None:
        """Count a value."""
        names = [band or f"no name {i + 1}" for i, band in enumerate(stack.bands)]
        self.bands[", ".join(names)].append(key)
        self.resolutions[f"{stack.resolution:.4g} m" if stack.resolution else ""].append(key)
        self.systems[stack.place[0]].append(key)
        months = np.asarray(stack.months, dtype=float)
        if len(months) > 1:
            known = months[np.isfinite(months)]
            if (np.diff(known) < 0).any():
                self.unordered.append(key)
            if len(known) < len(months):
                self.undated.append(key)
        absent = ~np.isfinite(stack.pixels)
        self.missing.append(absent.mean((1, 2, 3)))
        if stack.pixels.shape[1] > 1:  # zero of a single band is a value as others are
            self.zeros += int((stack.pixels == 0).all(1).sum())
            self.pixels += int(stack.pixels[:, 0].size)


@dataclass
class PairSurvey:
    """The spectra of the records that have two fields.

    Attributes:
        spectra: key -> of a record, see `cross_spectrum`.
        flat: keys of records that show too little.
        other: key -> why the fields of a record have no grid in common.
        metres: of the coarser pixels.
    """

    spectra: dict[str, np.ndarray] = field(default_factory=dict)
    flat: list[str] = field(default_factory=list)
    other: dict[str, str] = field(default_factory=dict)
    metres: list[float] = field(default_factory=list)

    def add(self, key: str, first: Stack, second: Stack) -> None:
        """Compare the two values of a record."""
        try:
            one, two, metres = on_one_grid(first, second)
        except BadValue as error:
            self.other[key] = str(error)
            return
        strengths = edges(_middle(one)), edges(_middle(two))
        if strengths[0] is None or strengths[1] is None:
            self.flat.append(key)
            return
        self.spectra[key] = cross_spectrum(strengths[0], strengths[1])
        self.metres.append(metres)

    def result(self, names: tuple[str, str], rng: np.random.Generator) -> Misregistration:
        """The shift of all records together."""
        other = len(self.other), next(iter(self.other.values()), "")
        shapes = Counter(spectrum.shape for spectrum in self.spectra.values())
        shape = max(shapes, key=lambda s: shapes[s]) if shapes else ()
        same = {key: s for key, s in self.spectra.items() if s.shape == shape}
        if len(same) < LEAST_RECORDS:
            return Misregistration(*names, len(same), len(self.flat), other)
        common, drawn = mean_shift(np.stack([*same.values()]), rng)
        lengths = np.hypot(*drawn.T)
        ends = [np.percentile(v, [2.5, 97.5]).tolist() for v in (*drawn.T, lengths)]
        alone = {key: shift_of(spectrum) for key, spectrum in same.items()}
        sure = {key: shift for key, shift in alone.items() if shift.score >= RECORD_DISTINCT}
        off = tuple(key for key, shift in sure.items() if shift.length > OFF)
        elsewhere = [s for s in sure.values() if s.distance(common) > OFF]
        return Misregistration(
            *names,
            len(same),
            len(self.flat),
            other,
            common.down,
            common.right,
            tuple((low, high) for low, high in ends),
            common.score,
            float(np.median(self.metres)),
            off,
            2 * len(elsewhere) <= len(sure),
        )


@dataclass(frozen=True)
class Survey:
    """What some records hold.

    Attributes:
        records: that were looked at.
        fields: by name.
        pairs: by the names of both.
    """

    records: int
    fields: dict[str, FieldSurvey]
    pairs: dict[tuple[str, str], PairSurvey]

    def shifts(self, rng: np.random.Generator) -> list[Misregistration]:
        """Of each pair of fields that some record has."""
        return [
            pair.result(names, rng)
            for names, pair in self.pairs.items()
            if pair.spectra or pair.flat or pair.other
        ]

    def missing(self, fields: Iterable[str]) -> dict[str, tuple[float, ...]]:
        """Field -> mean share of missing pixels by the number of the date."""
        out = {}
        for name in fields:
            shares = self.fields[name].missing
            dates = max((len(share) for share in shares), default=0)
            out[name] = tuple(
                float(np.mean([share[i] for share in shares if len(share) > i]))
                for i in range(dates)
            )
        return out


def read(dataset: Dataset, fields: Sequence[str], rows: Iterable[int]) -> Survey:
    """Look at the pixels of some records, one record at a time.

    Args:
        dataset: to look at.
        fields: of the ground.
        rows: numbers of records.
    """
    chosen = [int(row) for row in rows]
    found = Survey(
        len(chosen),
        {name: FieldSurvey() for name in fields},
        {pair: PairSurvey() for pair in combinations(fields, 2)},
    )
    for row in chosen:
        key, stacks = dataset.keys[row], dict[str, Stack]()
        for name in fields:
            modality = dataset.fields[name]
            assert isinstance(modality, Surveys)
            try:
                raw = dataset.raw(row, name)
                if raw is None:
                    continue
                stacks[name] = modality.stack(raw)
            except Unreachable:
                raise
            except (AmodalError, OSError) as error:
                found.fields[name].unreadable[key] = str(error)
                continue
            found.fields[name].add(key, stacks[name])
        for (one, two), pair in found.pairs.items():
            if one in stacks and two in stacks:
                pair.add(key, stacks[one], stacks[two])
    return found


def on_one_grid(first: Stack, second: Stack) -> tuple[np.ndarray, np.ndarray, float]:
    """Two values of one record on the grid of the coarser one, for measurement only.

    Without places both are taken to show the same ground from border to border.

    Returns:
        (P, H, W) of each, NaN where missing, and the metres of a pixel, 0 if unknown.

    Raises:
        BadValue: they have no grid in common.
    """
    planes = [s.pixels.reshape(-1, *s.pixels.shape[2:]) for s in (first, second)]
    if first.place[0] and second.place[0]:
        if first.place[0] != second.place[0]:
            raise BadValue(
                f"coordinate systems {first.place[0]} and {second.place[0]}; reproject one of them"
            )
        grids = [s.place[1] for s in (first, second)]
        if any(abs(b) + abs(d) > 1e-9 * (abs(a) + abs(e)) for a, b, _, d, e, _ in grids):
            raise BadValue("a grid is turned against its coordinate system")
    else:
        sides = np.array([p.shape[1:] for p in planes], dtype=float)
        steps = sides.max(0) / sides
        grids = [(step[1], 0.0, 0.0, 0.0, step[0], 0.0) for step in steps]
    coarse = int(abs(grids[1][0]) >= abs(grids[0][0]))
    (a, _, left, _, e, top), fine = grids[coarse], grids[1 - coarse]
    rows = ((top - fine[5]) / fine[4], e / fine[4], planes[coarse].shape[1])
    columns = ((left - fine[2]) / fine[0], a / fine[0], planes[coarse].shape[2])
    if rows[1] <= 0 or columns[1] <= 0:
        raise BadValue("one of them is mirrored")
    made = list(planes)
    if rows[:2] != (0, 1) or columns[:2] != (0, 1) or planes[0].shape[1:] != planes[1].shape[1:]:
        made[1 - coarse] = resampled(planes[1 - coarse], rows, columns)
    return made[0], made[1], (first, second)[coarse].resolution


def _middle(planes: np.ndarray) -> np.ndarray:
    height, width = planes.shape[1:]
    top, left = (max(0, (side - LONGEST) // 2) for side in (height, width))
    return planes[:, top : top + LONGEST, left : left + LONGEST]
