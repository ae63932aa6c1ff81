"""dataset.toml: what a person says about a dataset. Strict: an unknown key is an error that offers
the nearest one.

name = "birds"                    # of the dataset; also: title, licence
records = "birds.csv"             # a table, a folder, tars, a saved Hugging Face dataset; globs and
                                  lists of them
key = "id"                        # column that names the records (default: hashes of the rows, or
                                  file names)
split_by = "site"                 # records that agree here stay in one part of the split (default:
                                  the key)
split = "part"                    # column with a split that the data brings (default: 80/10/10 by
                                  hash)

[fields.photo]                    # what the encoder sees
modality = "image"
column = "file"                   # of a table (default: the field's name)
suffix = [".jpg", ".png"]         # of files
from = "photos"                   # of files: only those below this folder
size = 64                         # parameters of the modality, measured where they are not given

[labels.species]                  # for evaluation only
kind = "category"                 # or "number"
column = "species"                # default: the label's name
unit = ""
event = ""                        # of a time: the label that says whether the event came then, or
                                  was still to come
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tomlkit
from tomlkit.exceptions import ParseError, TOMLKitError

from amodal import modalities
from amodal.core import AmodalError, unknown
from amodal.core.embeddings import FUSED
from amodal.data.remote import place
from amodal.modalities import Modality

KINDS = ("category", "number")
OWN = ("modality", "column", "suffix", "from")
"""The keys of a field that say where it is; the others belong to its modality."""


@dataclass(frozen=True)
class Field:
    """modality: how the field is read; column: of a table; suffix: endings of files; within: the
    folder they lie in (`from`); given: the parameters of the modality that somebody chose, None for
    all. The others are measured when the data is opened."""

    modality: Modality
    column: str = ""
    suffix: tuple[str, ...] = ()
    within: str = ""
    given: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Label:
    """What is known about some records, for evaluation. kind: "category" or "number"; unit: of
    numbers; column: "" for its name; event: of a survival time, the label that says whether the
    event came."""

    kind: str = "category"
    unit: str = ""
    column: str = ""
    event: str = field(default="", repr=False)  # no part of a dataset's fingerprint

    def __post_init__(self):
        if self.kind not in KINDS:
            raise unknown("kind of label", self.kind, KINDS)


@dataclass(frozen=True)
class Schema:
    """records: paths or globs, relative to the folder of dataset.toml. The rest as in the docstring
    of this module."""

    fields: dict[str, Field]
    labels: dict[str, Label] = field(default_factory=dict)
    records: tuple[str, ...] = (".",)
    name: str = ""
    title: str = ""
    licence: str = ""
    key: str = ""
    split_by: str = ""
    split: str = ""


TOP = tuple(f.name for f in dataclasses.fields(Schema))


def load(path: str | Path) -> Schema:
    """The schema in the file `path`. Raises AmodalError that names file, line, key and what was
    expected."""
    path = place(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
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
    """The schema that `text` describes. Raises AmodalError."""
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
    _known("dataset.toml", tree, TOP)
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
                f"a field cannot be called {name!r}: files are named after fields, so / and the like are no part of it"
            )
        if ":" in name or "." in name or name == FUSED:
            raise AmodalError(
                f"a field cannot be called {name!r}: views, fused vectors and parts of networks are named like that."
            )
    return Schema(fields, labels, _texts("records", records), **plain)


def _field(name: str, entry: dict) -> Field:
    where = f"fields.{name}"
    if "modality" not in entry:
        raise AmodalError(f"[{where}] needs a modality: one of {', '.join(modalities.names())}")
    kind = modalities.kind(_kind(f"{where}.modality", entry["modality"], str, "text"))
    parameters = [f.name for f in dataclasses.fields(kind)]
    _known(f"[{where}]", entry, (*OWN, *parameters))
    try:
        modality = modalities.make(
            entry["modality"], **{key: value for key, value in entry.items() if key not in OWN}
        )
    except AmodalError as error:
        raise AmodalError(f"[{where}]: {error}") from error
    column, within = (
        _kind(f"{where}.{k}", entry.get(k, ""), str, "text") for k in ("column", "from")
    )
    given = tuple(key for key in entry if key in parameters)
    return Field(
        modality,
        column,
        _texts(f"{where}.suffix", entry.get("suffix", [])),
        within.strip("/"),
        given,
    )


def _label(name: str, entry: dict) -> Label:
    _known(f"[labels.{name}]", entry, [f.name for f in dataclasses.fields(Label)])
    return Label(
        **{key: _kind(f"labels.{name}.{key}", value, str, "text") for key, value in entry.items()}
    )


def dumps(schema: Schema, comments: Mapping[str, str] | None = None) -> str:
    """The text of dataset.toml, with every parameter of each modality: what is left out would be
    measured anew when it is read.

    comments: lines above a key or table, by name: {"fields.photo": "..."}, {"": "..."} for the
    head.
    """
    comments = comments or {}
    document = tomlkit.document()
    for line in comments.get("", "").splitlines():
        document.add(tomlkit.comment(line))
    for name in ("name", "title", "licence", "records", "key", "split_by", "split"):
        value = getattr(schema, name)
        if name == "records":
            value = value[0] if len(value) == 1 else list(value)
        for line in comments.get(name, "").splitlines():
            document.add(tomlkit.comment(line))
        if value:
            document.add(name, value)
    for kind, entries in (("fields", schema.fields), ("labels", schema.labels)):
        group = tomlkit.table(is_super_table=True)
        for name, entry in entries.items():
            table = tomlkit.table()
            for line in comments.get(f"{kind}.{name}", "").splitlines():
                table.add(tomlkit.comment(line))
            for key, value in (
                _field_entry(entry) if kind == "fields" else _label_entry(entry)
            ).items():
                table.add(key, _item(value))
            group.add(name, table)
        if entries:
            document.add(kind, group)
    return tomlkit.dumps(document)


def _field_entry(f: Field) -> dict:
    config = modalities.config(f.modality)
    own = {
        "modality": config.pop("modality"),
        "column": f.column,
        "suffix": list(f.suffix),
        "from": f.within,
    }
    return {k: v for k, v in own.items() if v} | config


def _label_entry(label: Label) -> dict:
    return {"kind": label.kind} | {
        k: v for k in ("column", "unit", "event") if (v := getattr(label, k))
    }


def _item(value):
    """Tables inside a field in one line; long lists over as many lines as they need."""
    if isinstance(value, dict):
        inline = tomlkit.inline_table()
        inline.update(value)
        return inline
    if not isinstance(value, list):
        return value
    lines = [""]
    for entry in (tomlkit.item(each).as_string() for each in value):
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


def _kind(name: str, value, kind: type, word: str):
    if not isinstance(value, kind):
        raise AmodalError(f"{name} must be {word}, got {value!r}")
    return value


def _texts(name: str, value) -> tuple[str, ...]:
    """One text or a list of them."""
    texts = (
        (value,)
        if isinstance(value, str)
        else tuple(_kind(name, value, list, "text or a list of texts"))
    )
    return tuple(_kind(name, text, str, "text or a list of texts") for text in texts)


def _line(text: str, error: AmodalError) -> str:
    """Where in the file the key stands that an error speaks of; nothing if it cannot be told."""
    quoted = re.search(r"is called '([^']+)'", str(error))
    pattern = (
        rf"^\s*(?:{re.escape(quoted[1])}\s*=|.*=\s*[\"']{re.escape(quoted[1])}[\"'])"
        if quoted
        else None
    )
    found = pattern and re.search(pattern, text, re.MULTILINE)
    return f", line {text.count(chr(10), 0, found.end()) + 1}" if found else ""
