"""Volumes as pictures: the patches of their slices that match prompts, in one montage each.

The way of Van Uden et al. 2023, arXiv:2306.01111, to a dataset of pictures and sentences, from
volumes and reports.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as Pillow
from PIL import ImageSequence
from torch import Tensor

from amodal.core import AmodalError, unknown
from amodal.curate.montage import PatchSelector, encode_png, window
from amodal.curate.report_sections import report_sections, sentences_about
from amodal.data import Dataset
from amodal.progress import Bar

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FOLDER, TABLE = "montages", "records.csv"


def read_volume(path: Path) -> npt.NDArray[np.float32]:
    """The slices of a volume in their own unit.

    Args:
        path: A .npy or .npz of (slices, height, width) or of one slice, a TIFF of many pages, or a
            folder of pictures, which are slices in the order of their names.

    Returns:
        (slices, height, width).

    Raises:
        AmodalError: For anything else, and for slices of different sizes.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
        slices = [np.asarray(Pillow.open(p).convert("F")) for p in files]
    elif path.suffix.lower() in (".npy", ".npz"):
        try:
            loaded = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise AmodalError(f"cannot read the volume {path}: {error}") from error
        array = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
        slices = list(array[None] if array.ndim == 2 else array)
    elif path.suffix.lower() in PICTURES and path.is_file():
        with Pillow.open(path) as pages:
            slices = [np.asarray(page.convert("F")) for page in ImageSequence.Iterator(pages)]
    else:
        raise AmodalError(
            f"{path} is no volume: give a .npy of (slices, height, width), a TIFF of many pages, "
            "or a folder of pictures"
        )
    shapes = {s.shape for s in slices}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise AmodalError(
            f"{path} has slices of {sorted(shapes) or 'no'} pixels; a volume has slices of one "
            "height and width"
        )
    return np.stack(slices).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """How volumes are read.

    Args:
        column: Of the records, with the paths of volumes.
        level: Middle of the window of intensities; None for the middle of each volume's own.
        width: Of the window.
    """

    column: str
    level: float | None = None
    width: float | None = None

    def slices(self, path: Path) -> Tensor:
        """(slices, 1, height, width), 0 … 1."""
        volume = torch.from_numpy(read_volume(path))[:, None]
        low, high = float(volume.min()), float(volume.max())
        level = (low + high) / 2 if self.level is None else self.level
        width = (high - low or 1.0) if self.width is None else self.width
        return window(volume, level, width)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is taken from a report.

    Args:
        column: Of the records, with reports; "" for none.
        sections: Headings whose text counts; () for the whole.
        about: Words of which a sentence has one; () for all sentences.
    """

    column: str = ""
    sections: Sequence[str] = ()
    about: Sequence[str] = ()

    def text(self, report: str) -> str:
        """The sentences, a space between."""
        if self.sections:
            parts = report_sections(report)
            report = "\n".join(parts[s.lower()] for s in self.sections if s.lower() in parts)
        if not self.about:
            return " ".join(report.split())
        return " ".join(" ".join(sentences_about(report, self.about)).split())


def write_montages(
    dataset: Dataset,
    selector: PatchSelector,
    out: Path,
    *,
    scan: Scan,
    report: Report,
    progress: bool = True,
) -> Path:
    """Write a folder of records with a montage of each volume, which `--data` takes.

    Montages and sentences are called like the fields of the encoder that read them.

    Args:
        dataset: With the columns.
        selector: Of patches.
        out: The folder.
        scan: How volumes are read.
        report: What is taken from reports.
        progress: Show a bar.

    Returns:
        The table of the records; other columns are copied.

    Raises:
        AmodalError: For unknown columns, volumes that cannot be read, and a folder with a table.
    """
    columns = list(dataset.reader.columns)
    for column in filter(None, (scan.column, report.column)):
        if column not in columns:
            raise unknown(f"column of {dataset.name!r}", column, columns)
    if (out / TABLE).exists():
        raise AmodalError(f"{out} has records already; choose another folder")
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    base = dataset.reader.base or Path()
    if not isinstance(base, Path):
        raise AmodalError(
            f"volumes are read from this machine, and {dataset.name!r} lies elsewhere"
        )
    made = ("key", scan.column, report.column, selector.image, selector.text)
    others = [c for c in columns if c not in made]
    digits = max(1, math.ceil(math.log10(len(dataset) + 1)))
    heads = ["key", selector.image, *([selector.text] if report.column else []), *others]
    rows: list[list[object]] = []
    with Bar("montages", len(dataset), shown=progress) as bar:
        for i, key in enumerate(dataset.keys):
            cell = dataset.reader.get(i, scan.column)
            name = ""
            if cell is not None:
                montage = selector(_channels(scan.slices(base / str(cell)), selector))
                name = f"{FOLDER}/{i:0{digits}d}.png"
                (out / name).write_bytes(encode_png(montage))
            text = dataset.reader.get(i, report.column) if report.column else None
            texts = [report.text(str(text)) if text is not None else ""] if report.column else []
            rows.append([key, name, *texts, *(dataset.reader.get(i, c) for c in others)])
            bar.step("volumes")
    with (out / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        writer.writerows(["" if v is None else v for v in row] for row in rows)
    return out / TABLE


def _channels(x_S1HW: Tensor, selector: PatchSelector) -> Tensor:
    """Grey slices in as many channels as the encoder's pictures have."""
    channels = int(getattr(selector.encoder.fields[selector.image], "channels", 1))
    return x_S1HW.expand(-1, channels, -1, -1)
