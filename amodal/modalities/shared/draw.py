"""Small pictures of values: text, curves, spectrograms, events."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND, FOREGROUND, GRID = (255, 255, 255), (30, 30, 30), (225, 225, 225)
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
COLORMAP = np.array(
    [(4, 4, 16), (70, 15, 110), (180, 50, 90), (250, 130, 50), (252, 250, 190)], dtype=np.float32
)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has more scripts than Pillow's own font."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size)  # Pillow 10.0 takes no path


def text_image(text: str, height: int = 96, width: int = 160, size: int = 11) -> np.ndarray:
    """(height, width, 3) uint8: the text, wrapped, as much as fits."""
    picture = Image.new("RGB", (width, height), BACKGROUND)
    draw, margin = ImageDraw.Draw(picture), 5
    lines: list[str] = []
    max_lines = (height - 2 * margin) // (size + 3)
    for line in "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
    ).split("\n"):
        while line and len(lines) <= max_lines:
            fits = _fitting_characters(line, width - 2 * margin, size)
            lines.append(line[:fits].rstrip())
            line = line[fits:].lstrip()
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], lines[max_lines - 1] + " …"]
    for i, line in enumerate(lines):
        draw.text((margin, margin + i * (size + 3)), line, fill=FOREGROUND, font=font(size))
    return np.array(picture)


def _fitting_characters(line: str, width: int, size: int) -> int:
    """How many characters of a line fit, up to the last space if there is one."""
    count = min(len(line), 120)
    while count > 1 and font(size).getlength(line[:count]) > width:
        count -= 1
    space = line.rfind(" ", 0, count + 1)
    return space if count < len(line) and space > 0 else count


def line_plot(
    columns: np.ndarray, names: Sequence[str] = (), height: int = 96, width: int = 160
) -> np.ndarray:
    """(height, width, 3) uint8: columns over time on one scale, NaN as gaps.

    Args:
        columns: (t, C).
        names: of the columns, drawn where there is room.
        height, width: in pixels.
    """
    picture = Image.new("RGB", (width, height), BACKGROUND)
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
        colour, finite_at = COLOURS[i % len(COLOURS)], np.isfinite(y[:, i])
        for segment in np.split(np.arange(len(y)), np.flatnonzero(np.diff(finite_at)) + 1):
            if len(segment) and finite_at[segment[0]]:
                points = list(zip(x[segment].tolist(), y[segment, i].tolist()))
                draw.line(points, fill=colour) if len(points) > 1 else draw.point(
                    points, fill=colour
                )
    for i, name in enumerate(names[: (height - 8) // 10]):
        draw.text((4, 2 + 10 * i), name[:24], fill=COLOURS[i % len(COLOURS)], font=font(8))
    return np.array(picture)


def heatmap(values: np.ndarray, height: int = 96, width: int = 160) -> np.ndarray:
    """(height, width, 3) uint8: a map of (rows, columns), the first row at the bottom."""
    low, high = np.percentile(values, [2, 99.5])
    shade = ((values - low) / max(high - low, 1e-12)).clip(0, 1) * (len(COLORMAP) - 1)
    grid = Image.fromarray(shade[::-1].astype(np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    stops = np.arange(len(COLORMAP))
    return np.stack(
        [np.interp(np.asarray(grid), stops, COLORMAP[:, c]) for c in range(3)], 2
    ).astype(np.uint8)


def event_plot(
    times: np.ndarray,
    fields: Mapping[str, np.ndarray],
    coded: Collection[str],
    height: int = 96,
    width: int = 160,
) -> np.ndarray:
    """(height, width, 3) uint8: events over time, one lane a field where there is room.

    Args:
        times: (n,) ascending from 0.
        fields: name -> values (n,), drawn as stems.
        coded: names of fields of codes, which are drawn by colour.
        height, width: in pixels.
    """
    picture = Image.new("RGB", (width, height), BACKGROUND)
    draw, margin = ImageDraw.Draw(picture), 5
    lanes = list(fields.items())[: (height - 2 * margin) // 14] or [("", np.ones(len(times)))]
    x = margin + times / max(float(times[-1]), 1e-12) * (width - 2 * margin - 1)
    lane_height = (height - 2 * margin) / len(lanes)
    for i, (name, values) in enumerate(lanes):
        foot, head = (
            margin + lane_height * (i + 1) - 2,
            margin + lane_height * i + (9 if lane_height > 22 else 2),
        )
        draw.line([(margin, foot), (width - margin, foot)], fill=GRID)
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
        for x_, value in zip(x.tolist(), values.tolist()):
            if np.isfinite(value):
                height_share = (
                    1.0 if name in coded else 0.15 + 0.85 * (value - low) / max(high - low, 1e-12)
                )
                colour = COLOURS[int(value) % len(COLOURS)] if name in coded else FOREGROUND
                draw.line(
                    [(x_, foot), (x_, foot - height_share * (foot - head))], fill=colour, width=2
                )
        if lane_height > 22:
            draw.text(
                (margin, margin + lane_height * i - 2), name[:24], fill=FOREGROUND, font=font(8)
            )
    return np.array(picture)
