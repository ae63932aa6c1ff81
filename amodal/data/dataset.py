"""A dataset: records by number, their values by field, their labels, their split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from amodal.core import AmodalError, unknown
from amodal.core.argument_types import list_of_words
from amodal.core.regular_file import is_file_or_pipe
from amodal.data import splits
from amodal.data.cache import Cache
from amodal.data.items import ItemsMixin
from amodal.data.readers import Reader
from amodal.data.readers.base import Cell
from amodal.data.readers.changed import Subset, WithColumns, row_numbers
from amodal.data.remote import AnyPath, Remote, Unreachable
from amodal.data.schema import Field, Label, Schema
from amodal.modalities import BadValue, Modality, Raw, config, name_of
from amodal.modalities.shared.cells import number

if TYPE_CHECKING:
    from amodal.data.mixture import Proportions


class Dataset(ItemsMixin):
    """N records. Any field may be missing in any record.

    Args:
        reader: where the cells come from.
        schema: what they mean.
        path: of the data, if it is on disk or in a store.
        name: of the dataset; the schema's or the path's by default.
        parts: (N,) the part of the split of each record; by default as the schema says.
        cache: of decoded values; a new one by default.
        proportions: in which a `Mixture` draws training records from its datasets.

    Attributes:
        fields: name -> modality.
        labels: name -> what is known about it.
        keys: N names of records, each different.
        columns: field -> the column of the reader or, for a table, a column for each cell.

    Raises:
        AmodalError: the schema names a column that the data lacks.
    """

    def __init__(
        self,
        reader: Reader,
        schema: Schema,
        path: AnyPath | None = None,
        name: str = "",
        *,
        parts: np.ndarray | None = None,
        cache: Cache | None = None,
        proportions: Proportions | None = None,
    ) -> None:
        self.reader, self.schema, self.path = reader, schema, path
        self.name = name or schema.name or (path.stem if path else "arrays")
        self.fields: dict[str, Modality] = {field: f.modality for field, f in schema.fields.items()}
        self.labels: dict[str, Label] = dict(schema.labels)
        self.keys: list[str] = list(reader.keys)
        self.columns = {field: _columns(field, f, reader) for field, f in schema.fields.items()}
        self.cache = Cache() if cache is None else cache
        self.proportions = proportions
        if parts is not None:
            self.parts = parts
        self._present: dict[str, np.ndarray] = {}
        for name, label in self.labels.items():
            _check(reader, label.column or name, f"labels.{name}")
        for key, column in (("split_by", schema.split_by), ("split", schema.split)):
            if column:
                _check(reader, column, key)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}: {m.kind}" for name, m in self.fields.items())
        return f"Dataset({self.name!r}, {len(self):,} records, {fields})"

    def raw(self, i: int, field: str) -> Raw | None:
        """A value as the data holds it.

        Args:
            i: number of the record.
            field: of the value.

        Returns:
            None where the record has none. A file is a Path, in object storage its bytes; the cells
            of a table are a dict.

        Raises:
            BadValue: of a record that is damaged, such as a torn line.
        """
        if i in self.reader.damaged:
            raise BadValue(self.reader.damaged[i])
        cell: Cell = self.cell(i, field)
        if isinstance(cell, list) and any(isinstance(part, Remote) for part in cell):
            return [part.read_bytes() for part in cell]
        return cell.read_bytes() if isinstance(cell, Remote) else cell

    def cell(self, i: int, field: str) -> Cell:
        """A value as in `raw`, but a file in object storage is a `Remote`, not read."""
        columns = self.columns[self.find_field(field)]
        if isinstance(columns, tuple):
            cells = self.reader.row(i, columns)
            return cells if any(cell is not None for cell in cells.values()) else None
        cell = self.reader.get(i, columns)
        return self._located(cell, self.fields[field]) if isinstance(cell, str) else cell

    def value(self, i: int, field: str) -> np.ndarray | None:
        """A decoded value.

        Args:
            i: number of the record.
            field: of the value.

        Returns:
            None where the record has none.

        Raises:
            BadValue: it cannot be read or decoded; the message is the reason.
        """
        modality = self.fields[self.find_field(field)]
        try:
            raw = self.raw(i, field)
            return None if raw is None else modality.decode_finite(raw)
        except (BadValue, Unreachable):
            raise
        except AmodalError as error:  # of a reader, and written for a person
            raise BadValue(str(error)) from error
        # decoders of third parties raise anything; one bad value must not end a run of days
        except Exception as error:
            raise BadValue(f"{type(error).__name__}: {error}") from error

    def present(self, field: str) -> np.ndarray:
        """(N,) bool: which records have a value, readable or not."""
        if self.find_field(field) not in self._present:
            columns = self.columns[field]
            names = columns if isinstance(columns, tuple) else (columns,)
            self._present[field] = np.logical_or.reduce(
                [self.reader.present(name) for name in names]
            )
        return self._present[field]

    def label(self, name: str, *, required: bool = False) -> np.ndarray:
        """The values of a label.

        Args:
            name: of the label.
            required: raise if no record has it.

        Returns:
            (N,) str objects, None where missing; for numbers float64, NaN where missing.

        Raises:
            AmodalError: there is no such label, or no record has it and it is `required`.
        """
        if name not in self.labels:
            hint = "Labels are declared in dataset.toml: [labels.NAME]."
            raise unknown("label of this dataset", name, self.labels, hint)
        label = self.labels[name]
        cells = self.reader.cells(label.column or name)
        values = (
            np.array([_number(c, name) for c in cells])
            if label.kind == "number"
            else _categories(cells)
        )
        missing = (
            np.isnan(values).all() if label.kind == "number" else all(v is None for v in values)
        )
        if required and missing:
            others = ", ".join(n for n in self.labels if n != name) or "there is no other"
            raise AmodalError(
                f"none of the {len(self):,} records of {self.name!r} has the label {name!r}. "
                f"Choose another: {others}."
            )
        return values

    @cached_property
    def parts(self) -> np.ndarray:
        """(N,) int8: the part of the split of each record, an index into `splits.PARTS`."""
        names = self.keys
        if by := self.schema.split_by:
            names = [
                key if cell is None else str(cell)
                for key, cell in zip(self.keys, self.reader.cells(by))
            ]
        return (
            splits.by_name(self.reader.cells(self.schema.split), names)
            if self.schema.split
            else splits.by_hash(names)
        )

    def split(self, part: str) -> np.ndarray:
        """The records of a part of the split.

        A record's part follows from its key alone, or from the columns that `split_by` or `split`
        in dataset.toml name. So it does not change when data is added, except in data of so few
        records that a part would be empty (`splits.by_hash`).

        Args:
            part: "train" (80 %), "valid" (10 %), "test" (10 %) or "all".

        Returns:
            (n,) int64, ascending.

        Raises:
            AmodalError: there is no such part.
        """
        if part == "all":
            return np.arange(len(self))
        if part not in splits.PARTS:
            raise unknown("part of a split", part, (*splits.PARTS, "all"))
        return np.flatnonzero(self.parts == splits.PARTS.index(part))

    def select(self, fields: Iterable[str]) -> Dataset:
        """The same records with only these fields. The cache of decoded values is shared."""
        names = list_of_words("fields", fields, "['image']")
        chosen = {self.find_field(name): self.schema.fields[name] for name in names}
        return self._with(replace(self.schema, fields=chosen), self.cache)

    def with_fields(self, modalities: Mapping[str, Modality]) -> Dataset:
        """The same records, decoded with the modalities of a model.

        Args:
            modalities: field -> modality. A field that this dataset does not describe may be a
                column of the same name.

        Raises:
            AmodalError: a field is neither described nor a column, or is of another modality here.
        """
        fields = {}
        for name, modality in modalities.items():
            old = self.schema.fields.get(name)
            if old is not None and type(old.modality) is not type(modality):
                kinds = [name_of(m) for m in (old.modality, modality)]
                where = "in its dataset.toml" if self.path else f"fields={{{name!r}: {kinds[1]!r}}}"
                raise AmodalError(
                    f"the field {name!r} is {kinds[0]} in {self.name!r}, but {kinds[1]} is "
                    f"expected. If it is that, say so ({where}); if it is not, rename it."
                )
            if (
                old is None
                and name not in self.reader.columns
                and not is_read_from_cells(modality, self.reader)
            ):
                raise unknown(
                    f"field of {self.name!r}",
                    name,
                    self.fields,
                    "Rename a field in dataset.toml, or choose fewer fields.",
                )
            read = modality.as_in(old.modality) if old else modality
            fields[name] = replace(old, modality=read) if old else Field(read)
        same = all(field.modality == self.fields.get(name) for name, field in fields.items())
        return self._with(replace(self.schema, fields=fields), self.cache if same else Cache())

    def missing_fields(self, modalities: Mapping[str, Modality]) -> list[str]:
        """The fields that neither are described here nor can be columns of the same name."""
        known = {*self.schema.fields, *self.reader.columns}
        others = {name: one for name, one in modalities.items() if name not in known}
        return [name for name, one in others.items() if not is_read_from_cells(one, self.reader)]

    def renamed_fields(self, modalities: Mapping[str, Modality]) -> dict[str, str]:
        """Missing fields -> one here of nearly the same name, most likely the same field."""
        others = [name for name in self.schema.fields if name not in modalities]
        near = {n: get_close_matches(n, others, 1, 0.8) for n in self.missing_fields(modalities)}
        return {name: names[0] for name, names in near.items() if names}

    def with_columns(self, names: Sequence[str]) -> Dataset:
        """The same records with more columns, which are empty."""
        reader, parts = WithColumns(self.reader, names), self._known_parts
        return Dataset(reader, self.schema, self.path, self.name, parts=parts)

    def subset(self, indices: npt.ArrayLike) -> Dataset:
        """Some of the records, in the order asked for.

        Args:
            indices: whole numbers, from -N to N - 1, or a mask: N times whether to take a record.

        Raises:
            AmodalError: there is no such record, or something else is given.
        """
        rows = row_numbers(indices, len(self.keys), self.name)
        reader = Subset(self.reader, rows)
        return Dataset(reader, self.schema, self.path, self.name, parts=self.parts[rows])

    def with_parts(self, parts: np.ndarray) -> Dataset:
        """The same records, split anew: (N,) an index into `splits.PARTS` for each."""
        return self._with(self.schema, self.cache, parts)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that change with the records, and with what is read of them. Parameters of
        modalities do not count."""
        digest = hashlib.blake2b(self.reader.stamp().encode(), digest_size=16)
        digest.update("\n".join(self.keys).encode())
        for name, columns in self.columns.items():
            digest.update(f"{name}={columns}:{config(self.fields[name])['modality']};".encode())
        digest.update(f"{self.labels}{self.schema.split_by}{self.schema.split}".encode())
        return digest.hexdigest()

    def _with(self, schema: Schema, cache: Cache, parts: np.ndarray | None = None) -> Dataset:
        return Dataset(
            self.reader,
            schema,
            self.path,
            self.name,
            parts=self._known_parts if parts is None else parts,
            cache=cache,
            proportions=self.proportions,
        )

    @property
    def _known_parts(self) -> np.ndarray | None:
        """The parts, if they were given or computed: of other fields they are the same."""
        return self.__dict__.get("parts")

    def find_field(self, name: str) -> str:
        """The name of a field, after a check that there is one. Raises AmodalError otherwise."""
        if name not in self.fields:
            raise unknown(f"field of {self.name!r}", name, self.fields)
        return name

    def _located(self, cell: str, modality: Modality) -> AnyPath | str:
        """The path of the file that a text cell names; the text where there is no such file."""
        base, words = self.reader.base, modality.raw_text == "either"
        if base is None or modality.raw_text == "value":
            return cell
        if "://" in cell and not words:
            raise BadValue(f"a web address is no file, fetch it first: {cell[:200]}")
        if not words:
            return base / cell
        named = (
            len(cell) < 256 and Path(cell).suffix.lower() in modality.suffixes and "\n" not in cell
        )
        return base / cell if named and is_file_or_pipe(base / cell) else cell


