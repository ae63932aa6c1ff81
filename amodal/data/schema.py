"""dataset.toml: the schema of a dataset, written by people or by `amodal init`.

It is strict: an unknown key is an error that offers the nearest one.

    name = "birds"              # of the dataset; also: title, licence
    records = "birds.csv"       # a table, a folder, tars, a saved Hugging Face dataset; globs
    key = "id"                  # column that names the records (default: hashes, file names)
    split_by = "site"           # records that agree here stay in one part (default: the key)
    split = "part"              # column with a split of the data's own (default: 80/10/10)

    [fields.photo]              # what the encoder sees
    modality = "image"
    column = "file"             # of a table (default: the field's name)
    suffix = [".jpg", ".png"]   # of files
    from = "photos"             # of files: only those below this folder
    size = 64                   # parameters of the modality; what is left out is measured

    [labels.species]            # for evaluation only
    kind = "category"           # or "number"
    column = "species"          # default: the label's name
    unit = ""
    event = ""                  # of a survival time: the label with whether the event occurred
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import tomlkit
from tomlkit.exceptions import ParseError, TOMLKitError

from amodal import modalities
from amodal.core import AmodalError, unknown
from amodal.core.embeddings import FUSED
from amodal.core.regular_file import regular
from amodal.data.remote import AnyPath, as_path
from amodal.errors import described
from amodal.modalities import Modality

T = TypeVar("T")
KINDS = ("category", "number")
FIELD_KEYS = ("modality", "column", "suffix", "from")
"""The keys of a field itself; the others are parameters of its modality."""


@dataclass(frozen=True)
class Field:
    """A field of a dataset: [fields.NAME].

    Attributes:
        modality: that reads it.
        column: of a table, "" for the field's name.
        suffix: endings of its files, () for all that the modality reads.
        within: the folder that its files lie in (`from`), "" for any.
        declared: the parameters of the modality that somebody chose, None for all. The others are
            measured when the data is opened.
    """

    modality: Modality
    column: str = ""
    suffix: tuple[str, ...] = ()
    within: str = ""
    declared: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Label:
    """What is known about some records, for evaluation: [labels.NAME].

    Attributes:
        kind: "category" or "number".
        unit: of numbers.
        column: of the data, "" for the label's name.
        event: of a survival time, the label that says whether the event occurred.
    """

    kind: str = "category"
    unit: str = ""
    column: str = ""
    event: str = field(default="", repr=False)  # no part of a dataset's fingerprint

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of label", self.kind, KINDS)


@dataclass(frozen=True)
class Schema:
    """The content of a dataset.toml.

    Attributes:
        fields: by name.
        labels: by name.
        records: paths or globs, relative to the folder of dataset.toml.
        name: of the dataset.
        title: a line about it.
        licence: of the data.
        key: the column that names the records.
        split_by: the column by which records stay together in one part of the split.
        split: the column with a split of the data's own.
    """

    fields: dict[str, Field]
    labels: dict[str, Label] = field(default_factory=dict)
    records: tuple[str, ...] = (".",)
    name: str = ""
    title: str = ""
    licence: str = ""
    key: str = ""
    split_by: str = ""
    split: str = ""


TOP_KEYS = tuple(f.name for f in dataclasses.fields(Schema))


def load(path: str | AnyPath) -> Schema:
    """Read a dataset.toml.

    Raises:
        AmodalError: a mistake in it, with file, line, key and what was expected.
    """
    path = as_path(path)
    try:
        text = regular(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AmodalError(f"{path} cannot be read: {error}") from error
    try:
        return _loads(text)
    except ParseError as error:
        raise AmodalError(
            f"{path}, line {error.line}: this is not TOML: {str(error).partition(' at line')[0]}"
        ) from error
    except AmodalError as error:
        raise AmodalError(f"{path}{_line(text, error)}: {error}") from error


def loads(text: str) -> Schema:
    """Parse the text of a dataset.toml.

    Raises:
        AmodalError: a mistake in it.
    """
    try:
        return _loads(text)
    except ParseError as error:
        raise AmodalError(
            f"this is not TOML, line {error.line}: {str(error).partition(' at line')[0]}"
        ) from error


def _loads(text: str) -> Schema:
    try:
        tree = tomlkit.parse(text).unwrap()
    except ParseError:
        raise
    except (
        TOMLKitError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        raise AmodalError(f"this is not TOML: {type(error).__name__}: {error}") from error
    _known("dataset.toml", tree, TOP_KEYS)
    parts = {
        name: _kind(name, tree.pop(name, {}), dict, "a table") for name in ("fields", "labels")
    }
    records = tree.pop("records", ".")
    plain = {name: _kind(name, value, str, "text") for name, value in tree.items()}
    fields = {
        name: _field(name, _kind(f"fields.{name}", entry, dict, "a table"))
        for name, entry in parts["fields"].items()
    }
    labels = {
        name: _label(name, _kind(f"labels.{name}", entry, dict, "a table"))
        for name, entry in parts["labels"].items()
    }
    if not fields:
        kinds = " or ".join(f'"{name}"' for name in modalities.names())
        raise AmodalError(
            f"it describes no field. Add at least one: [fields.NAME] with modality = {kinds}"
        )
    for name in fields:
        if not name or any(c in name for c in "/\\") or not name.isprintable():
            raise AmodalError(
                f"a field cannot be called {name!r}: files are named after fields, "
                "so / and the like are no part of it"
            )
        if ":" in name or "." in name or name == FUSED:
            raise AmodalError(
                f"a field cannot be called {name!r}: views, fused vectors and parts of networks "
                "are named like that."
            )
    return Schema(fields, labels, _texts("records", records), **plain)


def _field(name: str, entry: Mapping[str, Any]) -> Field:
    where = f"fields.{name}"
    if "modality" not in entry:
        raise AmodalError(f"[{where}] needs a modality: one of {', '.join(modalities.names())}")
    kind = modalities.kind(_kind(f"{where}.modality", entry["modality"], str, "text"))
    parameters = parameters_of(kind)
    _known(f"[{where}]", entry, (*FIELD_KEYS, *parameters))
    values = {key: value for key, value in entry.items() if key not in FIELD_KEYS}
    try:
        modality = modalities.make(entry["modality"], **values)
    except AmodalError as error:
        raise AmodalError(f"[{where}]: {error}") from error
    column, within = (
        _kind(f"{where}.{k}", entry.get(k, ""), str, "text") for k in ("column", "from")
    )
    return Field(
        modality=modality,
        column=column,
        suffix=_texts(f"{where}.suffix", entry.get("suffix", [])),
        within=within.strip("/"),
        declared=tuple(key for key in entry if key in parameters),
    )


def parameters_of(kind: type[Modality]) -> list[str]:
    """The names of the parameters of a modality, without what a run learns."""
    # Modalities are dataclasses (`modalities.check_plugin`); only their base class is none.
    declared = dataclasses.fields(kind)  # type: ignore[arg-type]  # see above
    return [f.name for f in declared if not f.metadata.get("learnt")]


def _label(name: str, entry: Mapping[str, Any]) -> Label:
    _known(f"[labels.{name}]", entry, [f.name for f in dataclasses.fields(Label)])
    return Label(
        **{key: _kind(f"labels.{name}.{key}", value, str, "text") for key, value in entry.items()}
    )


def dumps(schema: Schema, comments: Mapping[str, str] | None = None) -> str:
    """The text of a dataset.toml.

    It has every parameter of each modality, since what is left out is measured when it is read.

    Args:
        schema: to write.
        comments: lines above a key or table, by name: {"fields.photo": "..."}; "" is the head of
            the file.
    """
    comments = comments or {}
    document = tomlkit.document()
    for line in comments.get("", "").splitlines():
        document.add(tomlkit.comment(line))
    records = list(schema.records)
    top = {
        "name": schema.name,
        "title": schema.title,
        "licence": schema.licence,
        "records": records[0] if len(records) == 1 else records,
        "key": schema.key,
        "split_by": schema.split_by,
        "split": schema.split,
    }
    for name, value in top.items():
        for line in comments.get(name, "").splitlines():
            document.add(tomlkit.comment(line))
        if value:
            document.add(name, tomlkit.item(value))
    tables = {
        "fields": {name: _field_entry(field) for name, field in schema.fields.items()},
        "labels": {name: _label_entry(label) for name, label in schema.labels.items()},
    }
    for kind, entries in tables.items():
        group = tomlkit.table(is_super_table=True)
        for name, entry in entries.items():
            table = tomlkit.table()
            for line in comments.get(f"{kind}.{name}", "").splitlines():
                table.add(tomlkit.comment(line))
            for key, value in entry.items():
                table.add(key, _item(value))
            group.add(name, table)
        if entries:
            document.add(kind, group)
    return tomlkit.dumps(document)


def _field_entry(f: Field) -> dict[str, Any]:
    config = modalities.config(f.modality)
    entry = {
        "modality": config.pop("modality"),
        "column": f.column,
        "suffix": list(f.suffix),
        "from": f.within,
    }
    parameters = {name: config[name] for name in parameters_of(type(f.modality))}
    return {k: v for k, v in entry.items() if v} | parameters


def _label_entry(label: Label) -> dict[str, Any]:
    entry = {"column": label.column, "unit": label.unit, "event": label.event}
    return {"kind": label.kind} | {k: v for k, v in entry.items() if v}


def _item(value: Any) -> Any:  # plain values, or items of tomlkit
    """Tables inside a field in one line; long lists over as many lines as they need."""
    if isinstance(value, dict):
        inline = tomlkit.inline_table()
        inline.update(value)
        return inline
    if not isinstance(value, list):
        return value
    lines = [""]
    for entry in (tomlkit.item(element).as_string() for element in value):
        if len(lines[-1]) + len(entry) > 110:
            lines.append("")
        lines[-1] += f"{entry}, "
    inner = (
        lines[0].rstrip(", ")
        if len(lines) == 1
        else "\n" + "".join(f"    {line.rstrip()}\n" for line in lines)
    )
    return tomlkit.array(f"[{inner}]")


def _known(where: str, entry: Iterable[str], names: Iterable[str]) -> None:
    for key in entry:
        if key not in names:
            raise unknown(f"key of {where}", key, names)


def _kind(name: str, value: object, kind: type[T], word: str) -> T:
    if not isinstance(value, kind):
        raise AmodalError(f"{name} must be {word}, got {described(value)}")
    return value


def _texts(name: str, value: object) -> tuple[str, ...]:
    """One text or a list of them."""
    expected = "text or a list of texts"
    texts: list[object] = [value] if isinstance(value, str) else _kind(name, value, list, expected)
    return tuple(_kind(name, text, str, expected) for text in texts)


def _line(text: str, error: AmodalError) -> str:
    """The line of the key that an error is about, "" if it is not known."""
    quoted = re.search(r"is called '([^']+)'", str(error))
    pattern = (
        rf"^\s*(?:{re.escape(quoted[1])}\s*=|.*=\s*[\"']{re.escape(quoted[1])}[\"'])"
        if quoted
        else None
    )
    match = re.search(pattern, text, re.MULTILINE) if pattern else None
    return f", line {text.count(chr(10), 0, match.end()) + 1}" if match else ""
