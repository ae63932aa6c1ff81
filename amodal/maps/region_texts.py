"""`amodal map --texts`: texts on regions of pictures, of records or written anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from rich.markup import escape
from rich.table import Table

from amodal.console import Printed
from amodal.core import AmodalError, Batch, unknown
from amodal.core.matmul import fast_products
from amodal.core.protocols import PlacesTexts
from amodal.core.region_text import RegionText
from amodal.data import Dataset
from amodal.inference.embed import as_encoder
from amodal.inference.forward_passes import eval_mode, sequential_loader
from amodal.maps.dense import BATCH, dense_field
from amodal.maps.folder import Folder, palette
from amodal.maps.items import file_name
from amodal.methods.contract import Method
from amodal.modalities import Modality
from amodal.modalities.shared.frames import whole_picture
from amodal.progress import Bar

if TYPE_CHECKING:
    from amodal.model import Model

WAYS = ("align", "write")
MAX_SIDE, MIN_SIDE = 1024, 320
"""Pixels of the longer side of what is drawn; smaller pictures are enlarged."""
LINE, SHOWN, DRAWN = 16, 12, 8
"""Pixels of a line of text; rows for a terminal; written texts that are drawn on one picture."""


@dataclass(frozen=True)
class RegionTexts(Printed):
    """Texts on regions of N pictures.

    Args:
        path: The folder.
        way: "align" or "write".
        field: Of the encoder, with the pictures.
        rows: A dict for each region of each record: `key`, `snippet`, `left`, `top`, `right` and
            `bottom` as shares of what the encoder sees of the picture, `score`.
        records: N.
        left_out: Records without what is needed.
        own_share: Share of the records whose own text fits their picture better than that of the
            record behind them does, .5 by chance; None where texts are written.
    """

    path: Path
    way: str
    field: str
    rows: Sequence[Mapping[str, Any]]
    records: int
    left_out: int
    own_share: float | None = None

    @property
    def sentence(self) -> str:
        """What was placed, and whether to believe it."""
        verb = "placed" if self.way == "align" else "written"
        text = f"{len(self.rows):,} texts {verb} on regions of {self.field} of {self.records:,} "
        text += "records"
        if self.left_out:
            text += f"; {self.left_out:,} records that lack what is needed are left out"
        if self.own_share is not None:
            text += (
                f"; of {self.own_share:.0%} of them the own text fits the picture better than that "
                "of another record (chance 50%)"
            )
        return text

    def table(self) -> Table:
        """For a terminal."""
        shown = Table(title=escape(f"{self.sentence}."), title_justify="left")
        names = ("key", "snippet", "left", "top", "right", "bottom", "score")
        for name in names:
            shown.add_column(name, justify="left" if name in names[:2] else "right")
        for row in self.rows[:SHOWN]:
            shown.add_row(
                escape(str(row["key"])),
                escape(str(row["snippet"])),
                *(f"{row[name]:.2f}" for name in names[2:]),
            )
        if len(self.rows) > SHOWN:
            shown.add_row(f"… {len(self.rows) - SHOWN:,} more", *[""] * (len(names) - 1))
        return shown


def place_texts(
    model: Model,
    dataset: Dataset,
    out: str | Path,
    way: str,
    field: str | None = None,
    part: str | None = None,
    pictures: int = 100,
    *,
    progress: bool = True,
) -> RegionTexts:
    """Place texts on regions of the pictures of all records, and draw them.

    Args:
        model: Its method places texts, such as `deepvs`.
        dataset: With the pictures, and to align with the texts.
        out: The folder that is written to.
        way: "align", the words of each record's own text; "write", a text for each region.
        field: Of the encoder, with the pictures; the only one unless set.
        part: "train", "valid" or "test"; all records unless set.
        pictures: How many records are drawn.
        progress: Show a bar.

    Raises:
        AmodalError: For an unknown way, a method that places no texts, and data without what is
            needed.
    """
    if way not in WAYS:
        raise unknown("way to place texts", way, WAYS)
    method = model.method
    if not isinstance(method, PlacesTexts):
        raise AmodalError(
            f"{type(method).__name__ if method is not None else 'an encoder'} places no texts on "
            "regions; deepvs does. For where a text is, give --queries"
        )
    encoder = as_encoder(model.encoder)
    name = dense_field(encoder.fields, field, [*dataset.fields])
    needed = [name, method.text_field] if way == "align" else [name]
    chosen, view = _records(dataset, needed, encoder.fields, part)
    rows, left_out = chosen
    settings = {"run": model.fingerprint, "data": dataset.fingerprint, "field": name}
    folder = Folder.open(out, settings | {"kind": "texts", "texts": way, "part": part})
    placed: list[tuple[int, RegionText]] = []
    own: list[bool] = []
    bar, start = Bar("texts", len(rows), shown=progress), 0
    with eval_mode(cast(Method, method)), torch.no_grad(), fast_products(), bar:
        for loaded in sequential_loader(view, rows, BATCH):
            batch = loaded.to(model.device)
            made = _texts(method, batch, name, way)
            placed += [(int(rows[start + text.row]), text) for text in made]
            if way == "align":
                own += _own_fits(method.pair_scores(batch, name))
            start += batch.size
            bar.step("records", batch.size)
    of_record: dict[int, list[RegionText]] = {}
    for i, text in placed:
        of_record.setdefault(i, []).append(text)
    result = RegionTexts(
        path=folder.path,
        way=way,
        field=name,
        rows=[_row(dataset.keys[i], text) for i, text in placed],
        records=len(of_record),
        left_out=left_out,
        own_share=float(np.mean(own)) if own else None,
    )
    modality = encoder.fields[name]
    for i, texts in list(of_record.items())[:pictures]:
        drawn = drawing(view, name, modality, i, texts if way == "align" else best_of_each(texts))
        folder.write_picture(f"regions/{file_name(dataset.keys[i])}.png", drawn)
    folder.write_table("table", result.rows)
    folder.write_summary({"sentence": result.sentence, "own_share": result.own_share})
    return result


def check_alone(others: Mapping[str, object]) -> None:
    """Raise AmodalError for other options of a map that are set."""
    if asked := [name for name, value in others.items() if value is not None]:
        raise AmodalError(f"texts of regions go without {', '.join(asked)}; leave that out")


def _records(
    dataset: Dataset, needed: Sequence[str], fields: Mapping[str, Modality], part: str | None
) -> tuple[tuple[np.ndarray, int], Dataset]:
    """Records that have all that is needed, how many do not, and the data with that alone."""
    missing = dataset.missing_fields({f: fields[f] for f in needed})
    whole = dataset.with_columns(missing) if missing else dataset
    view = whole.with_fields({f: fields[f] for f in needed})
    rows = np.asarray(view.split(part) if part else np.arange(len(view)))
    present = np.all([view.present(f) for f in needed], 0)
    if not present[rows].any():
        raise AmodalError(f"no record of {dataset.name!r} has {' and '.join(needed)}")
    return (rows[present[rows]], int((~present[rows]).sum())), view


def best_of_each(texts: Sequence[RegionText]) -> list[RegionText]:
    """The likeliest region of each different text, the likeliest texts first."""
    first: dict[str, RegionText] = {}
    for text in sorted(texts, key=lambda text: -text.score):
        first.setdefault(text.text, text)
    return list(first.values())[:DRAWN]


def _texts(method: PlacesTexts, batch: Batch, field: str, way: str) -> list[RegionText]:
    if way == "align":
        return method.place_texts(batch, field)
    return method.write_texts(batch, field)


def _own_fits(score_NN: torch.Tensor) -> list[bool]:
    """Of each row but a single one, whether its own text fits better than the next row's."""
    n = len(score_NN)
    return (score_NN.diag() > score_NN.roll(-1, 1).diag()).tolist() if n > 1 else []


