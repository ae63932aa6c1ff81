"""Features of every point of clouds, as Parquet: a file of each record, or one of all.

A row is a point of the file that was embedded, where it lies there: x, y, z, its class where the
file has one, and the vector. Vectors are those of the tokens about it, see
`amodal.inference.dense_points`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amodal.core import AmodalError
from amodal.core.whole_file import whole_file
from amodal.data import Dataset
from amodal.inference.dense_points import point_features
from amodal.maps.files import Unreadable, check_made_by
from amodal.maps.items import file_name
from amodal.modalities import BadValue
from amodal.modalities.shared.points_values import Placed
from amodal.modalities.shared.protocols import HasPoints
from amodal.progress import Bar

if TYPE_CHECKING:
    from amodal.model import Model

SUFFIX = ".parquet"
TAG = b"AMODAL_FEATURES"
"""Of a file: the fingerprint of the encoder, and the field."""
CONTENT = b"AMODAL_CONTENT"
"""Of a file of one record: the fingerprint of the points that it was made of."""


def write_points(
    model: Model,
    dataset: Dataset,
    name: str,
    rows: np.ndarray,
    out: Path,
    made_by: str,
    progress: bool,
) -> list[Path]:
    """Write the features of every point.

    Args:
        model: The model.
        dataset: Where the records are.
        name: Of a field of points.
        rows: Which records.
        out: A .parquet file of all records, with their keys; or a folder, in which each gets one.
            Files of the same points that are in it already are not made anew.
        made_by: The encoder and the field; files of others are not touched.
        progress: Show a bar.

    Returns:
        The files.

    Raises:
        AmodalError: If no value can be read, or a file cannot be written.
    """
    if out.suffix.lower() == SUFFIX:
        if out.exists():
            _check_ours(out, None)
        clouds = _clouds(model, dataset, name, rows, progress)
        _write(model, name, clouds, out, made_by, keyed=True)
        return [out]
    if out.suffix or (out.exists() and not out.is_dir()):
        raise AmodalError(
            f"features of points are written to a folder, or to one {SUFFIX} file, not to {out}"
        )
    files = [out / f"{file_name(dataset.keys[row])}{SUFFIX}" for row in rows.tolist()]
    there = {file: _check_ours(file, made_by) for file in files if file.exists()}
    written = []
    for key, placed in _clouds(model, dataset, name, rows, progress):
        file, content = out / f"{file_name(key)}{SUFFIX}", _fingerprint(placed)
        if there.get(file) != content:
            one = iter([(key, placed)])
            _write(model, name, one, file, made_by, keyed=False, content=content)
        written.append(file)
    if not written:
        raise AmodalError(f"no value of {name!r} in {dataset.name!r} could be read")
    return written


def _fingerprint(placed: Placed) -> str:
    """32 hex digits that change with what features of a file's points are made of."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (placed.value, placed.points, placed.position, placed.label):
        if part is not None:
            digest.update(f"{part.shape}{part.dtype}".encode())
            digest.update(part.tobytes())
    return digest.hexdigest()


def _check_ours(file: Path, made_by: str | None) -> str:
    """The fingerprint of what a file was made of, "" where it does not say.

    Args:
        file: That will be written.
        made_by: What made it, if it must be the same; None where it is made anew.

    Raises:
        AmodalError: If something else is there.
    """
    try:
        tags = pq.read_schema(file).metadata or {}
    except (OSError, pa.ArrowInvalid):
        tags = {}
    before = tags.get(TAG, b"").decode()
    check_made_by(file, before, made_by)
    return str(tags.get(CONTENT, b"").decode())


def _clouds(
    model: Model, dataset: Dataset, name: str, rows: np.ndarray, progress: bool
) -> Iterator[tuple[str, Placed]]:
    """Key and points of records, without those that cannot be read."""
    modality = cast(HasPoints, model.encoder.fields[name])
    bad = Unreadable(name)
    with Bar("embed", len(rows), shown=progress) as bar:
        for row in rows.tolist():
            key = dataset.keys[row]
            try:
                yield key, modality.place_points(dataset.raw(row, name))
            except BadValue as error:
                bad.add(key, error)
            bar.step(bad.note, by=1)
    bad.say()


def _schema(width: int, made_by: str, keyed: bool, content: str) -> pa.Schema:
    columns = [("key", pa.string())] if keyed else []
    columns += [(axis, pa.float64()) for axis in "xyz"]
    columns += [("classification", pa.float32()), ("vector", pa.list_(pa.float32(), width))]
    return pa.schema(columns, metadata={TAG: made_by.encode(), CONTENT: content.encode()})


def _write(
    model: Model,
    name: str,
    clouds: Iterator[tuple[str, Placed]],
    file: Path,
    made_by: str,
    keyed: bool,
    content: str = "",
) -> None:
    """Write a file, whole or not at all."""
    schema, points = _schema(model.encoder.width, made_by, keyed, content), 0
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as draft:
            with pq.ParquetWriter(draft, schema, compression="zstd") as writer:
                for key, placed in clouds:
                    for part, x_ND in point_features(model.encoder, name, placed, model.device):
                        table = _table(placed, part, x_ND, schema, key if keyed else None)
                        writer.write_table(table)
                        points += len(x_ND)
            if not points:
                raise AmodalError(f"no value of {name!r} could be read, so that {file} is empty")
    except OSError as error:
        raise AmodalError(f"could not write {file}: {error.strerror or error}") from error


def _table(
    placed: Placed, part: slice, x_ND: np.ndarray, schema: pa.Schema, key: str | None
) -> pa.Table:
    columns = {axis: pa.array(column) for axis, column in zip("xyz", placed.points[part].T)}
    label = placed.label[part] if placed.label is not None else None
    classes = pa.nulls(len(x_ND), pa.float32()) if label is None else pa.array(label)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.ravel()), x_ND.shape[1])
    columns |= {"classification": classes, "vector": vectors}
    if key is not None:
        columns["key"] = pa.array([key] * len(x_ND))
    return pa.table(columns).select(schema.names).cast(schema)
