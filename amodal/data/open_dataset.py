"""`amodal.data.open`: a dataset from whatever names one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amodal.core import AmodalError
from amodal.data import bundled, readers, schema, sets
from amodal.data import infer_schema as decide
from amodal.data.dataset import Dataset
from amodal.data.infer import infer, infer_arrays
from amodal.data.measure import measured
from amodal.data.readers import Where
from amodal.data.remote import Remote, described_by, place
from amodal.modalities import Modality


def open_dataset(
    source, *, name: str = "", fields: Mapping[str, str | Modality] | None = None
) -> Dataset:
    """A dataset from
    - an address of what follows in object storage: s3://, gs://, az://, https://, …
    (docs/scaling.md); it may end in #FILE, a
      dataset.toml on this machine;
    - a folder, a table (CSV, TSV, JSONL, JSON, Parquet), a .tar, a saved Hugging Face dataset, or a
    packed folder;
      as its dataset.toml says if it has one, otherwise as it looks (see `amodal.data.init`);
    - the name of a bundled one, "globe" or "digits", or of a public one that was fetched:
    "tuxpaint" (`amodal data`
      lists them);
    - a dict of lists, arrays or tensors of one length; fields: column -> modality (a name, or
    made), where it shall not
      be guessed;
    - a Dataset, which is returned as it is.

    Raises AmodalError: nothing there (with the nearest names), nothing that can be read, or a
    dataset.toml with a mistake.
    """
    if isinstance(source, Dataset):
        return source
    if isinstance(source, Mapping):
        return infer_arrays(source, name=name, fields=fields)
    if fields:
        raise AmodalError(
            "`fields` is for values in memory. For data on disk write them into its dataset.toml."
        )
    path = place(source)
    if not path.exists() and str(source) in bundled.NAMES:
        path = bundled.path(str(source))
    elif not path.exists() and str(source) in sets.names():
        if not sets.there(str(source)):
            raise sets.missing(str(source))
        path = sets.where(str(source))
    readers.exists(path, (*bundled.NAMES, *sets.names()))
    if toml := described_by(path):
        return from_toml(toml, name=name, root=path)
    toml = _toml(path)
    return from_toml(toml, name=name) if toml else infer(path, name=name)


def from_toml(path: str | Path | Remote, *, name: str = "", root: Remote | None = None) -> Dataset:
    """The dataset that a dataset.toml describes; parameters that it leaves open are measured. root:
    the folder of the data, unless it is that of the dataset.toml."""
    path = place(path)
    described = schema.load(path)
    home = path.parent if root is None else root
    try:
        paths = readers.find(home if home.is_dir() else home.parent, described.records)
        reader = readers.open_records(paths, _where(described), decide.kinds(), described.key)
        called = (
            name or described.name or (path.resolve().parent.name if root is None else root.name)
        )
        dataset = Dataset(reader, described, home, called)
    except AmodalError as error:
        raise AmodalError(f"{path}: {error}") from error
    return measured(dataset)


def _toml(path: Path | Remote) -> Path | Remote | None:
    """The dataset.toml that describes this folder or this file, if there is one."""
    if path.suffix == ".toml":
        return path
    toml = (path if path.is_dir() else path.parent) / "dataset.toml"
    if not toml.exists():
        return None
    if path.is_dir() or any(found.resolve() == path.resolve() for found in _named(toml)):
        return toml
    return None


def _named(toml: Path | Remote) -> list[Path | Remote]:
    try:
        return readers.find(toml.parent, schema.load(toml).records)
    except AmodalError:  # it describes other data, and cannot even find that
        return []


def _where(described: schema.Schema) -> dict[str, Where]:
    """The files of each field, for data that is files. Fields of other columns, such as `json.age`,
    have none."""
    where = {}
    for name, field in described.fields.items():
        if (
            field.suffix
            or field.within
            or not (field.column or getattr(field.modality, "columns", ()))
        ):
            where[field.column or name] = Where(
                field.suffix or tuple(sorted(field.modality.suffixes)), field.within
            )
    return where
