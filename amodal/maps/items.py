"""What maps are made of: a picture of each record, or two pictures of one place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from urllib.parse import quote

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.data.schema import Field
from amodal.modalities import BadValue, Modality, name_of
from amodal.modalities.shared.rasters import picture_sides

MAX_NAME = 120
"""Characters of a file's name; longer keys end in a hash."""


@dataclass(frozen=True)
class View:
    """Pictures that the encoder reads as its field.

    Args:
        dataset: With that field alone.
        rows: (N,) which records.
    """

    dataset: Dataset
    rows: np.ndarray


@dataclass(frozen=True)
class Items:
    """N things that get a map.

    Args:
        keys: Of the records, of the later one where there are two.
        views: One, or before and after.
        columns: Further columns of the table, such as the place.
        labelled: (N,) rows of the records whose labels count.
        left_out: Records without the pictures.
    """

    keys: list[str]
    views: tuple[View, ...]
    labelled: np.ndarray
    columns: Mapping[str, Sequence[object]] = field(default_factory=dict)
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def names(self) -> list[str]:
        """Of their files."""
        return [file_name(key) for key in self.keys]


def file_name(key: str) -> str:
    """A name for files of a record, without its folder and ending."""
    name = quote(key, safe=" ()+,=@").lstrip(".") or "_"
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 17]}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"


def view_of(dataset: Dataset, source: str, name: str, modality: Modality) -> Dataset:
    """The records with one field, which is read as the encoder's.

    Args:
        dataset: Where the records are.
        source: A field or a column of theirs.
        name: Of the encoder's field.
        modality: Of the encoder's field.

    Raises:
        AmodalError: For an unknown source, and one of another modality.
    """
    described = dataset.schema.fields.get(source)
    if described is None and source not in dataset.reader.columns:
        raise unknown(
            f"field of {dataset.name!r}", source, {*dataset.fields, *dataset.reader.columns}
        )
    if described is not None and type(described.modality) is not type(modality):
        raise AmodalError(
            f"{source} is {name_of(described.modality)}, and maps are of {name}, which is "
            f"{name_of(modality)}"
        )
    column = dataset.columns.get(source, source)
    read = Field(modality, column=column if isinstance(column, str) else source)
    return Dataset(
        dataset.reader, replace(dataset.schema, fields={name: read}), dataset.path, dataset.name
    )


def single(dataset: Dataset, name: str, modality: Modality, rows: np.ndarray) -> Items:
    """One picture of each record.

    Args:
        dataset: Where the records are.
        name: The encoder's field, which the data has under this name.
        modality: Of the field.
        rows: Which records.

    Raises:
        AmodalError: If no record has one.
    """
    view = view_of(dataset, name, name, modality)
    chosen = rows[view.present(name)[rows]]
    _some(chosen, f"no record has {name!r}")
    keys = [dataset.keys[i] for i in chosen]
    return Items(keys, (View(view, chosen),), chosen, left_out=len(rows) - len(chosen))


def changes_of_fields(
    dataset: Dataset,
    sources: tuple[str, str],
    name: str,
    modality: Modality,
    rows: np.ndarray,
) -> Items:
    """Two pictures of each record.

    Args:
        dataset: Where the records are.
        sources: Fields or columns with the picture before and the one after.
        name: The encoder's field, as which both are read.
        modality: Of the field.
        rows: Which records.

    Raises:
        AmodalError: If one of them is none, or no record has both.
    """
    if sources[0] == sources[1]:
        raise AmodalError(f"a change is between two fields, not between {sources[0]} and itself")
    before, after = (view_of(dataset, source, name, modality) for source in sources)
    chosen = rows[(before.present(name) & after.present(name))[rows]]
    _some(chosen, f"no record has both {sources[0]} and {sources[1]}")
    keys = [dataset.keys[i] for i in chosen]
    views = View(before, chosen), View(after, chosen)
    return Items(keys, views, chosen, left_out=len(rows) - len(chosen))


