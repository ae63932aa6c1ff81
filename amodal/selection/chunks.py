"""What is computed of records, a chunk of them at a time, and found on disk by a second try."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.core import AmodalError
from amodal.core.whole_file import whole_file
from amodal.progress import Bar

CHUNK = 2048
"""Records, which is what an interruption costs."""

Rows = npt.NDArray[np.int64]
Columns = dict[str, np.ndarray]
Make = Callable[[Rows], Columns]
"""Numbers of n records -> name -> (n, …) values."""


class Chunks:
    """Computes columns of records in chunks.

    Args:
        folder: Where chunks that are done are stored; None for nowhere.
        plan: What the values depend on. Chunks of another plan are removed.
        size: Records of a chunk.
        progress: Show bars.
    """

    def __init__(
        self,
        folder: Path | None = None,
        plan: Mapping[str, Any] | None = None,
        *,
        size: int = CHUNK,
        progress: bool = False,
    ):
        self.folder, self.size, self.progress = folder, size, progress
        self.plan = json.dumps({**(plan or {}), "size": size}, sort_keys=True, default=str)

    def each(self, title: str, rows: Rows, make: Make) -> Columns:
        """Compute columns of all records.

        Args:
            title: Of the bar, and of the stored chunks.
            rows: (N,) numbers of records.
            make: Computes those of some records.

        Returns:
            Name -> (N, …).

        Raises:
            AmodalError: If the chunks cannot be stored.
        """
        folder = self._folder(title)
        parts = np.array_split(rows, max(1, -(-len(rows) // self.size)))
        done = [_load(folder, number) for number in range(len(parts))]
        begun = sum(len(p) for p, d in zip(parts, done) if d is not None)
        with Bar(title, len(rows), start=begun, shown=self.progress) as bar:
            for number, part in enumerate(parts):
                if done[number] is None:
                    done[number] = make(part)
                    _store(folder, number, done[number] or {})
                    bar.step("records", by=len(part))
        columns = [one for one in done if one is not None]
        return {name: np.concatenate([one[name] for one in columns]) for name in columns[0]}

    def clear(self) -> None:
        """Remove what is stored."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _folder(self, title: str) -> Path | None:
        if self.folder is None:
            return None
        plan = self.folder / "plan.json"
        try:
            if self.folder.exists() and (
                not plan.is_file() or plan.read_text(encoding="utf-8") != self.plan
            ):
                shutil.rmtree(self.folder)
            if not plan.is_file():
                with whole_file(plan) as draft:
                    draft.write_text(self.plan, encoding="utf-8")
        except OSError as error:
            raise AmodalError(
                f"could not write {self.folder}: {error.strerror or error}"
            ) from error
        return self.folder / hashlib.sha256(title.encode()).hexdigest()[:12]


def _load(folder: Path | None, number: int) -> Columns | None:
    if folder is None:
        return None
    try:
        with np.load(folder / f"{number:06d}.npz", allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise AmodalError(
            f"a chunk in {folder.parent} is damaged ({error}); remove that folder and repeat the "
            "command"
        ) from error


def _store(folder: Path | None, number: int, columns: Columns) -> None:
    if folder is None:
        return
    try:
        with whole_file(folder / f"{number:06d}.npz") as draft, draft.open("wb") as file:
            np.savez(file, **columns)  # type: ignore[arg-type]  # numpy's stub takes one type
    except OSError as error:
        raise AmodalError(
            f"could not write {folder.parent}: {error.strerror or error}. The chunks that are done "
            "stay; make room and repeat the command."
        ) from error
