"""Look at data that nobody described: find its records, decide what each column is, measure the
fields; write dataset.toml."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from amodal import modalities
from amodal.core import AmodalError
from amodal.data import infer_schema as decide
from amodal.data import readers, schema
from amodal.data.dataset import Dataset
from amodal.data.infer_schema import Verdict
from amodal.data.locate import locate
from amodal.data.measure import SAMPLES, measured, spread
from amodal.data.readers import Reader
from amodal.data.remote import Remote, described_by, place
from amodal.data.report import Report, groups_of
from amodal.data.schema import Field, Label, Schema
from amodal.modalities import Modality

RESERVED = frozenset(
    """fused T_destination add_module apply bfloat16 buffers call_super_init children clear compile copy cpu cuda double
    dump_patches eval extra_repr float forward fromkeys get get_buffer get_extra_state get_parameter get_submodule half
    ipu items keys load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
    popitem register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule setdefault share_memory smart_apply state_dict to
    to_empty train training type update values xpu zero_grad""".split()
)
"""What no field can be called: the encoder keeps a part of itself for each field under its name,
where torch has attributes of its own (one of them by transformers). Those that begin with _ come on
top."""
HEAD = """What this dataset is, written by `amodal init`. Edit freely, an unknown key is an error:
[fields.NAME] is what an encoder sees, [labels.NAME] is for evaluation only; a column may be moved between them.
Delete a parameter of a field to have it measured again."""


def infer(path: str | Path | Remote, *, name: str = "") -> Dataset:
    """The records in a folder or file, their schema guessed. Raises AmodalError if there is nothing
    that can be read."""
    return _look(place(path), name)[0]


def init(path: str | Path, *, force: bool = False) -> Report:
    """Guess the schema of a folder or file, write it to dataset.toml beside the data, and report
    what was found. Of data at an address that ends in #FILE to that file of this machine, which
    goes where the address with it is given.

    Raises AmodalError if there is a dataset.toml already and not `force`, and where it cannot be
    written.
    """
    path = place(path)
    toml = (readers.exists(path) if path.is_dir() else readers.exists(path).parent) / "dataset.toml"
    toml = described_by(path) or toml
    if toml.exists() and not force:
        raise AmodalError(
            f"{toml} is there already. Edit it, or write it anew with --force (in Python: init(path, force=True))."
        )
    dataset, verdicts = _look(path)
    text = schema.dumps(dataset.schema, {"": HEAD} | _comments(dataset, verdicts))
    if isinstance(toml, Remote):
        try:
            toml.write_text(text)
        except (AmodalError, NotImplementedError) as error:
            raise AmodalError(
                f"{toml} cannot be written ({error}). Keep it on this machine: give '{path}#photos.toml' as the address, here and wherever "
                "the data is asked for."
            ) from error
    else:
        part = toml.with_suffix(".toml.part")
        part.write_text(text, encoding="utf-8")
        part.replace(toml)
    return Report.of(dataset, verdicts, toml)


def infer_arrays(
    columns: Mapping[str, Sequence],
    *,
    name: str = "",
    fields: Mapping[str, str | Modality] | None = None,
) -> Dataset:
    """Values in memory as a dataset. fields: column -> modality, where it shall not be guessed."""
    verdicts = _decide(readers.Arrays(columns))
    key = next((column for column, verdict in verdicts.items() if verdict.role == "key"), "")
    return _assemble(
        readers.Arrays(columns, key), verdicts, Schema({}, name=name), None, fields or {}
    )


def _look(path: Path | Remote, name: str = "") -> tuple[Dataset, dict[str, Verdict]]:
    root, records = locate(readers.exists(path))
    paths = readers.find(root, records)
    reader = readers.open_records(paths, None, decide.kinds())
    verdicts = _decide(reader)
    key = next((column for column, verdict in verdicts.items() if verdict.role == "key"), "")
    if key:
        reader = readers.open_records(paths, None, decide.kinds(), key)
    base = Schema({}, records=records, name=name or path.resolve().stem, key=key)
    return _assemble(reader, verdicts, base, path, {}), verdicts


def _decide(reader: Reader) -> dict[str, Verdict]:
    """What each column is; of several keys the first that is called one."""
    beside = {column for column in reader.columns if _single(reader, column)}
    verdicts = {column: _verdict(reader, column, beside) for column in reader.columns}
    keys = [column for column, verdict in verdicts.items() if verdict.role == "key"]
    best = next((k for k in keys if decide.is_key_name(k)), keys[0] if keys else None)
    for column in keys:
        if isinstance(reader, readers.Files):
            verdicts[column] = Verdict("out", why="an id; the records are called after their files")
        elif column != best:
            verdicts[column] = Verdict("out", why=f"another id beside {best!r}")
    return verdicts


def _single(reader: Reader, column: str) -> bool:
    """Whether a column holds single numbers, by a few of its cells."""
    if isinstance(reader, readers.Files) and column in reader.where:
        return False
    return any(decide.single(reader.get(int(i), column)) for i in spread(len(reader.keys), 5))


def _verdict(reader: Reader, column: str, beside: Collection[str]) -> Verdict:
    if isinstance(reader, readers.Files) and column in reader.where:
        where = reader.where[column]
        if {Path("x" + ending).suffix for ending in where.suffixes} <= decide.NUMPY:
            return decide.column(column, _some(reader, column)[:20], list)
        return Verdict("field", _kind_of(where), decide.FILES)
    if isinstance(reader, readers.Files) and column in ("folder", "subfolder"):
        distinct = len(set(reader.cells(column)) - {None})
        return (
            Verdict("label", "category", f"{distinct} sub-folders")
            if distinct > 1
            else Verdict("out", why="one folder only")
        )
    return decide.column(
        column, _some(reader, column), lambda: reader.cells(column), reader.base, beside
    )


def _some(reader: Reader, column: str) -> list:
    """Up to SAMPLES cells that are not empty, from all over the data."""
    cells = [reader.get(int(i), column) for i in spread(len(reader.keys), SAMPLES)]
    if all(cell is None for cell in cells):
        have = reader.present(column).nonzero()[0]
        cells = [reader.get(int(i), column) for i in have[spread(len(have), SAMPLES)]]
    # Lists that a table holds were made arrays for speed; here it matters that they are lists: not
    # pictures, say.
    listed = isinstance(reader, readers.Table)
    cells = [cell.tolist() if listed and isinstance(cell, np.ndarray) else cell for cell in cells]
    return [cell for cell in cells if cell is not None and not (isinstance(cell, str) and not cell)]


def _assemble(
    reader: Reader, verdicts: dict[str, Verdict], base: Schema, path: Path | None, chosen: Mapping
) -> Dataset:
    """The schema that follows from the verdicts, opened and measured."""
    for column in chosen:
        reader.check(column)
    fields: dict[str, Field] = {}
    called = _field_names(
        [column for column, v in verdicts.items() if column in chosen or v.role == "field"]
    )
    for column, verdict in verdicts.items():
        if column in chosen:
            kind = chosen[column]
            given = None if not isinstance(kind, str) else ()
            other = column if called[column] != column else ""
            fields[called[column]] = Field(
                modalities.make(kind) if isinstance(kind, str) else kind, other, given=given
            )
        elif verdict.role == "field":
            fields[called[column]] = _field(reader, column, verdict, called[column])
    cells = [
        column
        for column, verdict in verdicts.items()
        if verdict.role == "cell" and column not in chosen
    ]
    if cells:
        row = modalities.of_columns(cells)
        names = (modalities.name_of(row), "cells", "numbers")
        name = next(n for n in names if n not in fields and n not in reader.columns)
        fields[name] = Field(row, given=("columns",))
    if not fields:
        raise AmodalError(
            "no usable field: nothing here is a kind of data that can be learnt from.\n"
            + _why_not(verdicts)
        )
    labels = {
        c: Label(v.kind, v.unit)
        for c, v in verdicts.items()
        if v.role == "label" and c not in chosen
    }
    split = next((c for c, v in verdicts.items() if v.role == "split"), "")
    return measured(Dataset(reader, replace(base, fields=fields, labels=labels, split=split), path))


def _field(reader: Reader, column: str, verdict: Verdict, name: str) -> Field:
    other = column if name != column else ""
    modality = modalities.make(verdict.kind)
    suffix: tuple[str, ...] = ()
    within = ""
    if isinstance(reader, readers.Files) and column in reader.where:
        where = reader.where[column]
        others = [
            w for other, w in reader.where.items() if other != column and w.within == where.within
        ]
        alone = (
            not any(_kind_of(w) == verdict.kind for w in others)
            and set(where.suffixes) <= modality.suffixes
        )
        # Without a suffix, files with other endings of the modality that are added later belong to
        # the field as well.
        suffix = () if alone and not other else where.suffixes
        within = where.within
    return Field(modality, other, suffix, within, given=())


def _kind_of(where: readers.Where) -> str | None:
    """The modality of a column of files: `.png` of `.front.png` says which."""
    return decide.kinds().get(Path("x" + where.suffixes[0]).suffix)


def _field_names(columns: Sequence[str]) -> dict[str, str]:
    """column -> a name that can stand in `image:2`, on a command line and in a network, different
    for each."""
    names: dict[str, str] = {}
    for column in sorted(
        columns, key=lambda c: c != _field_name(c)
    ):  # a column that can keep its name does
        name = _field_name(column)
        while name in names.values():
            name += "_"
        names[column] = name
    return names


def _field_name(column: str) -> str:
    name = re.sub(r"[:./\\]", "_", column.removeprefix("json.").strip()) or "field"
    name = "".join(c if c.isprintable() else "_" for c in name)
    return f"{name}_" if name in RESERVED or name.startswith("_") else name


def _why_not(verdicts: dict[str, Verdict]) -> str:
    lines = [
        f"  {column}: {verdict.why if verdict.role == 'out' else f'a {verdict.role}'}"
        for column, verdict in verdicts.items()
    ]
    return (
        "\n".join(lines[:20])
        + "\nIf one of them is a field all the same, say so in dataset.toml: [fields.NAME] modality = ..."
    )


def _comments(dataset: Dataset, verdicts: dict[str, Verdict]) -> dict[str, str]:
    comments = {f"labels.{name}": verdicts[name].why for name in dataset.labels if name in verdicts}
    if groups := groups_of(dataset):
        comments["split_by"] = "\n".join(
            f'split_by = "{name}"  # keeps each {name} in one part of the split' for name in groups
        )
    left = [f"{column}: {v.why}" for column, v in verdicts.items() if v.role == "out"]
    if left:
        comments[""] = HEAD + "\nLeft out: " + "; ".join(left)
    for name, f in dataset.schema.fields.items():
        verdict = verdicts.get(f.column or name)
        if verdict and verdict.role == "field" and "modality =" in verdict.why:
            comments[f"fields.{name}"] = verdict.why
    for name, modality in dataset.fields.items():
        if modality.is_row and isinstance(dataset.columns[name], tuple):
            comments[f"fields.{name}"] = (
                "single numbers, read together; columns can be taken out or, from the labels, added"
            )
    return comments
