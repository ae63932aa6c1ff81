"""4,000 generated pictures of one to four coloured shapes, each with a caption of one line per
shape, and the box of every line.

Source: drawn here, the same in every process. Licence: CC0-1.0. Left out: depth, overlap,
relations, words for where a shape is.

`words` opens the captions as words instead of bytes; `boxes` and `objects` are the truth, in the
order of the caption's lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw

if TYPE_CHECKING:
    from amodal.data.dataset import Dataset

PACKAGES = ()
LICENCE = "CC0-1.0"
RECORDS, SIDE, CELLS = 4000, 48, 3
SIZES = {"small": (7, 9), "large": (13, 15)}  # sides in pixels; a cell is 16
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 50),
    "purple": (150, 60, 180),
    "orange": (240, 140, 30),
    "cyan": (60, 210, 220),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "bar", "star")
LINES = (
    "a {} {} {}",
    "there is a {} {} {}",
    "one {} {} {} can be seen",
    "the picture shows a {} {} {}",
)
COUNTS = (0.1, 0.25, 0.35, 0.3)  # shares of pictures with 1, 2, 3, 4 shapes
OVERSAMPLED = 4


def write(out: Path, archives: list[Path]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [record(i) for i in range(RECORDS)]
    pq.write_table(pa.Table.from_pylist(rows), out / "records.parquet")
    (out / "words.json").write_text(vocabulary())
    (out / "dataset.toml").write_text(TOML)
    (out / "README.md").write_text(CARD)


def record(i: int) -> dict[str, Any]:
    """Record i: its key, picture (PNG), caption, and the truth."""
    rng = np.random.default_rng([7, i])
    count = 1 + int(rng.choice(4, p=COUNTS))
    kinds = rng.choice(
        len(SIZES) * len(COLOURS) * len(SHAPES), count, replace=False
    )  # no two alike in one picture
    cells = rng.choice(CELLS**2, count, replace=False)
    picture = _background(rng)
    lines, boxes, objects = [], [], []
    for kind, cell in zip(kinds.tolist(), cells.tolist()):
        size, colour, shape = _names(kind)
        side = int(rng.integers(*SIZES[size], endpoint=True))
        room = SIDE // CELLS - side
        x, y = (
            SIDE // CELLS * k + int(rng.integers(room + 1)) for k in (cell % CELLS, cell // CELLS)
        )
        paint = np.clip(np.array(COLOURS[colour]) + rng.integers(-12, 13, 3), 0, 255)
        _draw(picture, shape, tuple(map(int, paint)), x, y, side)
        lines.append(LINES[rng.integers(len(LINES))].format(size, colour, shape))
        boxes.append([x, y, x + side, y + side])
        objects.append(f"{size} {colour} {shape}")
    buffer = BytesIO()
    picture.resize((SIDE, SIDE), Picture.Resampling.BOX).save(buffer, "PNG")
    return {
        "key": f"scene {i:04d}",
        "image": buffer.getvalue(),
        "text": "\n".join(lines),
        "count": str(count),
        "objects": "; ".join(objects),
        "boxes": json.dumps(boxes),
    }


def _names(kind: int) -> tuple[str, str, str]:
    kind, size = divmod(kind, len(SIZES))
    shape, colour = divmod(kind, len(COLOURS))
    return list(SIZES)[size], list(COLOURS)[colour], SHAPES[shape]


def _background(rng: np.random.Generator) -> Picture.Image:
    """A dark slope of grey, in random direction."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    angle, base = rng.uniform(0, 2 * np.pi), rng.uniform(40, 90)
    grey = base + rng.uniform(0, 30) * (np.cos(angle) * x + np.sin(angle) * y)
    small = Picture.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    return small.resize((SIDE * OVERSAMPLED,) * 2, Picture.Resampling.NEAREST)


