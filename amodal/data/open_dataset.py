"""`amodal.data.open`: a dataset from whatever names one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset
from torch.utils.data import Subset as TorchSubset

from amodal.core import AmodalError
from amodal.core.argument_types import check_type, has_names, is_path
from amodal.core.registry import canonical, find_plugin
from amodal.data import bundled, infer_schema, readers, schema, sets
from amodal.data.dataset import Dataset, columns_of
from amodal.data.in_memory import rows_of
from amodal.data.infer import infer, infer_arrays, infer_reader
from amodal.data.measure import complete_fields
from amodal.data.readers import FilePattern
from amodal.data.readers.in_memory import Numbered
from amodal.data.remote import AnyPath, Remote, as_path, local_schema
from amodal.data.subset import choose, is_subset, read_subset
from amodal.modalities import Modality

Openable = str | AnyPath | Mapping[str, Sequence[Any]] | Dataset | Iterable[Any] | Numbered
"""What `open_dataset` takes."""


def open_dataset(
    source: Openable,
    *,
    name: str = "",
    fields: Mapping[str, str | Modality] | None = None,
    limit: int | None = None,
    expected: Mapping[str, Modality] | None = None,
) -> Dataset:
    """Open a dataset.

    Args:
        source: one of
            - a folder, a table (CSV, TSV, JSONL, JSON, Parquet), a .tar, a saved Hugging Face
              dataset or a packed folder. Its dataset.toml says what is in it. Without one, the
              fields are guessed (see `amodal.data.init`);
            - an address of one of these in object storage: s3://, gs://, az://, https://, …
              (docs/scaling.md). It may end in #FILE, a dataset.toml on this machine;
            - a folder that `amodal curate` wrote: a choice of the records of other data;
            - the name of a bundled set, "globe" or "digits", or of a public one that was fetched,
              as "tuxpaint" (`amodal data` lists them; installed plug-ins can add to them);
            - a dict of lists, arrays or tensors of one length;
            - rows in memory (`amodal.data.in_memory.rows_of`): a data frame, an Arrow table, a list
              of dicts, a dataset of Hugging Face or torch, a stream of records, an array of records
              of one field;
            - a Dataset, which is returned as it is, or a `torch.utils.data.Subset` of one.
        name: of the dataset, in place of its own.
        fields: of what is in memory, column -> modality (a name, or an object) that shall not be
            guessed.
        limit: of a stream, records that are read at most.
        expected: field -> modality that a run reads. Where no column is guessed to be a field,
            those of these names are: a few texts of one word would pass for labels or keys.

    Raises:
        AmodalError: nothing is there (with the nearest names), nothing can be read, or there is a
            mistake in dataset.toml.
    """
    source = _unwrapped(source)
    if isinstance(source, Dataset):
        return source
    if not isinstance(source, str | bytes | os.PathLike | Remote):
        if (make := rows_of(source, limit)) is not None:
            check_type("fields", fields or {}, has_names, "a dict of column -> modality")
            return infer_reader(make, name=name or "rows", fields=fields, expected=expected)
    if isinstance(source, Mapping):
        check_type("data in memory", source, has_names, "a dict of name -> values")
        check_type("fields", fields or {}, has_names, "a dict of column -> modality")
        return infer_arrays(source, name=name, fields=fields, expected=expected)
    if not isinstance(source, str | os.PathLike | Remote):
        raise AmodalError(
            "data is a path, an address, the name of a set, a dict of name -> values, a data "
            "frame, a list of dicts, a dataset of Hugging Face or torch, or a Dataset, not of type "
            f"{type(source).__name__}"
        )
    if fields:
        raise AmodalError(
            "`fields` is for values in memory. For data on disk write them into its dataset.toml."
        )
    if limit is not None:
        raise AmodalError(
            "limit is for streams. Of data on disk take some records of the whole: "
            f"amodal.as_dataset(data).subset(range({limit!r}))"
        )
    if not isinstance(source, Remote):
        check_type("data", source, is_path, "the path of a file or folder, or the name of a set")
    path = as_path(source)
    if not path.exists():  # names of sets are asked for only now: plug-ins may be broken
        path = _named_set(str(source)) or path
    if toml := local_schema(path):
        return from_toml(toml, name=name, root=path)
    if isinstance(path, Path) and is_subset(path):
        return _subset(path, name)
    declared = _toml(path)
    return from_toml(declared, name=name) if declared else infer(path, name=name, expected=expected)


def _unwrapped(source: Any) -> Any:
    """A choice of a Dataset's records by torch as a Dataset: its items are decoded ones, in which
    nothing could be found any more."""
    if isinstance(source, TorchSubset):
        whole = _unwrapped(source.dataset)
        return whole.subset(source.indices) if isinstance(whole, Dataset) else source
    if isinstance(source, ConcatDataset) and any(
        isinstance(_unwrapped(part), Dataset) for part in source.datasets
    ):
        raise AmodalError(
            "items of this ConcatDataset are decoded already. Give the dataset itself, or "
            "amodal.Mixture([first, second]) of two"
        )
    return source


def _subset(path: Path, name: str) -> Dataset:
    """Some records of other data, see `amodal.data.subset`."""
    folder = path if path.is_dir() else path.parent
    data, keys = read_subset(path)
    beside = folder / data
    if beside.resolve() == folder.resolve():
        raise AmodalError(f"{folder} names itself as its data; name that which it is a choice of")
    try:
        whole = open_dataset(beside if beside.exists() else data, name=name)
    except AmodalError as error:
        raise AmodalError(f"{folder} is a choice of the records of {data}: {error}") from error
    return choose(whole, keys, folder)


def _named_set(name: str) -> Path | None:
    """The folder of a bundled or a public set.

    Raises AmodalError for a public set that is not built, and for a name that is neither a set nor
    a path.
    """
    if name in bundled.NAMES:
        find_plugin("datasets", name)  # warns of one of this name
        return bundled.path(name)
    if canonical(name) in sets.names():
        if not sets.is_built(name):
            raise sets.not_built_error(name)
        return sets.folder_of(name)
    sets.check_not_gone(name)
    readers.exists(as_path(name), (*bundled.NAMES, *sets.names()))
    return None


def from_toml(path: str | AnyPath, *, name: str = "", root: AnyPath | None = None) -> Dataset:
    """The dataset that a dataset.toml describes. Parameters that it leaves open are measured.

    Args:
        path: of the dataset.toml.
        name: of the dataset, in place of its own.
        root: the folder of the data, unless it is that of the dataset.toml.

    Raises:
        AmodalError: the file or the data cannot be read.
    """
    path = as_path(path)
    declared = schema.load(path)
    home = path.parent if root is None else root
    try:
        paths = readers.find(home if home.is_dir() else home.parent, declared.records)
        reader = readers.open_records(
            paths, _patterns(declared), infer_schema.suffix_modalities(), declared.key
        )
        default = path.resolve().parent.name if root is None else root.name
        dataset = Dataset(reader, declared, home, name or declared.name or default)
    except AmodalError as error:
        raise AmodalError(f"{path}: {error}") from error
    return complete_fields(dataset)


def _toml(path: AnyPath) -> AnyPath | None:
    """The dataset.toml that describes this folder or this file, if there is one."""
    if path.suffix == ".toml":
        return path
    toml = (path if path.is_dir() else path.parent) / "dataset.toml"
    if not toml.exists():
        return None
    if path.is_dir() or any(file.resolve() == path.resolve() for file in _records_of(toml)):
        return toml
    return None


def _records_of(toml: AnyPath) -> list[AnyPath]:
    try:
        return readers.find(toml.parent, schema.load(toml).records)
    except AmodalError:  # it describes other data, and cannot even find that
        return []


def _patterns(declared: schema.Schema) -> dict[str, FilePattern]:
    """The files of each field, for data that is files. Fields of other columns, such as `json.age`,
    have none."""
    patterns = {}
    for name, field in declared.fields.items():
        if field.suffix or field.within or not (field.column or columns_of(field.modality)):
            suffixes = field.suffix or tuple(sorted(field.modality.suffixes))
            patterns[field.column or name] = FilePattern(suffixes, field.within)
    return patterns
