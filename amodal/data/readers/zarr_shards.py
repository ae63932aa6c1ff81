"""Shards of satellite images in the layout of SSL4EO-S12 v1.1: a .zarr.zip of each modality and 64
places.

Blumenstiel et al. 2025, arXiv:2503.00168:

    train/S2L2A/ssl4eos12_train_seasonal_data_000001.zarr.zip
        bands       (sample, time, band, y, x) int16 or float16
        cloud_mask  (sample, time, y, x) uint8, for optical modalities
        time_       (sample, time), center_lat, center_lon, crs (sample), x_ (sample, x), y_
        sample, band, time, y, x: names

The folder of a modality is a column, the part of the split above it may be left out. Records are
joined by the names in `sample`, whatever their order and whichever files they are in. What
`cloud_mask` covers is missing. Row 30 of the catalogue; the page for users is docs/satellite.md,
the check of alignment `amodal data check`, the writer `write_zarr`.

Differs:

- the authors' loader returns all 64 places of a shard at once, and batches are shards; here records
  are places in any order, which the blocks of Blosc make cheap, so that there is no shuffling of
  shards. The modalities of a record are joined by name, and not by the number of the row.
- their crops of 224 of 264 pixels are views (`weak`, `strong`, `season`) of whole pixels; means and
  deviations are measured, and theirs can be written into dataset.toml.
- clouds are missing pixels in what is read and in losses; the authors read them as pixels. Records
  with few clouds are chosen by `amodal curate --by S2L2A.missing --lowest`.
- which classes of `cloud_mask` are clouds could not be read from a text of the authors: where the
  array does not name them, classes from 3 on are missing, and `amodal init` says so.
- the parts of the split are folders. Their lists of file names and their tables of footprints
  (Parquet) are not read: places stand in the shards.
- Zarr format 2 on this machine; not format 3, and not in object storage.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from amodal.core import AmodalError
from amodal.data.readers._zarr import ENDING, Array, Damaged, ZarrZip
from amodal.data.readers.base import Cell, Reader, stamp_files
from amodal.data.remote import AnyPath, Remote
from amodal.data.splits import SPELLINGS

PIXELS, MASK, SAMPLES, BANDS, DATES = "bands", "cloud_mask", "sample", "band", "time_"
LATITUDE, LONGITUDE, SYSTEM, ACROSS, DOWN = "center_lat", "center_lon", "crs", "x_", "y_"
PLACES = (LATITUDE, LONGITUDE)
"""Columns of numbers."""
FIRST_CLOUD = 3
"""Class of `cloud_mask` from which a pixel counts as covered: thin cloud, thick cloud, shadow and
no data, behind land, water and snow."""
COVERED = ("cloud", "shadow", "no_data", "nodata", "invalid", "cirrus", "haze", "missing", "fill")
"""Words of a class, where the array names its classes (`flag_values` and `flag_meanings` of CF)."""
SPLIT = "split"
UNITS = re.compile(r"(nanosecond|microsecond|millisecond|second|minute|hour|day)s? since (.+)")
DEEPEST = 3
"""Folders between the data and a shard, at most."""


def shards_below(folder: AnyPath) -> list[Path]:
    """The shards in a folder, in folders of modalities, or in those of parts of a split."""
    if isinstance(folder, Remote) or not folder.is_dir():
        return []
    patterns = ("*/" * depth + f"*{ENDING}" for depth in range(DEEPEST))
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    return sorted(path for path in found if not path.name.startswith("."))


def is_zarr_shards(folder: AnyPath) -> bool:
    """Whether a folder has shards."""
    if isinstance(folder, Remote) or not folder.is_dir():
        return False
    patterns = ("*/" * depth + f"*{ENDING}" for depth in range(DEEPEST))
    return any(True for pattern in patterns for _ in folder.glob(pattern))


@dataclass(frozen=True)
class Shard:
    """A file.

    Attributes:
        archive: its arrays.
        column: the modality.
        part: of the split, "" for none.
        samples: names of its records; () of a damaged one.
        damage: why it cannot be read, "" if it can.
    """

    archive: ZarrZip
    column: str
    part: str
    samples: tuple[str, ...] = ()
    damage: str = ""

    @property
    def group(self) -> tuple[str, str]:
        """What shards of other modalities with the same records share."""
        return self.part, self.archive.path.name


class ZarrShards(Reader):
    """Records of satellite images.

    A cell is {"values": pixels that are read when they are needed, "dates", "bands"}, and "crs" and
    "transform" where the shard says its place. Of a damaged shard the records are known from the
    other modalities, and its values end in quarantine.

    Args:
        folder: with `shards_below`.

    Raises:
        AmodalError: no shard can be read, or a record is twice in one modality.
    """

    def __init__(self, folder: AnyPath) -> None:
        paths = shards_below(folder)
        if not paths:
            raise AmodalError(f"there is no *{ENDING} in {folder}")
        self.base: AnyPath | None = folder
        self.shards = [_open(path, Path(str(folder))) for path in paths]
        whole = [shard for shard in self.shards if not shard.damage]
        if not whole:
            raise AmodalError(f"no shard in {folder} can be read: {self.shards[0].damage}")
        self.fields = tuple(dict.fromkeys(shard.column for shard in self.shards))
        self.places: dict[tuple[str, str], tuple[int, int]] = {}
        self.part_of: dict[str, str] = {}
        self._join(whole)
        self.keys = sorted(self.part_of)
        self.damaged_cells = self._damaged_cells()
        parts = {shard.part for shard in self.shards} - {""}
        self.columns = (*self.fields, *PLACES, *((SPLIT,) if parts else ()))
        self.ignored = Counter()
        self._add_lost()
        self.notes = self._notes(whole)

    def _join(self, whole: Sequence[Shard]) -> None:
        """Where each record is in each modality."""
        numbers = {id(shard): i for i, shard in enumerate(self.shards)}
        for shard in whole:
            for row, sample in enumerate(shard.samples):
                place = (sample, shard.column)
                if place in self.places:
                    other = self.shards[self.places[place][0]].archive.path
                    raise AmodalError(
                        f"the sample {sample!r} is in {other} and in {shard.archive.path}; take "
                        "one of them out, a record has one value of each modality"
                    )
                if self.part_of.setdefault(sample, shard.part) != shard.part:
                    raise AmodalError(
                        f"the sample {sample!r} is in {self.part_of[sample]!r} and, by "
                        f"{shard.archive.path}, in {shard.part!r}: a record is in one part"
                    )
                self.places[place] = numbers[id(shard)], row

    def _damaged_cells(self) -> dict[tuple[str, str], str]:
        """Record and modality -> why it cannot be read, of damaged shards whose records are those
        of another modality."""
        known: dict[tuple[str, str], set[str]] = {}
        for shard in self.shards:
            known.setdefault(shard.group, set()).update(shard.samples)
        return {
            (sample, shard.column): shard.damage
            for shard in self.shards
            if shard.damage
            for sample in known[shard.group]
            if (sample, shard.column) not in self.places
        }

    def _add_lost(self) -> None:
        """A record for each damaged shard whose records nobody knows."""
        read = {shard.group for shard in self.shards if not shard.damage}
        lost = [shard for shard in self.shards if shard.group not in read]
        if not lost:
            return
        names = {f"{shard.part}/{shard.archive.path.name}".lstrip("/"): shard for shard in lost}
        self.damaged = dict(enumerate((s.damage for s in names.values()), len(self.keys)))
        self.part_of |= {name: shard.part for name, shard in names.items()}
        self.keys = [*self.keys, *names]
        self.ignored += Counter({"damaged shards": len(lost)})

    def _notes(self, whole: Sequence[Shard]) -> tuple[str, ...]:
        notes = []
        masked = [c for c in self.fields if any(s.column == c and _has_mask(s) for s in whole)]
        if masked:
            notes.append(
                f"what cloud_mask covers is missing in {', '.join(masked)}: cloud, shadow and no "
                f"data by the names of its classes, else classes from {FIRST_CLOUD} on"
            )
        groups: dict[tuple[str, str], list[Shard]] = {}
        for shard in whole:
            groups.setdefault(shard.group, []).append(shard)
        unequal = [
            name
            for (_, name), shards in groups.items()
            if len({frozenset(shard.samples) for shard in shards}) > 1
        ]
        if unequal:
            notes.append(
                f"{len(unequal)} shards have other samples in one modality than in another, "
                f"{unequal[0]} for one: they are joined by the names of samples"
            )
        return tuple(notes)

    def get(self, i: int, column: str) -> Cell:
        key = self.keys[i]
        if i in self.damaged:
            raise AmodalError(self.damaged[i])
        if column == SPLIT and SPLIT in self.columns:
            return self.part_of[key] or None
        if column in PLACES:
            return self._number(key, column)
        self.check(column)
        if (key, column) in self.damaged_cells:
            raise AmodalError(self.damaged_cells[key, column])
        if (key, column) not in self.places:
            return None
        number, row = self.places[key, column]
        return _cell(self.shards[number].archive, row)

    def undamaged(self, i: int, column: str) -> Cell:
        lost = (self.keys[i], column) in self.damaged_cells
        return None if lost else super().undamaged(i, column)

    def _number(self, key: str, column: str) -> float | None:
        for field in self.fields:
            if (key, field) in self.places:
                number, row = self.places[key, field]
                archive = self.shards[number].archive
                if archive.has(column):
                    return float(_small(archive, column)[row])
        return None

    def present(self, column: str) -> np.ndarray:
        if column not in self.fields:
            return super().present(column)
        lost = set(self.damaged)
        return np.array(
            [
                i in lost or (key, column) in self.places or (key, column) in self.damaged_cells
                for i, key in enumerate(self.keys)
            ],
            dtype=bool,
        )

    def stamp(self) -> str:
        return stamp_files([shard.archive.path for shard in self.shards])


def _open(path: Path, folder: Path) -> Shard:
    inside = path.relative_to(folder).parts[:-1]
    part = next((name for name in inside if name.lower() in SPELLINGS), "")
    names = [name for name in inside if name != part]
    column = names[-1] if names else PIXELS
    archive = ZarrZip.open(path)
    try:
        samples = tuple(str(name) for name in archive.read(SAMPLES).tolist())
        pixels = archive.array(PIXELS)
        if len(pixels.shape) != 5 or pixels.shape[0] != len(samples):
            raise archive.damaged(
                f"{PIXELS} of shape {pixels.shape} for {len(samples)} samples, expected (sample, "
                "time, band, y, x)"
            )
        if len(set(samples)) < len(samples):
            raise archive.damaged("a sample is in it twice")
    except Damaged as error:
        return Shard(archive, column, part, damage=str(error))
    return Shard(archive, column, part, samples)


def _has_mask(shard: Shard) -> bool:
    return shard.archive.has(MASK)


@lru_cache(512)
def _small(archive: ZarrZip, name: str) -> np.ndarray:
    """An array of few numbers, as a whole."""
    return archive.read(name)


def _cell(archive: ZarrZip, row: int) -> dict[str, Any]:
    shape = archive.array(PIXELS).shape
    cell: dict[str, Any] = {"values": DatedPixels(archive, row, shape[1:])}
    if archive.has(BANDS):
        cell["bands"] = [str(name) for name in _small(archive, BANDS).tolist()]
    if archive.has(DATES):
        cell["dates"] = _days(archive, row)
    if all(archive.has(name) for name in (SYSTEM, ACROSS, DOWN)):
        cell |= _place(archive, row)
    return cell


def _days(archive: ZarrZip, row: int) -> list[str]:
    """Days as text, "" for none."""
    numbers, array = _small(archive, DATES)[row], archive.array(DATES)
    if numbers.dtype.kind != "M":
        numbers = _since(archive, array, numbers)
    return ["" if np.isnat(day) else str(day)[:10] for day in numbers.astype("M8[s]")]


def _since(archive: ZarrZip, array: Array, numbers: np.ndarray) -> np.ndarray:
    """Numbers of a unit from a day on, as CF writes dates."""
    match = UNITS.fullmatch(str(array.attributes.get("units", "")))
    if match is None:
        raise archive.damaged(f"{DATES} has no unit of time")
    unit, start = match.groups()
    seconds = {
        "nanosecond": 1e-9, "microsecond": 1e-6, "millisecond": 1e-3, "second": 1, "minute": 60,
        "hour": 3600, "day": 86400,
    }[unit]  # fmt: skip
    try:
        first = np.datetime64(start.strip().replace(" ", "T").removesuffix("Z"), "s")
    except ValueError as error:
        raise archive.damaged(f"{DATES}: {error}") from error
    absent = np.iinfo(np.int64).min if array.absent is None else array.absent
    days = numbers.astype(np.float64) * seconds
    known = np.isfinite(days) & (numbers != absent)
    out = np.full(numbers.shape, np.datetime64("NaT"), dtype="M8[s]")
    out[known] = first + np.round(days[known]).astype("m8[s]")
    return out


def _place(archive: ZarrZip, row: int) -> dict[str, Any]:
    x, y = (_small(archive, name)[row].astype(np.float64) for name in (ACROSS, DOWN))
    if len(x) < 2 or len(y) < 2 or not np.isfinite([*x[:2], *y[:2]]).all():
        return {}
    # coordinates are of the middles of pixels
    a, e = (float(side[-1] - side[0]) / (len(side) - 1) for side in (x, y))
    transform = (a, 0.0, float(x[0]) - a / 2, 0.0, e, float(y[0]) - e / 2)
    return {"crs": f"EPSG:{int(_small(archive, SYSTEM)[row])}", "transform": transform}


@dataclass(frozen=True)
class DatedPixels:
    """The pixels of a record, of which each date is read when it is needed.

    Attributes:
        archive: that has them.
        row: of the record in it.
        shape: (dates, bands, height, width).
    """

    archive: ZarrZip
    row: int
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def at_dates(self, dates: Sequence[int]) -> np.ndarray:
        """(len(dates), bands, height, width) float32, NaN where missing."""
        return np.stack([self._date(int(date)) for date in dates])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.at_dates(range(self.shape[0])).astype(dtype or np.float32)

    def _date(self, date: int) -> np.ndarray:
        stored = self.archive.read(PIXELS, self.row, date)
        array = self.archive.array(PIXELS)
        pixels = array.decoded(stored)
        pixels[~np.isfinite(pixels)] = np.nan
        if self.archive.has(MASK):
            mask = self.archive.read(MASK, self.row, date)
            pixels[:, covered(mask, self.archive.array(MASK).attributes)] = np.nan
        return pixels


def covered(mask: np.ndarray, attributes: dict[str, Any]) -> np.ndarray:
    """Which pixels are not of the ground.

    Args:
        mask: classes, or truth values.
        attributes: of the array, which may name its classes.
    """
    if mask.dtype == bool:
        return mask
    meanings = str(attributes.get("flag_meanings", "")).lower().split()
    values = attributes.get("flag_values")
    if meanings and isinstance(values, list) and len(values) == len(meanings):
        classes = [v for v, m in zip(values, meanings) if any(word in m for word in COVERED)]
        return np.isin(mask, classes)
    return np.asarray(mask >= FIRST_CLOUD)
