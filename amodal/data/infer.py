"""Write the dataset.toml of data that has none: find its records, guess what each column is, and
measure the fields."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from amodal import modalities
from amodal.core import AmodalError, AmodalWarning
from amodal.core.argument_types import check_type, is_path
from amodal.data import infer_schema, readers, schema
from amodal.data.dataset import Dataset, is_read_from_cells
from amodal.data.field_names import field_names
from amodal.data.infer_schema import UNREAD, ColumnGuess
from amodal.data.locate import locate
from amodal.data.measure import (
    SAMPLES,
    complete_fields,
    evenly_spaced,
    samples,
    why_unreadable,
)
from amodal.data.readers import Reader
from amodal.data.readers.base import Cell
from amodal.data.remote import AnyPath, Remote, Unreachable, as_path, local_schema
from amodal.data.report import Report, groups_of
from amodal.data.schema import Field, Label, Schema
from amodal.data.schema_file import check_free, write
from amodal.data.strays import tables_beside
from amodal.modalities import Modality

HEAD = """What this dataset is, written by `amodal init`. Edit freely, an unknown key is an error:
[fields.NAME] is what an encoder sees, [labels.NAME] is for evaluation only; columns may be moved.
Delete a parameter of a field to have it measured anew."""
"""The comment at the top of dataset.toml."""


def infer(
    path: str | Path | Remote, *, name: str = "", expected: Mapping[str, Modality] | None = None
) -> Dataset:
    """Open the records in a folder or file with a guessed schema.

    Args:
        path: of the data.
        name: of the dataset, in place of the path's.
        expected: field -> modality, taken from columns of these names where none is a field.

    Raises:
        AmodalError: there is nothing that can be read.
    """
    return _infer(as_path(path), name, expected)[0]


def init(path: str | Path, *, force: bool = False) -> Report:
    """Guess the schema of a folder or file, and write it to dataset.toml beside the data.

    Args:
        path: of the data. For an address that ends in #FILE the schema is written to that file on
            this machine; open the same address to use it.
        force: overwrite a dataset.toml.

    Returns:
        A report, to print.

    Raises:
        AmodalError: there is a dataset.toml already and not `force`, it cannot be written, or no
            field has a value that can be read.
    """
    check_type("the data", path, lambda one: isinstance(one, Remote) or is_path(one), "a path")
    data = as_path(path)
    folder = readers.exists(data) if data.is_dir() else readers.exists(data).parent
    toml = local_schema(data) or folder / "dataset.toml"
    check_free(toml, data, force)
    dataset, guesses = _readable(*_infer(data))
    text = schema.dumps(dataset.schema, {"": HEAD} | _comments(dataset, guesses))
    write(toml, data, text)
    return Report.of(dataset, guesses, toml)


def infer_arrays(
    columns: Mapping[str, Sequence[Cell]],
    *,
    name: str = "",
    fields: Mapping[str, str | Modality] | None = None,
    expected: Mapping[str, Modality] | None = None,
) -> Dataset:
    """Open values in memory.

    Args:
        columns: name -> N values.
        name: of the dataset.
        fields: column -> modality that shall not be guessed.
        expected: field -> modality, taken from columns of these names where none is a field.

    Raises:
        AmodalError: the columns differ in length, or none is a field.
    """
    make = partial(readers.Arrays, columns)
    return infer_reader(make, name=name, fields=fields, expected=expected)


def infer_reader(
    make: Callable[[str], Reader],
    *,
    name: str = "",
    fields: Mapping[str, str | Modality] | None = None,
    expected: Mapping[str, Modality] | None = None,
) -> Dataset:
    """Open what a reader reads.

    Args:
        make: name of the key column, "" for none -> reader.
        name: of the dataset.
        fields: column -> modality that shall not be guessed.
        expected: field -> modality, taken from columns of these names where none is a field.

    Raises:
        AmodalError: none of the columns is a field.
    """
    reader = make("")
    guesses = _guess(reader)
    key = next((column for column, guess in guesses.items() if guess.role == "key"), "")
    reader = make(key) if key else reader
    return _assemble(reader, guesses, Schema({}, name=name), None, fields or {}, expected)


def _infer(
    path: AnyPath, name: str = "", expected: Mapping[str, Modality] | None = None
) -> tuple[Dataset, dict[str, ColumnGuess]]:
    root, records = locate(readers.exists(path))
    paths = readers.find(root, records)
    reader = readers.open_records(paths, None, infer_schema.suffix_modalities())
    guesses = _guess(reader)
    key = next((column for column, guess in guesses.items() if guess.role == "key"), "")
    if key:
        reader = readers.open_records(paths, None, infer_schema.suffix_modalities(), key)
    base = Schema({}, records=records, name=name or path.resolve().stem, key=key)
    dataset = _assemble(reader, guesses, base, path, {}, expected)
    if beside := tables_beside(dataset.reader):
        warnings.warn(beside, AmodalWarning, stacklevel=4)
    return dataset, guesses


def _readable(
    dataset: Dataset, guesses: Mapping[str, ColumnGuess]
) -> tuple[Dataset, dict[str, ColumnGuess]]:
    """The data without fields that have no readable value, and why these are left out."""
    left = {name: why for name in dataset.fields if (why := why_unreadable(dataset, name))}
    if not left:
        return dataset, dict(guesses)
    fields = dataset.schema.fields
    out = {fields[n].column or n: ColumnGuess("out", reason=why) for n, why in left.items()}
    guesses = {**guesses, **out}
    remain = {name: field for name, field in fields.items() if name not in left}
    if not remain:
        raise AmodalError("no usable field: nothing here can be read.\n" + _reasons(guesses))
    schema = replace(dataset.schema, fields=remain)
    return Dataset(dataset.reader, schema, dataset.path, dataset.name), guesses


def _guess(reader: Reader) -> dict[str, ColumnGuess]:
    """What each column is. Of more than one key, the first whose name says so is the key."""
    numeric = infer_schema.number_names(c for c in reader.columns if _is_numeric(reader, c))
    guesses = {column: _guess_column(reader, column, numeric) for column in reader.columns}
    keys = [column for column, guess in guesses.items() if guess.role == "key"]
    best = next((k for k in keys if infer_schema.is_key_name(k)), keys[0] if keys else None)
    for column in keys:
        if isinstance(reader, readers.Files):
            reason = "an id; the records are called after their files"
            guesses[column] = ColumnGuess("out", reason=reason)
        elif column != best:
            guesses[column] = ColumnGuess("out", reason=f"another id beside {best!r}")
    return guesses


def _is_numeric(reader: Reader, column: str) -> bool:
    """Whether a column holds single numbers, by a few of its cells."""
    if isinstance(reader, readers.Files) and column in reader.patterns:
        return False
    few = evenly_spaced(len(reader.keys), 5)
    return any(infer_schema.is_number(_cell_at(reader, int(i), column)) for i in few)


def _guess_column(reader: Reader, column: str, numeric: Collection[str]) -> ColumnGuess:
    if isinstance(reader, readers.Files) and column in reader.patterns:
        pattern = reader.patterns[column]
        endings = {modalities.ending_of(f"x{ending}") for ending in pattern.suffixes}
        if endings <= infer_schema.by_content() - modalities.folder_suffixes():
            return infer_schema.guess_column(column, _some_cells(reader, column)[:20], list)
        return ColumnGuess("field", _kind_of(pattern) or "", infer_schema.FILES)
    if isinstance(reader, readers.Files) and column in ("folder", "subfolder"):
        distinct = len(set(reader.cells(column)) - {None})
        return (
            ColumnGuess("label", "category", f"{distinct} sub-folders")
            if distinct > 1
            else ColumnGuess("out", reason="one folder only")
        )
    return infer_schema.guess_column(
        column, _some_cells(reader, column), lambda: _whole(reader, column), reader.base, numeric
    )


def _cells_at(reader: Reader, column: str, among: np.ndarray | None = None) -> list[Cell]:
    """SAMPLES cells, spread evenly over the records, or over these."""
    among = np.arange(len(reader.keys)) if among is None else among
    return [_cell_at(reader, int(i), column) for i in among[evenly_spaced(len(among), SAMPLES)]]


def _whole(reader: Reader, column: str) -> list[Cell]:
    """All cells of a column, without those of damaged lines."""
    return [cell for i, cell in enumerate(reader.cells(column)) if i not in reader.damaged]


def _cell_at(reader: Reader, i: int, column: str) -> Cell:
    """A cell, None of a damaged line."""
    try:
        return reader.get(i, column)
    except Unreachable:
        raise
    except AmodalError:
        return None


def _some_cells(reader: Reader, column: str) -> list[Cell]:
    """Up to SAMPLES cells that are not empty, spread evenly over the data."""
    cells = _whole(reader, column) if len(reader.keys) <= SAMPLES else _cells_at(reader, column)
    if all(cell is None for cell in cells):
        cells = _cells_at(reader, column, reader.present(column).nonzero()[0])
    # Readers of tables turn lists into arrays for speed. An array would pass for a picture here.
    turned = reader.lists_as_arrays
    cells = [cell.tolist() if turned and isinstance(cell, np.ndarray) else cell for cell in cells]
    return [cell for cell in cells if not _is_empty(cell)]


def _is_empty(cell: Cell) -> bool:
    """Whether there is nothing in a cell: no text, an empty list, an array without a number."""
    if isinstance(cell, np.ndarray):
        return not cell.size or (cell.dtype.kind == "f" and bool(np.isnan(cell).all()))
    return cell is None or (isinstance(cell, (str, list, tuple, dict)) and not cell)


def _assemble(
    reader: Reader,
    guesses: Mapping[str, ColumnGuess],
    base: Schema,
    path: AnyPath | None,
    chosen: Mapping[str, str | Modality],
    expected: Mapping[str, Modality] | None,
) -> Dataset:
    """The dataset whose schema follows from the guesses, measured."""
    for column in chosen:
        reader.check(column)
    if "" in guesses:
        raise AmodalError("a column has no name; give it one")
    _warn_of_unread(guesses, chosen)
    fields: dict[str, Field] = {}
    names_of = field_names(
        [column for column, guess in guesses.items() if column in chosen or guess.role == "field"]
    )
    for column, guess in guesses.items():
        if column in chosen:
            kind, name = chosen[column], names_of[column]
            other = column if name != column else ""
            if not isinstance(kind, Modality):
                fields[name] = Field(modalities.make(kind), other, declared=())
            else:
                fields[name] = Field(kind, other)
        elif guess.role == "field":
            fields[names_of[column]] = _field(reader, column, guess, names_of[column])
    cells = [
        column for column, guess in guesses.items() if guess.role == "cell" and column not in chosen
    ]
    if cells:
        row = modalities.of_columns(cells)
        names = (modalities.name_of(row), "cells", "numbers")
        name = next(n for n in names if n not in fields and n not in reader.columns)
        fields[name] = Field(row, declared=("columns",))
    fields = fields or _expected_fields(reader, expected or {})
    if not fields:
        raise AmodalError(
            "no usable field: nothing here is a kind of data that can be learnt from.\n"
            + _reasons(guesses)
        )
    used = {*chosen, *(field.column or name for name, field in fields.items())}
    labels = {
        column: Label(guess.kind, guess.unit)
        for column, guess in guesses.items()
        if guess.role == "label" and column not in used
    }
    split = next((column for column, guess in guesses.items() if guess.role == "split"), "")
    schema = replace(base, fields=fields, labels=labels, split=split)
    return complete_fields(Dataset(reader, schema, path))


def _warn_of_unread(guesses: Mapping[str, ColumnGuess], chosen: Collection[str]) -> None:
    """Say which columns hold what nothing reads: who opens data in memory sees no report."""
    for column, guess in guesses.items():
        if guess.role == "out" and guess.reason.startswith(UNREAD) and column not in chosen:
            warnings.warn(
                f"the column {column!r} is left out: {guess.reason}", AmodalWarning, stacklevel=2
            )


def _expected_fields(reader: Reader, expected: Mapping[str, Modality]) -> dict[str, Field]:
    """The fields of a run that the columns can be, by their names."""
    names = {name: column for column, name in field_names(reader.columns).items()}
    fields = {
        name: Field(modality, names[name] if names[name] != name else "")
        for name, modality in expected.items()
        if name in names
    }
    return fields | {
        name: Field(modality)
        for name, modality in expected.items()
        if name not in fields and is_read_from_cells(modality, reader)
    }


def _field(reader: Reader, column: str, guess: ColumnGuess, name: str) -> Field:
    other = column if name != column else ""
    modality = modalities.make(guess.kind)
    suffix: tuple[str, ...] = ()
    within = ""
    if isinstance(reader, readers.Files) and column in reader.patterns:
        pattern = reader.patterns[column]
        others = [
            p for c, p in reader.patterns.items() if c != column and p.within == pattern.within
        ]
        alone = (
            not any(_kind_of(p) in (guess.kind, _kind_of(pattern)) for p in others)
            and set(pattern.suffixes) <= modality.suffixes
        )
        # Without a suffix, files with other endings of the modality that are added later belong to
        # the field as well.
        suffix = () if alone and not other else pattern.suffixes
        within = pattern.within
    return Field(modality, other, suffix, within, declared=())


def _kind_of(pattern: readers.FilePattern) -> str | None:
    """The modality of a column of files: `.png` of `.front.png` says which."""
    return infer_schema.suffix_modalities().get(modalities.ending_of(f"x{pattern.suffixes[0]}"))


def _reasons(guesses: Mapping[str, ColumnGuess]) -> str:
    lines = [
        f"  {column}: {guess.reason if guess.role == 'out' else f'a {guess.role}'}"
        for column, guess in guesses.items()
    ]
    return (
        "\n".join(lines[:20])
        + "\nIf one of them is a field all the same, say so in dataset.toml: "
        + "[fields.NAME] modality = ..."
    )


def _comments(dataset: Dataset, guesses: Mapping[str, ColumnGuess]) -> dict[str, str]:
    comments = {
        f"labels.{name}": guesses[name].reason for name in dataset.labels if name in guesses
    }
    if groups := groups_of(dataset):
        comments["split_by"] = "\n".join(
            f'split_by = "{name}"  # keeps each {name} in one part of the split' for name in groups
        )
    left = [f"{column}: {g.reason}" for column, g in guesses.items() if g.role == "out"]
    if left:
        comments[""] = HEAD + "\nLeft out: " + "; ".join(left)
    for name, f in dataset.schema.fields.items():
        guess = guesses.get(f.column or name)
        if guess and guess.role == "field" and "modality =" in guess.reason:
            comments[f"fields.{name}"] = guess.reason
    for name in dataset.fields:
        if note := dataset.fields[name].comment(samples(dataset, name)):
            before = comments.get(f"fields.{name}", "")
            comments[f"fields.{name}"] = f"{before}\n{note}".strip()
    for name, modality in dataset.fields.items():
        if modality.is_row and isinstance(dataset.columns[name], tuple):
            comments[f"fields.{name}"] = (
                "single numbers, read together; columns can be taken out or, from the labels, added"
            )
    return comments
