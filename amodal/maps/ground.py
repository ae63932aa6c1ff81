"""Features of places: on the ground a GeoTIFF of each record, or one of all.

A file has a band for each dimension and a pixel for each token, in the coordinate system of what
was embedded. Values larger than the encoder's are read window by window; windows overlap, and the
features of a place are means over them that count less towards the border of a window. So are all
records in one file: their pixels are put together first, or the borders of tiles would show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image as Pillow

from amodal.core import AmodalError
from amodal.core.whole_file import whole_file
from amodal.data import Dataset, Openable
from amodal.inference.choose_field import choose_field
from amodal.inference.dense import dense_features, patch_side, window_corners
from amodal.maps.clouds import write_points
from amodal.maps.features import write_features
from amodal.maps.files import Unreadable, check_made_by
from amodal.maps.items import file_name
from amodal.modalities import BadValue, Modality, ending_of
from amodal.modalities.shared.protocols import HasPoints, OnGround, WritesFeatures
from amodal.nn.saved import weights_digest
from amodal.progress import Bar

if TYPE_CHECKING:
    from amodal.model import Model

SUFFIXES = (".tif", ".tiff")
PICTURE = "features.png"
"""Ending of the picture beside a file of all records."""
SAMPLE = 10_000
"""Places at most that components are fitted to."""
PERCENTILES = (2, 98)
"""Of a component, that become the least and the most of a colour."""
TAG = "AMODAL_FEATURES"
"""Of a file: the fingerprint of the encoder, and the field."""
MAX_NUMBERS = 2**30
"""Of all values of one file together, which are held in memory."""
TOLERANCE = 0.05
"""Of a pixel's side: how far the corners of values may lie off one grid."""


@dataclass(frozen=True)
class Place:
    """Where a grid of tokens lies.

    Attributes:
        crs: the coordinate reference system, as text; "" for none.
        transform: six numbers, see `amodal.modalities.shared.geotiff.Scene`.
    """

    crs: str
    transform: tuple[float, ...]

    def of_tokens(self, tile: int) -> Place:
        """The grid whose pixels are tokens of so many pixels a side."""
        a, b, c, d, e, f = self.transform
        return Place(self.crs, (a * tile, b * tile, c, d * tile, e * tile, f))


@dataclass(frozen=True)
class Located:
    """A decoded value and where it lies.

    Attributes:
        key: of the record.
        value: (T, planes, H, W), see the modality.
        place: of its pixels.
    """

    key: str
    value: np.ndarray
    place: Place