def _draw(
    picture: Picture.Image, shape: str, colour: tuple[int, ...], x: int, y: int, side: int
) -> None:
    """The shape fills its box from edge to edge (a bar fills its width)."""
    draw = ImageDraw.Draw(picture)
    a, b, s = x * OVERSAMPLED, y * OVERSAMPLED, side * OVERSAMPLED

    def points(pairs: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(a + u * (s - 1), b + v * (s - 1)) for u, v in pairs]

    whole, third = (a, b, a + s - 1, b + s - 1), s // 3
    if shape == "circle":
        draw.ellipse(whole, fill=colour)
    elif shape == "ring":
        draw.ellipse(whole, outline=colour, width=max(s // 5, 1))
    elif shape == "square":
        draw.rectangle(whole, fill=colour)
    elif shape == "bar":
        draw.rectangle((a, b + third, a + s - 1, b + s - 1 - third), fill=colour)
    elif shape == "cross":
        draw.rectangle((a, b + third, a + s - 1, b + s - 1 - third), fill=colour)
        draw.rectangle((a + third, b, a + s - 1 - third, b + s - 1), fill=colour)
    elif shape == "triangle":
        draw.polygon(points([(0.5, 0), (1, 1), (0, 1)]), fill=colour)
    elif shape == "diamond":
        draw.polygon(points([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]), fill=colour)
    else:
        turns = np.arange(10) * np.pi / 5
        reach = np.where(np.arange(10) % 2, 0.2, 0.5)
        draw.polygon(
            points(zip(0.5 + reach * np.sin(turns), 0.5 - reach * np.cos(turns))), fill=colour
        )


def vocabulary() -> str:
    """A tokenizer.json whose ids are the words of the captions and the line break."""
    words = dict.fromkeys(" ".join(LINES).replace("{}", "").split()) | dict.fromkeys(
        [*SIZES, *COLOURS, *SHAPES]
    )
    split = {"type": "Split", "invert": False}
    steps = [
        split | {"pattern": {"String": "\n"}, "behavior": "Isolated"},
        split | {"pattern": {"String": " "}, "behavior": "Removed"},
    ]
    numbers = {word: i for i, word in enumerate(["[UNK]", "\n", *words])}
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": numbers},
    }
    return json.dumps(content, indent=1)


def words(dataset: Dataset) -> Dataset:
    """The same records with words (and line breaks) as the tokens of captions, 40 at most."""
    from amodal.modalities.text import Text

    text = Text(max_length=40, vocabulary=str(Path(str(dataset.path)) / "words.json"))
    return dataset.with_fields({"image": dataset.fields["image"], "text": text})


def boxes(dataset: Dataset) -> list[np.ndarray]:
    """The boxes of each record, (n, 4), one for each line: left, top, right and bottom in pixels,
    right and bottom exclusive."""
    return [np.array(json.loads(cell)) for cell in dataset.label("boxes")]


def objects(dataset: Dataset) -> list[list[tuple[str, str, str]]]:
    """(size, colour, shape) of each line of each record."""
    return [[_object(text) for text in cell.split("; ")] for cell in dataset.label("objects")]


def _object(text: str) -> tuple[str, str, str]:
    size, colour, shape = text.split()
    return size, colour, shape


TOML = f"""name = "scenes"
title = "{RECORDS:,} generated pictures of one to four coloured shapes, \
each described in a line of its own"
licence = "{LICENCE}"
records = "records.parquet"
key = "key"

[fields.image]
modality = "image"
size = {SIDE}
channels = 3
patch = 8
flip = false # boxes are known in the picture as it is

[fields.text] # one line for each shape
modality = "text"
patch = 4
max_length = 40

[labels.count]
kind = "category"

[labels.objects] # "small red circle; large blue ring", in the order of the lines
kind = "category"

[labels.boxes] # JSON: left, top, right, bottom in pixels, in the order of the lines
kind = "category"
"""

CARD = f"""# scenes: pictures whose every part is known

{RECORDS:,} GENERATED pictures of {SIDE} x {SIDE} pixels: one to four shapes on a dark slope of \
grey, each in a cell of its own of a
{CELLS} x {CELLS} grid. {len(SHAPES)} shapes, {len(COLOURS)} colours (lightly varied), \
{len(SIZES)} sizes; no two alike in a picture.

| field | what it is |
|---|---|
| `image` | the picture |
| `text` | a caption, one line for each shape: "there is a large red ring"; \
says nothing about where |

Labels, for evaluation only: `count`, "1" to "4"; `objects`, what each line names; \
`boxes`, where it is.

**Intended use.** Whatever needs the truth about parts: which words mean which region, pointing, \
filtering of captions, retrieval by several
sentences. **Limits.** No overlap, depth, texture or relation; {len(LINES)} kinds of sentence. \
What works here need not work on photographs.

**Split.** By hash of the key. **Licence.** {LICENCE}: drawn by the code of \
`amodal_claims.sets.scenes`, the same in every process.
"""