def _columns(name: str, field: Field, reader: Reader) -> str | tuple[str, ...]:
    """Where the values of a field are: one column or, for a table, a column for each cell."""
    columns = columns_of(field.modality)
    if field.column or name in reader.columns or not columns:
        return _check(reader, field.column or name, f"fields.{name}")
    for column in columns:
        _check(reader, column, f"fields.{name}: columns")
    return columns


def is_read_from_cells(modality: Modality, reader: Reader) -> bool:
    """Whether a modality is read from a column for each cell, and the reader has them all."""
    columns = columns_of(modality)
    return bool(columns) and all(column in reader.columns for column in columns)


def columns_of(modality: Modality) -> tuple[str, ...]:
    """The columns that a modality names, for kinds that have such a parameter; else ()."""
    # A plug-in may have it too, so it is the parameter that counts and not the class.
    return tuple(getattr(modality, "columns", ()))


def _check(reader: Reader, column: str, where: str) -> str:
    try:
        return reader.check(column)
    except AmodalError as error:
        raise AmodalError(f"[{where}] in dataset.toml: {error}") from error


def _categories(cells: Sequence[Cell]) -> np.ndarray:
    values = np.full(len(cells), None, dtype=object)
    for i, cell in enumerate(cells):
        if isinstance(cell, float):  # whole numbers in a column that also has missing cells
            cell = None if cell != cell else int(cell) if cell.is_integer() else cell
        values[i] = None if cell is None or cell == "" else str(cell)
    return values


def _number(cell: Cell, label: str) -> float:
    try:
        return float("nan") if cell is None or cell == "" else number(cell)
    except (TypeError, ValueError):
        raise AmodalError(
            f"the label {label!r} is a number by dataset.toml, but a record has {cell!r}. "
            'Use kind = "category".'
        ) from None