def write_dense(
    model: Model,
    data: Openable,
    out: str | Path,
    *,
    field: str | None = None,
    part: str | None = None,
    patch: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Write the features of every place: on the ground as GeoTIFF, others as files of their kind.

    Args:
        model: The model.
        data: Whatever `amodal.open` takes, or one file, such as a whole scene or a scan.
        out: A .tif file for all records together, which must lie on one grid (of points a .parquet
            file, see `amodal.maps.clouds`); a file of another kind for one record; or a folder, in
            which each record gets a file. Files that are there already are not made anew, so that
            an interrupted call goes on.
        field: A field of the model whose values have places; None for the only one.
        part: "train", "valid" or "test"; all records if None.
        patch: Pixels of a token's side, of a field that has learnt more than one (`patches`).
        progress: Show a bar.

    Returns:
        The files; beside a .tif of all records a picture, the first three principal components of
        its features as red, green and blue.

    Raises:
        AmodalError: If no field has places, no value can be read, or the file cannot be written.
    """
    out, fields = Path(out), model.encoder.fields
    if isinstance(data, (str, Path)) and (one := _one_file(Path(data), fields, field)):
        # no schema is needed: bands are found by their names
        dataset = model.read([{one: Path(data)}])
    else:
        dataset = model.read(data)
    name = ground_field(fields, field, list(dataset.fields))
    if name not in dataset.fields:
        raise AmodalError(f"{dataset.name!r} has no field {name!r}, of which features are asked")
    rows = dataset.split(part) if part else np.arange(len(dataset))
    rows = rows[dataset.present(name)[rows]]
    if not len(rows):
        raise AmodalError(f"no record of {dataset.name!r} has {name!r}")
    made_by = f"{model.fingerprint or weights_digest(model.encoder)}/{name}"
    made_by += f"/{patch}" if patch else ""
    if isinstance(fields[name], WritesFeatures):
        if patch is not None:
            raise AmodalError(f"{name} has learnt patches of one size; leave --patch out")
        return write_features(model, dataset, name, rows, out, made_by, progress)
    if isinstance(fields[name], HasPoints):
        if patch is not None:
            raise AmodalError(f"{name} has no patches, but groups of points; leave --patch out")
        return write_points(model, dataset, name, rows, out, made_by, progress)
    with patch_side(fields, name, patch):
        return _write_all(model, dataset, name, rows, out, made_by, progress)


def _one_file(data: Path, fields: dict[str, Modality], wanted: str | None) -> str:
    """The field that a file is one value of; "" where the data is anything else.

    Raises:
        AmodalError: If there is no such file.
    """
    ending = ending_of(data.name)
    if ending in SUFFIXES:
        name = ground_field(fields, wanted)
    else:
        names = [f for f, m in fields.items() if isinstance(m, (WritesFeatures, HasPoints))]
        names = [f for f in names if ending in fields[f].suffixes and wanted in (None, f)]
        if not names:
            return ""
        name = ground_field(fields, wanted)
    if not data.is_file():
        raise AmodalError(f"there is no file {data}")
    return name


def _write_all(
    model: Model,
    dataset: Dataset,
    name: str,
    rows: np.ndarray,
    out: Path,
    made_by: str,
    progress: bool,
) -> list[Path]:
    """See `write_dense`."""
    tile = cast(OnGround, model.encoder.fields[name]).tile
    if out.suffix.lower() in SUFFIXES:
        _check_ours(out, None)
        values = list(_values(model, dataset, name, rows, progress))
        grid, place = _mosaic_features(model, name, values, out, progress)
        _write(out, grid, place, made_by)
        return [out, _draw(grid, out.with_suffix(f".{PICTURE}"))]
    if out.exists() and not out.is_dir():
        raise AmodalError(f"{out} is a file; name a folder for a file a record, or a .tif for one")
    out.mkdir(parents=True, exist_ok=True)
    names = [out / f"{file_name(dataset.keys[row])}.tif" for row in rows]
    done = np.array([_check_ours(file, made_by) for file in names])
    for one in _values(model, dataset, name, rows[~done], progress, done=int(done.sum())):
        grid = dense_features(model.encoder, name, one.value, model.device)
        _write(out / f"{file_name(one.key)}.tif", grid, one.place.of_tokens(tile), made_by)
    written = [file for file in names if file.exists()]
    if not written:
        raise AmodalError(f"no value of {name!r} in {dataset.name!r} could be read")
    return written


def _check_ours(file: Path, made_by: str | None) -> bool:
    """Whether a file is there already.

    Args:
        file: That will be written.
        made_by: What made it, if it must be the same; None where it is made anew.

    Raises:
        AmodalError: If something else is there.
    """
    if not file.exists():
        return False
    import rasterio
    from rasterio.errors import RasterioError

    before = ""
    if file.is_file():
        try:
            with rasterio.open(file, driver="GTiff") as opened:
                before = opened.tags().get(TAG, "")
        except RasterioError:
            pass
    check_made_by(file, before, made_by)
    return True


def ground_field(
    fields: dict[str, Modality], wanted: str | None, present: Sequence[str] = ()
) -> str:
    """The field of the encoder whose features are written.

    Args:
        fields: Of the encoder.
        wanted: What the user asked for; None for the only one, or the only one that the data has.
        present: Fields of the data.

    Raises:
        AmodalError: Without one, for one without places, and for more than one.
    """
    placed = (OnGround, WritesFeatures, HasPoints)
    ground = [n for n, m in fields.items() if isinstance(m, placed)]
    if not ground:
        raise AmodalError(
            "dense features are of places, as of GeoTIFF, scans and points, and this run "
            f"has none: its fields are {', '.join(f'{n} ({m.kind})' for n, m in fields.items())}. "
            "Vectors of whole records: leave --dense out"
        )
    return choose_field(ground, wanted, present, what="with places")


def _values(
    model: Model, dataset: Dataset, name: str, rows: np.ndarray, progress: bool, done: int = 0
) -> Iterator[Located]:
    """Values of records, one after another, without those that cannot be read."""
    modality = cast(OnGround, model.encoder.fields[name])
    bad = Unreadable(name)
    with Bar("embed", len(rows) + done, start=done, shown=progress) as bar:
        for row in rows.tolist():
            key, raw = dataset.keys[row], dataset.raw(row, name)
            try:
                value, place = modality.on_ground(raw)
                yield Located(key, value, Place(*place))
            except BadValue as error:
                bad.add(key, error)
            bar.step(bad.note, by=1)
    bad.say()


def _mosaic_features(
    model: Model, name: str, parts: Sequence[Located], out: Path, progress: bool
) -> tuple[np.ndarray, Place]:
    """Features of all values, which are put together first.

    Returns:
        (rows, columns, D) float32, NaN where there is no data, and where it lies.

    Raises:
        AmodalError: If there is no value, they do not lie on one grid of pixels, or the file would
            be too large.
    """
    if not parts:
        raise AmodalError(f"no value could be read, so that there is nothing to write to {out}")
    modality: Any = model.encoder.fields[name]
    first = parts[0].place
    if not first.crs and len(parts) > 1:
        raise AmodalError(
            f"the values say no place on the ground, so that they do not fit into one {out.name}; "
            f"name a folder: --out {out.with_suffix('')}/"
        )
    corners = np.array([_offset(part, first, out) for part in parts])
    low = corners.min(0)
    high = (corners + [part.value.shape[2:] for part in parts]).max(0)
    corners, shape = corners - low, (high - low).tolist()
    # values of other dates are other measurements of a place
    groups: dict[bytes, list[int]] = {}
    for i, part in enumerate(parts):
        groups.setdefault(part.value[:, 0, 0, 0].tobytes(), []).append(i)
    numbers = parts[0].value.shape[1] * float(shape[0]) * float(shape[1])
    if numbers * max(len(part.value) for part in parts) > MAX_NUMBERS:
        raise AmodalError(
            f"all records together are {shape[0]:,} x {shape[1]:,} pixels with "
            f"{parts[0].value.shape[1] - 1} bands; name a folder: --out {out.with_suffix('')}/"
        )
    total: Any = 0.0
    count = np.zeros((), dtype=np.float32)
    cells = [-(-side // modality.tile) for side in shape]
    windows = len(groups) * len(window_corners(cells, modality))
    with Bar("embed", windows, shown=progress) as bar:
        for group in groups.values():
            merged = _merged([parts[i] for i in group], corners[group], shape)
            grid = dense_features(model.encoder, name, merged, model.device, bar)
            present = np.isfinite(grid).all(2, keepdims=True)
            total, count = total + np.where(present, grid, 0), count + present
    a, b, c, d, e, f = first.transform
    y, x = low.tolist()
    place = Place(first.crs, (a, b, c + a * x + b * y, d, e, f + d * x + e * y))
    grid = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return grid, place.of_tokens(modality.tile)


def _merged(parts: Sequence[Located], corners: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Values of the same dates as one; where they overlap, the first that has a pixel counts."""
    dates, planes = parts[0].value.shape[:2]
    merged = np.full((dates, planes, *shape), np.nan, dtype=np.float32)
    for part, (y, x) in zip(reversed(parts), corners[::-1].tolist()):
        height, width = part.value.shape[2:]
        window = merged[:, :, y : y + height, x : x + width]
        window[...] = np.where(np.isfinite(part.value), part.value, window)
    merged[:, 0] = parts[0].value[:, 0, :1, :1]
    return merged


def _offset(part: Located, first: Place, out: Path) -> tuple[int, int]:
    """Row and column of a value's corner on the grid of pixels of the first."""
    a, b, c, d, e, f = first.transform
    a2, b2, c2, d2, e2, f2 = part.place.transform
    same = part.place.crs == first.crs and np.allclose((a2, b2, d2, e2), (a, b, d, e), rtol=1e-6)
    column, row = np.linalg.solve(((a, b), (d, e)), (c2 - c, f2 - f)).tolist()
    if not same or max(abs(row - round(row)), abs(column - round(column))) > TOLERANCE:
        size = abs(a * e - b * d) ** 0.5
        raise AmodalError(
            f"{part.key} does not lie on the grid of the others ({first.crs}, pixels of {size:g} "
            f"units), so that they do not fit into one {out.name}; name a folder: --out "
            f"{out.with_suffix('')}/"
        )
    return round(row), round(column)


def _draw(grid: np.ndarray, file: Path) -> Path:
    """A picture of features (rows, columns, D) in false colours; what has none is white."""
    flat = grid.reshape(-1, grid.shape[2])
    present = np.isfinite(flat).all(1)
    chosen = flat[present]
    sample = chosen[:: max(1, len(chosen) // SAMPLE)]
    mean = sample.mean(0)
    axes = np.linalg.svd(sample - mean, full_matrices=False)[2][:3]
    components = (chosen - mean) @ axes.T
    low, high = np.percentile(components, PERCENTILES, axis=0)
    shown = (components - low) / np.maximum(high - low, 1e-12)
    colours = np.full((len(flat), 3), 255, dtype=np.uint8)
    colours[present, : shown.shape[1]] = (shown.clip(0, 1) * 255).astype(np.uint8)
    picture = Pillow.fromarray(colours.reshape(*grid.shape[:2], 3))
    with whole_file(file) as draft:
        picture.save(draft, "PNG")
    return file


def _write(file: Path, grid: np.ndarray, place: Place, made_by: str) -> None:
    """Write a grid as a GeoTIFF, whole or not at all."""
    import rasterio
    from rasterio.io import MemoryFile

    rows, columns, count = grid.shape
    options = {"crs": place.crs, "transform": rasterio.transform.Affine(*place.transform)}
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            height=rows,
            width=columns,
            count=count,
            dtype="float32",
            nodata=float("nan"),
            compress="deflate",
            predictor=3,
            BIGTIFF="IF_SAFER",
            **(options if place.crs else {}),
        ) as written:
            written.write(grid.transpose(2, 0, 1))
            written.update_tags(**{TAG: made_by})
        content = memory.read()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as draft:
            draft.write_bytes(content)
    except OSError as error:
        raise AmodalError(f"could not write {file}: {error.strerror or error}") from error
