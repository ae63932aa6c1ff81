"""A plain folder, read in place.

Files that share a stem are one record (a.jpg a.txt a.wav); sub-folders are labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from amodal.data.readers._files import FilePattern, Files, printable
from amodal.data.readers.base import stamp_files
from amodal.data.remote import AnyPath, Remote, as_path
from amodal.errors import AmodalWarning
from amodal.modalities import ending_of, folder_ending

ABOUT = {
    "dicomdir",
    "readme",
    "license",
    "licence",
    "copying",
    "copyright",
    "changelog",
    "dataset",
    "thumbs",
}
ABOUT_ENDINGS = {"", ".txt", ".md", ".rst", ".toml", ".db"}
"""Stems and endings of files that are about a folder and no data: README, LICENSE.txt, …"""


RUN_FILES = ("spec.json", "config.json")
"""What every run folder holds."""
MODEL_FILES = (*RUN_FILES, "keys.json", "trained.npy", "model.safetensors")
GRAPH_FILES = ("fields.json",)
TOWER_FILE = "projection.safetensors"
"""What a model leaves in the folder that it is saved in or exported to: of itself, of its graphs,
and in the folder of each tower for transformers."""


class Folder(Files):
    """The files below a folder, as paths.

    Hidden files, files about the folder (README, LICENSE, …), runs in it and files of a model that
    was saved or exported there are passed over. The key of a record is its path below the folder
    without the ending: `animals/cat`.

    Args:
        base: the folder.
        columns: name -> its files; None to guess them from `kinds`.
        kinds: ending -> modality.
    """

    base: AnyPath

    def __init__(
        self,
        base: AnyPath,
        columns: Mapping[str, FilePattern] | None,
        kinds: Mapping[str, str],
    ) -> None:
        self.base = as_path(base)
        self.stored = _without_ending(self.base, names := names_below(self.base))
        called = {name: with_ending for with_ending, name in self.stored.items()}
        super().__init__([called.get(name, name) for name in names], columns, kinds, str(base))

    def fetch(self, file: int) -> AnyPath:
        name = self.names[file]
        return self.base / self.stored.get(name, name)

    def stamp(self) -> str:
        first = {int(i) for files in self.file_index.values() for i in files if i >= 0}
        used = sorted({part for i in first for part in self.parts.get(i, [i])})
        names = "\n".join(self.names[i] for i in used).encode("utf-8", "backslashreplace")
        return hashlib.blake2b(names, digest_size=16).hexdigest() + stamp_files(
            [self.fetch(i) for i in used]
        )


def _without_ending(base: AnyPath, names: Iterable[str]) -> dict[str, str]:
    """Parts of values that are whole folders, whose names lack the ending: one of each folder is
    looked into, since archives call slices of scans IM0001 or by numbers with dots.

    Returns:
        Name with the ending that it should have -> name.
    """
    if isinstance(base, Remote):
        return {}
    groups: dict[str, list[str]] = {}
    for name in names:
        ending = ending_of(name)
        if not ending or ending[1:].isdigit():
            groups.setdefault(name.rpartition("/")[0], []).append(name)
    found: dict[str, str] = {}
    for group in groups.values():
        ending = folder_ending(base / group[0])
        if ending:
            found |= {name + ending: name for name in group}
    return found


def names_below(base: AnyPath) -> list[str]:
    """The files below a folder.

    Returns:
        Sorted paths with /, without hidden files and those about the folder.
    """
    if isinstance(base, Remote):
        split = [(name, *name.rpartition("/")[::2]) for name in base.names()]
        return [
            name
            for name, inside, file in split
            if not any(f.startswith((".", "__")) for f in inside.split("/") if f) and _shown(file)
        ]
    links: list[str] = []
    names = sorted(_names_in(str(base), "", links))
    if links:
        warnings.warn(
            f"links to folders are not followed: {printable(min(links))} in {base}"
            f"{f' and {len(links) - 1} more' if links[1:] else ''}; "
            "give what they lead to, or copy it there",
            AmodalWarning,
            stacklevel=2,
        )
    return names


def _names_in(folder: str, start: str, links: list[str]) -> Iterator[str]:
    """Names of files, each after `start`; adds links to folders to `links`.

    A pipe, a socket or a device is no file: to open one may wait for ever. A link that leads
    nowhere is one, and ends in quarantine.
    """
    with os.scandir(folder) as entries:
        listed = list(entries)
        skipped = exported(folder, {entry.name for entry in listed})
        for entry in listed:
            if entry.name in skipped:
                continue
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith((".", "__")) and not _is_run(entry.path):
                    yield from _names_in(entry.path, f"{start}{entry.name}/", links)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                if not entry.name.startswith((".", "__")):
                    links.append(start + entry.name)
            elif _shown(entry.name) and _is_regular(entry):
                yield start + entry.name


def _is_run(folder: str) -> bool:
    """Whether a run or a saved model lies there, whose JSON files would pass for records."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in RUN_FILES)


def exported(folder: str, names: set[str]) -> set[str]:
    """Those of the names in a folder that are of a model that was saved or exported into it."""
    model = {"format", "weights_sha256"} <= _content(folder, "config.json", names).keys()
    graphs = "amodal" in _content(folder, "fields.json", names)
    if not model and not graphs:
        return set()
    written = set(MODEL_FILES if model else ()) | set(GRAPH_FILES if graphs else ())
    of_texts = {n for n in names if n.startswith("tokenizer-") and n.endswith(".json")}
    towers = {n for n in names if model and os.path.isfile(os.path.join(folder, n, TOWER_FILE))}
    return names & (written | of_texts | towers)


def _content(folder: str, file: str, names: set[str]) -> dict[str, Any]:
    """What a JSON file says, {} where there is none or it is another."""
    path = Path(folder, file)
    if file not in names or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_regular(entry: os.DirEntry[str]) -> bool:
    # of a link that leads to itself `is_file` of the entry raises, unlike that of the path
    return os.path.isfile(entry.path) or (entry.is_symlink() and not os.path.exists(entry.path))


def _shown(file: str) -> bool:
    return not file.startswith((".", "~")) and not _about(file)


def _about(file: str) -> bool:
    ending = ending_of(file)
    return ending in ABOUT_ENDINGS and file.lower().removesuffix(ending) in ABOUT
