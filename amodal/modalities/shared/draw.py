"""Small pictures of things that are not pictures: text, curves, heat maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (255, 255, 255), (30, 30, 30), (225, 225, 225)
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (120, 120, 120),
)
HEAT = np.array(
    [(4, 4, 16), (70, 15, 110), (180, 50, 90), (250, 130, 50), (252, 250, 190)], dtype=np.float32
)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and knows far more scripts than Pillow's own font."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def page(text: str, height: int = 96, width: int = 160, size: int = 11) -> np.ndarray:
    """(height, width, 3) uint8: the text, wrapped, as much as fits."""
    picture = Image.new("RGB", (width, height), PAPER)
    draw, margin = ImageDraw.Draw(picture), 5
    lines, room = [], (height - 2 * margin) // (size + 3)
    for line in "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
    ).split("\n"):
        while line and len(lines) <= room:
            fits = _fitting(line, width - 2 * margin, size)
            lines.append(line[:fits].rstrip())
            line = line[fits:].lstrip()
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1] + " …"]
    for i, line in enumerate(lines):
        draw.text((margin, margin + i * (size + 3)), line, fill=INK, font=font(size))
    return np.array(picture)


def _fitting(line: str, width: int, size: int) -> int:
    """How many characters of a line fit, to the last space if there is one."""
    count = min(len(line), 120)
    while count > 1 and font(size).getlength(line[:count]) > width:
        count -= 1
    space = line.rfind(" ", 0, count + 1)
    return space if count < len(line) and space > 0 else count


def curves(
    columns: np.ndarray, names: Sequence[str] = (), height: int = 96, width: int = 160
) -> np.ndarray:
    """(height, width, 3) uint8: the columns of (t, C) over t on one scale, NaN as gaps, names where
    there is room."""
    picture = Image.new("RGB", (width, height), PAPER)
    draw, margin = ImageDraw.Draw(picture), 6
    finite = columns[np.isfinite(columns)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    x = (
        np.linspace(margin, width - margin, len(columns))
        if len(columns) > 1
        else np.array([width / 2])
    )
    y = height - margin - (columns - low) / max(high - low, 1e-12) * (height - 2 * margin)
    for i in range(columns.shape[1]):
        colour, seen = COLOURS[i % len(COLOURS)], np.isfinite(y[:, i])
        for run in np.split(np.arange(len(y)), np.flatnonzero(np.diff(seen)) + 1):
            if len(run) and seen[run[0]]:
                points = list(zip(x[run].tolist(), y[run, i].tolist()))
                draw.line(points, fill=colour) if len(points) > 1 else draw.point(
                    points, fill=colour
                )
    for i, name in enumerate(names[: (height - 8) // 10]):
        draw.text((4, 2 + 10 * i), name[:24], fill=COLOURS[i % len(COLOURS)], font=font(8))
    return np.array(picture)


def heat(values: np.ndarray, height: int = 96, width: int = 160) -> np.ndarray:
    """(height, width, 3) uint8: a map of (rows, columns), the first row at the bottom."""
    low, high = np.percentile(values, [2, 99.5])
    shade = ((values - low) / max(high - low, 1e-12)).clip(0, 1) * (len(HEAT) - 1)
    grid = Image.fromarray(shade[::-1].astype(np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    stops = np.arange(len(HEAT))
    return np.stack([np.interp(np.asarray(grid), stops, HEAT[:, c]) for c in range(3)], 2).astype(
        np.uint8
    )


def marks(
    times: np.ndarray,
    fields: Mapping[str, np.ndarray],
    coded: Collection[str],
    height: int = 96,
    width: int = 160,
) -> np.ndarray:
    """(height, width, 3) uint8: events over time, one lane for each field as far as there is room:
    numbers as stems, the codes of the fields in `coded` by colour."""
    picture = Image.new("RGB", (width, height), PAPER)
    draw, margin = ImageDraw.Draw(picture), 5
    lanes = list(fields.items())[: (height - 2 * margin) // 14] or [("", np.ones(len(times)))]
    x = margin + times / max(float(times[-1]), 1e-12) * (width - 2 * margin - 1)
    each = (height - 2 * margin) / len(lanes)
    for i, (name, values) in enumerate(lanes):
        foot, head = margin + each * (i + 1) - 2, margin + each * i + (9 if each > 22 else 2)
        draw.line([(margin, foot), (width - margin, foot)], fill=FAINT)
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
        for at, value in zip(x.tolist(), values.tolist()):
            if np.isfinite(value):
                tall = (
                    1.0 if name in coded else 0.15 + 0.85 * (value - low) / max(high - low, 1e-12)
                )
                colour = COLOURS[int(value) % len(COLOURS)] if name in coded else INK
                draw.line([(at, foot), (at, foot - tall * (foot - head))], fill=colour, width=2)
        if each > 22:
            draw.text((margin, margin + each * i - 2), name[:24], fill=INK, font=font(8))
    return np.array(picture)