def _row(key: str, text: RegionText) -> dict[str, Any]:
    left, top, right, bottom = text.box
    place = {"left": left, "top": top, "right": right, "bottom": bottom}
    return {"key": key, "snippet": text.text, **place, "score": text.score}


def drawing(
    dataset: Dataset, field: str, modality: Modality, record: int, texts: Sequence[RegionText]
) -> np.ndarray:
    """A picture with the boxes of its regions, and their texts below it.

    Args:
        dataset: Where the picture is.
        field: Of the picture.
        modality: Of the field.
        record: Its number.
        texts: On its regions.

    Returns:
        (H, W, 3) uint8.
    """
    raw = dataset.raw(record, field)
    assert raw is not None
    picture, frame = whole_picture(modality, raw, MAX_SIDE)
    pixels = picture if len(picture) == 3 else picture[:1].repeat(3, 0)
    shown = Pillow.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)).astype(np.uint8))
    scale = max(1.0, MIN_SIDE / max(shown.size))
    shown = shown.resize([round(side * scale) for side in shown.size], Pillow.Resampling.NEAREST)
    page = Pillow.new("RGB", (shown.width, shown.height + LINE * len(texts) + 4), "white")
    page.paste(shown)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default()
    for number, text in enumerate(texts):
        colour = cast(tuple[int, int, int], tuple(palette()[number % 255].tolist()))
        left, top, right, bottom = text.box
        inset = number % 4  # boxes of one region are drawn within each other
        corners = [
            scale * (frame.left + left * frame.width) + inset,
            scale * (frame.top + top * frame.height) + inset,
            scale * (frame.left + right * frame.width) - 1 - inset,
            scale * (frame.top + bottom * frame.height) - 1 - inset,
        ]
        pen.rectangle(corners, outline=colour, width=2)
        line = shown.height + 2 + LINE * number
        pen.rectangle((2, line + 2, 12, line + 12), fill=colour)
        pen.text((16, line), text.text, fill="black", font=font)
    return np.asarray(page)
