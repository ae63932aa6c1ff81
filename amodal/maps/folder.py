"""The folder that maps are written to, and what of it exists already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
from PIL import Image as Pillow

from amodal.core import AmodalError
from amodal.core.regular_file import regular
from amodal.core.whole_file import whole_file
from amodal.evaluate.drawing import COLOURS as PALETTE
from amodal.inference.write_table import save_table

SUMMARY = "maps.json"


@dataclass(frozen=True)
class Folder:
    """A folder of maps of one run, of one dataset, by one set of options.

    Args:
        path: Of the folder.
        settings: By which it is recognised.
    """

    path: Path
    settings: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path, settings: Mapping[str, Any]) -> Folder:
        """Make the folder, or go on with one that was made by the same settings.

        Raises:
            AmodalError: For a folder of other maps or of other things, and if it cannot be made.
        """
        path, file = Path(path), Path(path) / SUMMARY
        if file.exists():
            before = _read(file).get("settings", {})
            other = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
            if other:
                raise AmodalError(
                    f"{path} has maps that were made otherwise ({', '.join(sorted(other))} "
                    "differ); choose another folder, or delete that one"
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise AmodalError(f"{path} exists and holds no maps; choose another folder")
        folder = cls(path, settings)
        if not file.exists():
            folder.write_summary({})
        return folder

    def write_summary(self, results: Mapping[str, Any]) -> Path:
        """Write maps.json: the settings, and what came out."""
        content = {"settings": self.settings, **results}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        return self._write(SUMMARY, lambda draft: draft.write_text(text, encoding="utf-8"))

    def has(self, name: str) -> bool:
        """Whether a file is in it."""
        return (self.path / name).exists()

    def write_array(self, name: str, array: np.ndarray) -> Path:
        """Write a .npy file."""

        def write(draft: Path) -> None:
            with draft.open("wb") as file:  # numpy adds an ending to a path
                np.save(file, array)

        return self._write(name, write)

    def array(self, name: str) -> np.ndarray:
        """Read a .npy file.

        Raises:
            AmodalError: If it is damaged.
        """
        try:
            out: np.ndarray = np.load(regular(self.path / name), allow_pickle=False)
            return out
        except (OSError, ValueError, EOFError) as error:
            raise AmodalError(
                f"{self.path / name} is damaged ({error}); delete it, and it is made anew"
            ) from error

    def write_fit(self, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
        """Write what was fitted to a sample, as a .npz file."""

        def write(draft: Path) -> None:
            with draft.open("wb") as file:
                np.savez(file, **dict(arrays))  # type: ignore[arg-type]

        return self._write(f"{name}.npz", write)

    def fit(self, name: str) -> dict[str, np.ndarray] | None:
        """Read what `write_fit` wrote, None if it has not; raises AmodalError if damaged."""
        file = self.path / f"{name}.npz"
        if not file.exists():
            return None
        try:
            with np.load(regular(file), allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise AmodalError(
                f"{file} is damaged ({error}); delete the folder {self.path} and map anew"
            ) from error

    def write_labels(self, name: str, label_HW: np.ndarray) -> Path:
        """Write label numbers (H, W) uint8 as a PNG with a palette."""
        picture = Pillow.fromarray(label_HW)
        picture.putpalette(palette().reshape(-1).tolist())
        return self._write(name, lambda draft: picture.save(draft, "PNG"))

    def labels(self, name: str) -> np.ndarray:
        """The numbers (H, W) uint8 of a PNG of `write_labels`.

        Raises:
            AmodalError: If it is damaged.
        """
        try:
            return np.asarray(Pillow.open(regular(self.path / name)), dtype=np.uint8)
        except OSError as error:
            raise AmodalError(
                f"{self.path / name} is damaged ({error}); delete it, and it is made anew"
            ) from error

    def write_picture(self, name: str, picture_HW3: np.ndarray) -> Path:
        """Write a picture (H, W, 3) uint8 as a PNG."""
        made = Pillow.fromarray(np.ascontiguousarray(picture_HW3))
        return self._write(name, lambda draft: made.save(draft, "PNG"))

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
        """Write rows as NAME.csv and NAME.parquet."""
        table = pa.Table.from_pylist([dict(row) for row in rows])
        return [save_table(table, self.path / f"{name}{kind}") for kind in (".csv", ".parquet")]

    def _write(self, name: str, write: Any) -> Path:
        try:
            with whole_file(self.path / name) as draft:
                write(draft)
        except OSError as error:
            raise AmodalError(
                f"could not write {self.path / name}: {error.strerror or error}"
            ) from error
        return self.path / name


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(regular(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AmodalError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise AmodalError(f"{file} is damaged: it holds no settings")
    return content


def palette() -> np.ndarray:
    """(256, 3) uint8: the colours of labels; 255, which is unknown, is white."""
    base = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in PALETTE], dtype=float)
    cycles = [base, base * 0.55, base * 0.5 + 127, base * 0.75 + 40]
    many = np.concatenate(cycles * (256 // (len(base) * len(cycles)) + 1))[:256]
    many[255] = 255
    return np.asarray(np.rint(many).clip(0, 255).astype(np.uint8))
