"""Classes by name and by what is known of them, and the sentences that stand for each.

A class has wordings: its name, descriptions in its place, or its name with its attributes behind
it. Each wording is put into each template, and the class is the mean of the unit vectors of all of
these sentences (Radford et al. 2021, arXiv:2103.00020, 3.1.4).
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, unknown
from amodal.errors import described
from amodal.inference.knowledge_prompts import knowledge_prompts, plain

ClassesLike = str | Path | Mapping[str, Any] | Sequence[str]
"""Names with commas between, a file (.csv, .toml, .json, or .txt with a name a line), a list of
names, or name -> what is known."""
TemplatesLike = str | Path | Sequence[str]
"""Templates, files of templates (a line each), and names of `TEMPLATE_SETS`."""

TEMPLATE_SETS: Mapping[str, tuple[str, ...]] = {
    "name": ("{}",),
    "photo": (
        "a photo of a {}.",
        "a picture that shows a {}.",
        "a close view of a {}.",
        "a small {} seen from afar.",
        "a dim photo of a {}.",
        "one {} and nothing else.",
    ),
    "drawing": (
        "a drawing of a {}.",
        "an icon of a {}.",
        "a {} drawn in a few colours.",
        "a sign that stands for a {}.",
    ),
    "recording": ("the sound of a {}.", "a recording of a {}.", "one hears a {}."),
    "report": ("{}", "{} is seen", "there is {}", "findings of {}"),
}
"""Name -> templates that ship."""
SUFFIXES = (".csv", ".toml", ".json", ".txt")
RESERVED = ("name", "descriptions")
"""Keys of an entry that are no attributes."""
NAME_COLUMNS = ("class", "name", "label")
"""The column of a table of classes that names them; by default the first."""


@dataclass(frozen=True)
class Classes:
    """Classes and what is known of each.

    Args:
        wordings: Class -> words that stand for it.
        cells: Class -> its attributes that have one value: name -> value.
    """

    wordings: Mapping[str, tuple[str, ...]]
    cells: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.wordings)

    @property
    def names(self) -> list[str]:
        """Of the classes, in their order."""
        return [*self.wordings]

    def prompts(self, templates: Sequence[str]) -> dict[str, list[str]]:
        """Class -> its sentences: each wording in each template."""
        return {
            name: list(dict.fromkeys(t.replace("{}", w) for w in words for t in templates))
            for name, words in self.wordings.items()
        }

    def matched(self, names: Sequence[str]) -> Classes:
        """Classes under the names of a label, which are compared in lower case and without
        underscores. Names that are not described stand for themselves; other classes stay.

        Args:
            names: Of the label.
        """
        have = {plain(name): name for name in self.names}
        renamed = {have[plain(n)]: n for n in names if plain(n) in have}
        wordings = {renamed.get(n, n): words for n, words in self.wordings.items()}
        wordings |= {n: (spaced(n),) for n in names if plain(n) not in have}
        return Classes(wordings, {renamed.get(n, n): cells for n, cells in self.cells.items()})


def spaced(name: str) -> str:
    """The name of a class as words: "_" is a space."""
    return name.replace("_", " ")


def read_classes(source: ClassesLike) -> Classes:
    """Read classes.

    Args:
        source: See `ClassesLike`. In a file or a mapping, what belongs to a name is one of: nothing
            (its name), a text or a list of texts (descriptions, in the place of the name), or a
            mapping of attributes, of which `name` is what to call the class and `descriptions` are
            descriptions of their own; all other attributes follow the name, phrase by phrase.

    Raises:
        AmodalError: For a file that cannot be read, an entry of another kind, fewer than two
            classes, and two of one name.
    """
    where = "these classes"
    if isinstance(source, str | Path) and Path(source).suffix.lower() in SUFFIXES:
        where, source = str(source), _read_file(Path(source))
    if isinstance(source, Path):
        raise AmodalError(f"{source}: classes are read from {', '.join(SUFFIXES)}")
    if isinstance(source, str):
        source = [part.strip() for part in source.split(",") if part.strip()]
    names = [str(name) for name in source]
    if len(names) < 2:
        raise AmodalError(
            f"{where}: a record is one of two classes or more, and there "
            f"{'is only ' + names[0] if names else 'is none'}. Name them with commas between, "
            'such as --classes "tench,goldfish", or a file of them (.csv, .toml, .json, .txt)'
        )
    for name in names:
        if sum(plain(name) == plain(other) for other in names) > 1:
            raise AmodalError(f"{where}: the class {name!r} is there twice")
    entries = source if isinstance(source, Mapping) else dict.fromkeys(names)
    read = {str(name): _entry(str(name), entry, where) for name, entry in entries.items()}
    return Classes(
        {name: words for name, (words, _) in read.items()},
        {name: cells for name, (_, cells) in read.items() if cells},
    )


def _entry(name: str, entry: Any, where: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The wordings of a class, and its attributes of one value."""
    if entry is None or entry == "":
        return (spaced(name),), {}
    if not isinstance(entry, Mapping):
        return _texts(entry, f"{where}: {name}"), {}
    call = str(entry.get("name") or spaced(name))
    words = _texts(entry.get("descriptions") or [], f"{where}: {name}, descriptions")
    attributes = {k: v for k, v in entry.items() if k not in RESERVED and v not in (None, "")}
    phrases = {
        kind: _phrases(kind, value, f"{where}: {name}, {kind}")
        for kind, value in attributes.items()
    }
    if any(phrases.values()):
        words += (knowledge_prompts([call], {call: phrases})[call],)
    cells = {k: v for k, v in attributes.items() if isinstance(v, str | int | float)}
    return tuple(dict.fromkeys(words or (call,))), cells


