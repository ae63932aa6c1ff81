"""Training without some records: the list of the others, and the command that takes it."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.data import Dataset
from amodal.data.splits import PARTS
from amodal.data.subset import write_subset
from amodal.train.run_config import FILE

MAX_NAME = 40
"""Characters of a folder's name that are taken from tags."""


@dataclass(frozen=True)
class Without:
    """How to train without some records.

    Args:
        command: For a shell.
        data: The folder with the list of keys, which every verb takes as data.
        records: That are left.
        left_out: Part of the split -> how many of its records are left out.
        note: What the command does not do, "" for nothing.
    """

    command: str
    data: str
    records: int
    left_out: dict[str, int]
    note: str


def train_without(
    run: Path, method: str, dataset: Dataset, keys: Collection[str], tags: Sequence[str]
) -> Without:
    """Write the keys of the other records to RUN/view/without, and give the command.

    Args:
        run: The run folder, whose settings are taken.
        method: Of the run.
        dataset: The whole data.
        keys: Of the records to leave out.
        tags: That they have, for the name of the folder.

    Raises:
        AmodalError: The data is in memory, none of the records is in it, or none would be left to
            train on; a key cannot stand in a list.
    """
    if dataset.path is None:
        raise AmodalError(
            "these records are in memory, and a list of keys would lead nowhere; write the data to "
            "a file, and start `amodal view RUN --data FILE`"
        )
    out = np.fromiter((key in keys for key in dataset.keys), bool, len(dataset))
    if not out.any():
        raise AmodalError(f"none of the tagged records is in the data {dataset.name!r}")
    if not (~out & (dataset.parts == PARTS.index("train"))).any():
        raise AmodalError(
            "every record of the part train is tagged: none would be left to train on"
        )
    path = dataset.path
    source = str(path.resolve()) if isinstance(path, Path) else str(path)
    name = folder_name(tags)
    folder = run.resolve() / "view" / "without" / name
    write_subset(folder, source, [key for key, no in zip(dataset.keys, out.tolist()) if not no])
    target = unused(run.resolve().parent / f"{run.resolve().name}-without-{name}")
    settings = run.resolve() / FILE
    same = settings.exists()
    beginning = ["--config", str(settings)] if same else [method]
    command = ["amodal", "pretrain", *beginning, "--data", str(folder), "--out", str(target)]
    counts = {part: int((out & (dataset.parts == i)).sum()) for i, part in enumerate(PARTS)}
    note = (
        ""
        if same
        else f"The run has no {FILE}, as one of `amodal adapt` has none: this pretrains "
        f"{method} with the settings of its page."
    )
    return Without(shlex.join(command), str(folder), int((~out).sum()), counts, note)


def folder_name(tags: Sequence[str]) -> str:
    """A name that is fine in any file system, and another one for other tags."""
    whole = "+".join(sorted(tags))
    plain = re.sub(r"[^A-Za-z0-9]+", "-", whole)[:MAX_NAME].strip("-")
    if plain == whole:
        return plain
    digest = hashlib.blake2b("\n".join(sorted(tags)).encode("utf-8"), digest_size=3).hexdigest()
    return f"{plain or 'tag'}-{digest}"


def unused(folder: Path) -> Path:
    """The folder, or the first with a number after its name that does not exist."""
    number, candidate = 2, folder
    while candidate.exists():
        candidate = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return candidate
