"""Write rasters as shards in the layout of SSL4EO-S12 v1.1, see `readers.zarr_shards`."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amodal.core import AmodalError
from amodal.core.whole_file import whole_file
from amodal.data.dataset import Dataset
from amodal.data.infer_schema import place_columns
from amodal.data.open_dataset import Openable, open_dataset
from amodal.data.quarantine import Bad, Quarantine
from amodal.data.readers import zarr_shards as layout
from amodal.data.readers._zarr import ENDING, library
from amodal.data.remote import Unreachable
from amodal.data.splits import PARTS
from amodal.modalities.shared.geotiff import EPOCH_YEAR
from amodal.modalities.shared.protocols import Surveys
from amodal.modalities.shared.raster_values import Stack

SAMPLES = 64
"""Records of a shard, as in SSL4EO-S12 v1.1."""
FOLDERS = {"train": "train", "valid": "val", "test": "test"}
MEANINGS = ("land", "water", "snow", "thin_cloud", "thick_cloud", "cloud_shadow", "no_data")
"""Classes of `cloud_mask`, by number."""
NO_DATA = MEANINGS.index("no_data")
WHOLE_NUMBERS, HALVES, FLOATS = "<i2", "<f2", "<f4"
UNKNOWN_DATE = np.iinfo(np.int64).min
"""Not a time, of numpy."""


def write_zarr(
    data: Openable, out: str | Path, *, samples: int = SAMPLES, name: str = ""
) -> list[Path]:
    """Write the rasters of a dataset as shards: a folder of each part of the split, in it one of
    each field, in that a file of so many records, chunked by date.

    Numbers that fit are int16, or float16, else float32. Pixels that are missing in all bands are
    `no_data` in `cloud_mask`; where some bands have them numbers are float32 with NaN. Fields of
    other modalities and labels are not written. A value that cannot be read is left out and stands
    in quarantine.jsonl.

    Args:
        data: as for `amodal.open`.
        out: a new or empty folder.
        samples: records of a shard.
        name: with which file names begin; by default that of the data.

    Returns:
        The files.

    Raises:
        AmodalError: there is no raster, values of one field differ in dates, bands or sides, or the
            folder cannot be written.
    """
    dataset, folder = open_dataset(data), Path(out)
    fields = [field for field, kind in dataset.fields.items() if isinstance(kind, Surveys)]
    if not fields:
        raise AmodalError(
            f"{dataset.name!r} has no rasters, and {ENDING} holds nothing else; it has "
            f"{', '.join(dataset.fields)}"
        )
    if samples < 1:
        raise AmodalError(f"a shard has at least 1 record, got {samples}")
    library()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise AmodalError(f"{folder} is no empty folder; give a new one")
    places = _places(dataset)
    bad, files = Quarantine(), list[Path]()
    try:
        for part in PARTS:
            rows = dataset.split(part)
            for number, start in enumerate(range(0, len(rows), samples), 1):
                chosen = rows[start : start + samples].tolist()
                for field in fields:
                    stacks = dict(_stacks(dataset, field, chosen, bad))
                    if not stacks:
                        continue
                    file = f"{name or dataset.name}_{part}_{number:06d}{ENDING}"
                    path = folder / FOLDERS[part] / field / file
                    keys = [dataset.keys[row] for row in stacks]
                    at = None if places is None else places[[*stacks]]
                    _write(path, _arrays(field, keys, [*stacks.values()], at))
                    files.append(path)
        bad.append_to(folder / "quarantine.jsonl")
    except OSError as error:
        raise AmodalError(f"{folder} cannot be written: {error.strerror or error}") from error
    if not files:
        raise AmodalError(f"none of the rasters of {dataset.name!r} can be read")
    return files


def _stacks(
    dataset: Dataset, field: str, rows: Sequence[int], bad: Quarantine
) -> Iterator[tuple[int, Stack]]:
    modality = dataset.fields[field]
    assert isinstance(modality, Surveys)
    for row in rows:
        try:
            raw = dataset.raw(row, field)
            if raw is not None:
                yield row, modality.stack(raw)
        except Unreachable:
            raise
        except (AmodalError, OSError) as error:
            bad.add([Bad(dataset.keys[row], field, str(error))])


def _places(dataset: Dataset) -> np.ndarray | None:
    """(N, 2) latitude and longitude by labels; None without them."""
    numbers = [name for name, label in dataset.labels.items() if label.kind == "number"]
    names = place_columns(numbers)
    return None if names is None else np.stack([dataset.label(name) for name in names], 1)


def _arrays(
    field: str, keys: Sequence[str], stacks: Sequence[Stack], places: np.ndarray | None
) -> dict[str, tuple[np.ndarray, tuple[str, ...], dict[str, Any]]]:
    """Name -> numbers, axes and attributes of a shard."""
    kinds = {(s.pixels.shape, s.bands): key for s, key in zip(stacks, keys)}
    if len(kinds) > 1:
        (one, first), (two, second) = [*kinds.items()][:2]
        raise AmodalError(
            f"values of {field} in one shard have the same dates, bands and sides; {first!r} has "
            f"{one[0]} and {second!r} has {two[0]} (dates, bands, height, width)"
            f"{'' if one[0] != two[0] else ', and other bands'}: cut or fill them first"
        )
    pixels = np.stack([s.pixels for s in stacks])
    absent = np.isnan(pixels)
    everywhere = absent.all(2)
    partly = bool((absent != everywhere[:, :, None]).any())
    stored = _smallest(pixels, everywhere, partly)
    months = np.stack([s.months for s in stacks])
    dates, bands, height, width = pixels.shape[1:]
    axes = (layout.SAMPLES, "time", layout.BANDS, "y", "x")
    names = [band or f"band {i + 1}" for i, band in enumerate(stacks[0].bands)]
    arrays: dict[str, tuple[np.ndarray, tuple[str, ...], dict[str, Any]]] = {
        layout.PIXELS: (stored, axes, {}),
        layout.SAMPLES: (np.array(keys, dtype="U"), axes[:1], {}),
        layout.BANDS: (np.array(names, dtype="U"), axes[2:3], {}),
        "time": (np.arange(dates), axes[1:2], {}),
        "y": (np.arange(height), axes[3:4], {}),
        "x": (np.arange(width), axes[4:], {}),
        "sample_id": (np.array([[f"{k}_{t}" for t in range(dates)] for k in keys]), axes[:2], {}),
        layout.DATES: (
            _seconds(months),
            axes[:2],
            {
                "units": "seconds since 1970-01-01",
                "calendar": "proleptic_gregorian",
                "_FillValue": UNKNOWN_DATE,
            },
        ),
    }
    if not partly and everywhere.any():
        mask = np.where(everywhere, NO_DATA, 0).astype(np.uint8)
        meanings = {"flag_values": [*range(len(MEANINGS))], "flag_meanings": " ".join(MEANINGS)}
        arrays[layout.MASK] = mask, (*axes[:2], *axes[3:]), meanings
    arrays |= _grid(stacks, height, width, axes)
    if places is not None:
        arrays[layout.LATITUDE] = places[:, 0], axes[:1], {}
        arrays[layout.LONGITUDE] = places[:, 1], axes[:1], {}
    return arrays


def _smallest(pixels: np.ndarray, everywhere: np.ndarray, partly: bool) -> np.ndarray:
    """Pixels as the smallest type that holds them; 0 where the mask says that they are missing."""
    if partly:
        return pixels.astype(FLOATS)
    filled = np.where(everywhere[:, :, None], np.float32(0), pixels)
    for kind in (WHOLE_NUMBERS, HALVES):
        with np.errstate(over="ignore", invalid="ignore"):
            small = filled.astype(kind)
            if (small.astype(np.float32) == filled).all():
                return small
    return filled.astype(FLOATS)


def _seconds(months: np.ndarray) -> np.ndarray:
    """Seconds since 1970 of months since January 2000, to the day."""
    out = np.full(months.shape, UNKNOWN_DATE, dtype=np.int64)
    known = np.isfinite(months)
    days = np.round(months[known] * 31).astype(np.int64)
    first = np.datetime64(f"{EPOCH_YEAR}-01", "M") + (days // 31).astype("m8[M]")
    day = first.astype("M8[D]") + (days % 31).astype("m8[D]")
    out[known] = day.astype("M8[s]").astype(np.int64)
    return out


def _grid(
    stacks: Sequence[Stack], height: int, width: int, axes: Sequence[str]
) -> dict[str, tuple[np.ndarray, tuple[str, ...], dict[str, Any]]]:
    """Coordinates of pixels, where every value says them in a system with a number (EPSG)."""
    systems = [s.place[0].rpartition(":") for s in stacks]
    if not all(name == "EPSG" and code.isdecimal() for name, _, code in systems):
        return {}
    transforms = [s.place[1] for s in stacks]
    if any(b or d for _, b, _, d, _, _ in transforms):
        return {}
    x = np.array([c + a * (np.arange(width) + 0.5) for a, _, c, *_ in transforms])
    y = np.array([f + e * (np.arange(height) + 0.5) for *_, e, f in transforms])
    return {
        layout.SYSTEM: (np.array([int(code) for *_, code in systems]), (axes[0],), {}),
        layout.ACROSS: (x, (axes[0], axes[4]), {}),
        layout.DOWN: (y, (axes[0], axes[3]), {}),
    }


def _write(
    path: Path, arrays: Mapping[str, tuple[np.ndarray, tuple[str, ...], dict[str, Any]]]
) -> None:
    """A zip of Zarr format 2 as xarray writes it, a chunk of each date."""
    codec = library().Blosc(cname="zstd", clevel=5, shuffle=1)
    with whole_file(path) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        entries = {".zgroup": {"zarr_format": 2}, ".zattrs": dict[str, Any]()}
        for name, (numbers, axes, attributes) in arrays.items():
            by_date = len(axes) > 2
            chunks = [
                1 if axis == "time" and by_date else s for axis, s in zip(axes, numbers.shape)
            ]
            entries[f"{name}/.zarray"] = {
                "zarr_format": 2,
                "shape": list(numbers.shape),
                "chunks": chunks,
                "dtype": numbers.dtype.str,
                "fill_value": None,
                "order": "C",
                "filters": None,
                "dimension_separator": ".",
                "compressor": codec.get_config(),
            }
            entries[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": list(axes), **attributes}
            parts = range(numbers.shape[1]) if by_date else [None]
            for date in parts:
                piece = numbers if date is None else numbers[:, date : date + 1]
                at = ["0"] * numbers.ndim
                if date is not None:
                    at[1] = str(date)
                archive.writestr(
                    _entry(f"{name}/{'.'.join(at)}"), codec.encode(np.ascontiguousarray(piece))
                )
        # of many readers, with the metadata in one place
        consolidated = {"zarr_consolidated_format": 1, "metadata": dict(entries)}
        for entry, content in {**entries, ".zmetadata": consolidated}.items():
            archive.writestr(_entry(entry), json.dumps(content).encode("utf-8"))
    os.chmod(path, 0o644)


def _entry(name: str) -> zipfile.ZipInfo:
    """Without the time, so that the same data is the same file."""
    return zipfile.ZipInfo(name)