def _phrases(kind: str, value: Any, where: str) -> tuple[str, ...]:
    """What an attribute adds to a prompt: phrases as they are, and one value with its name."""
    if isinstance(value, bool):
        return (spaced(kind),) if value else ()
    if isinstance(value, str | int | float):
        return (f"{spaced(kind)}: {value}",)
    return _texts(value, where)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence) and all(isinstance(one, str) and one for one in value):
        return tuple(value)
    raise AmodalError(
        f"{where}: a text or a list of texts is expected here, not {described(value)}"
    )


def _read_file(path: Path) -> Mapping[str, Any] | list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            return _table(path, text)
        if path.suffix.lower() == ".txt":
            return [line.strip() for line in text.splitlines() if line.strip()]
        read = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (OSError, ValueError, csv.Error) as error:
        raise AmodalError(f"cannot read classes from {path}: {error}") from error
    if not isinstance(read, Mapping | list) or (
        isinstance(read, list) and not all(isinstance(one, str) for one in read)
    ):
        raise AmodalError(f"{path}: classes are names, or NAME = what is known of it")
    return read


def _table(path: Path, text: str) -> dict[str, Any]:
    """Name -> entry, of a table of one or more lines for each class."""
    lines = csv.DictReader(text.splitlines(), skipinitialspace=True)
    columns = [c for c in lines.fieldnames or () if c]
    if not columns:
        raise AmodalError(f"{path} has no heading; the first line names the columns: class, …")
    key = next((c for c in NAME_COLUMNS if c in columns), columns[0])
    entries: dict[str, dict[str, Any]] = {}
    for line in lines:
        if not (line.get(key) or "").strip():
            continue
        entry = entries.setdefault(line[key].strip(), {"descriptions": []})
        for column in columns:
            cell = (line.get(column) or "").strip()
            if column == key or not cell:
                continue
            if column in ("description", "descriptions"):
                entry["descriptions"].append(cell)
            else:
                parts = [part.strip() for part in cell.split(";") if part.strip()]
                entry[column] = parts if ";" in cell and column not in RESERVED else cell
    return entries


def read_templates(source: TemplatesLike = ("name",)) -> tuple[str, ...]:
    """Read templates.

    Args:
        source: Of each: a sentence with {} for the class, a file of such sentences, or the name of
            a set that ships (`TEMPLATE_SETS`).

    Raises:
        AmodalError: For a sentence with no or more than one {}, an unknown set, and a file that
            cannot be read.
    """
    parts = [source] if isinstance(source, str | Path) else [*source]
    templates: list[str] = []
    for part in map(str, parts):
        if "{}" in part:
            templates.append(part)
        elif part.endswith(".txt"):
            try:
                lines = Path(part).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise AmodalError(f"cannot read templates from {part}: {error}") from error
            templates += [line.strip() for line in lines if line.strip()]
        elif part in TEMPLATE_SETS:
            templates += TEMPLATE_SETS[part]
        elif " " in part.strip():
            raise _one_place(part)
        else:
            raise unknown("set of templates", part, TEMPLATE_SETS, "A template has a {} in it.")
    for template in templates:
        if template.count("{}") != 1:
            raise _one_place(template)
    if not templates:
        raise AmodalError('there is no template; name one, such as "a photo of a {}"')
    return tuple(dict.fromkeys(templates))


def _one_place(template: str) -> AmodalError:
    return AmodalError(f"a template needs one {{}} where the class name goes, got {template!r}")


def class_vectors(
    embed_text: Callable[[list[str]], Tensor], prompts: Mapping[str, Sequence[str]]
) -> Tensor:
    """One vector a class.

    Args:
        embed_text: n sentences -> (n, D).
        prompts: Class -> its sentences.

    Returns:
        (C, D) unit vectors: of each class the mean of the unit vectors of its sentences.
    """
    sentences = [sentence for of_class in prompts.values() for sentence in of_class]
    vectors = normalize(embed_text(sentences).float().cpu(), dim=1)
    parts = vectors.split([len(of_class) for of_class in prompts.values()])
    return normalize(torch.stack([part.mean(0) for part in parts]), dim=1)