def changes_over_time(
    dataset: Dataset,
    source: str,
    by: str,
    time: str,
    name: str,
    modality: Modality,
    rows: np.ndarray,
) -> Items:
    """Pictures of one place, each with the next one in time.

    Args:
        dataset: Where the records are.
        source: The field or column with the pictures.
        by: The label or column that says which place a record shows.
        time: The label or column by which records of a place are in order; numbers or dates.
        name: The encoder's field.
        modality: Of the field.
        rows: Which records.

    Raises:
        AmodalError: For an unknown column, and if no place has two pictures.
    """
    view = view_of(dataset, source, name, modality)
    places, times = (_cells(dataset, column) for column in (by, time))
    chosen = rows[view.present(name)[rows]]
    known = [i for i in chosen.tolist() if places[i] is not None and times[i] is not None]
    order = _in_order([times[i] for i in known], time)
    grouped: dict[str, list[int]] = {}
    for position in order:
        grouped.setdefault(str(places[known[position]]), []).append(known[position])
    steps = [(place, *step) for place, group in grouped.items() for step in pairwise(group)]
    _some(steps, f"no {by} has two records with {source} and {time}: there is nothing to compare")
    before, after = (np.array([step[k] for step in steps]) for k in (1, 2))
    keys = [dataset.keys[i] for i in after]
    columns: dict[str, Sequence[object]] = {
        "before": [dataset.keys[i] for i in before],
        by: [step[0] for step in steps],
        f"{time} before": [str(times[i]) for i in before],
        f"{time} after": [str(times[i]) for i in after],
    }
    used = {*before.tolist(), *after.tolist()}
    views = View(view, before), View(view, after)
    return Items(keys, views, after, columns, left_out=len(rows) - len(used))


def _cells(dataset: Dataset, name: str) -> list[object]:
    if name in dataset.labels:
        name = dataset.labels[name].column or name
    elif name not in dataset.reader.columns:
        raise unknown(f"column of {dataset.name!r}", name, {*dataset.labels, *dataset.columns})
    return list(dataset.reader.cells(name))


def _in_order(times: Sequence[object], name: str) -> list[int]:
    """Positions of times in ascending order: of numbers by value, of others as they are written.

    Dates as ISO 8601 writes them are in order as text.
    """
    try:
        numbers = [float(str(t)) for t in times]
        return sorted(range(len(times)), key=lambda i: numbers[i])
    except ValueError:
        pass
    texts = [str(t) for t in times]
    if len({len(t) for t in texts}) > 1 and not all(t[:4].isdecimal() for t in texts):
        raise AmodalError(
            f"{name} is neither a number nor a date that begins with its year, such as "
            f"2024-05-31, so records are in no order by it: {texts[0]!r}"
        )
    return sorted(range(len(times)), key=lambda i: texts[i])


def _some(chosen: Sequence[object] | np.ndarray, otherwise: str) -> None:
    if not len(chosen):
        raise AmodalError(otherwise)


def check_sides(items: Items, label: Dataset | None, label_name: str) -> None:
    """Check that the pictures of an item are of one size, and so its raster of labels.

    Values that cannot be read are left for the embedding to report.

    Args:
        items: With one view or two.
        label: The dataset that has the raster, None for none.
        label_name: Of the raster.

    Raises:
        AmodalError: For the first item whose sizes differ.
    """
    if len(items.views) == 1 and label is None:
        return
    for n, key in enumerate(items.keys):
        sides: dict[str, tuple[int, int]] = {}
        try:
            titles = ("the picture before", "the picture after")[-len(items.views) :]
            for title, view in zip(titles if len(items.views) > 1 else ("picture",), items.views):
                raw = view.dataset.raw(int(view.rows[n]), next(iter(view.dataset.fields)))
                sides[title] = picture_sides(raw) if raw is not None else (0, 0)
            if label is not None:
                raw = label.raw(int(items.labelled[n]), label_name)
                if raw is not None:
                    sides[label_name] = picture_sides(raw)
        except BadValue:
            continue
        if len(set(sides.values())) > 1:
            sizes = ", ".join(f"{title} {h} x {w}" for title, (h, w) in sides.items())
            raise AmodalError(
                f"pixels of one place are compared, and sizes differ in record {key}: {sizes}. "
                "Bring them to one grid first."
            )
