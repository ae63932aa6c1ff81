"""Maps of embedded records: by their vectors, and on the Earth."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.drawing import COLOURS, REST, drawing
from amodal.evaluate.labels import is_number
from amodal.inference.embed import Embedded, known

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def principal(x_ND: Tensor, dims: int) -> Tensor:
    """Coordinates along principal components.

    Each component is signed so that its largest coordinate is positive.

    Args:
        x_ND: Vectors.
        dims: Components. Missing ones are zero.

    Returns:
        (N, dims) float32.
    """
    x = x_ND.double() - x_ND.double().mean(0)
    v: Tensor = torch.linalg.eigh(x.T @ x)[1]
    points = x @ v.flip(1)[:, :dims]
    sign = points.gather(0, points.abs().argmax(0, keepdim=True)).sign()
    return torch.nn.functional.pad(points * sign, (0, dims - points.shape[1])).float()


def embedding_map(embedded: Embedded, path: str | Path, *, label: str | None = None) -> Path:
    """Draw the fused vectors along their first two principal components.

    Args:
        embedded: Embedded records.
        path: A PNG file.
        label: What colours the points, None for one colour.

    Returns:
        The path.
    """
    column = embedded.fused()
    points = principal(normalize(vectors_of(column).float(), dim=1), 2).numpy()
    labels = embedded.labels[label][column.rows.numpy()] if label is not None else None
    with drawing(path, 6.4, 4.8) as figure:
        axes = figure.subplots()
        size = float(np.clip(4000 / max(len(points), 1), 3, 18))
        if labels is None:
            axes.scatter(
                points[:, 0], points[:, 1], s=size, color=COLOURS[0], alpha=0.6, linewidths=0
            )
        elif is_number(labels):
            labelled = known(labels)
            rest = points[~labelled]
            axes.scatter(rest[:, 0], rest[:, 1], s=size, color=REST, linewidths=0, alpha=0.4)
            drawn = axes.scatter(
                points[labelled, 0],
                points[labelled, 1],
                s=size,
                c=labels[labelled],
                cmap="cividis",
                linewidths=0,
                alpha=0.85,
            )
            figure.colorbar(drawn, ax=axes, label=label, shrink=0.8)
        else:
            _by_class(axes, points, labels, size)
        title = f"{len(points):,} records, vectors of all fields" + (
            f", coloured by {label}" if label else ""
        )
        axes.set(title=title, xlabel="first principal component", ylabel="second")
        axes.set_xticks([])
        axes.set_yticks([])
    return Path(path)


def _by_class(axes: Axes, points: np.ndarray, labels: np.ndarray, size: float) -> None:
    names, counts = np.unique(
        np.array([v for v in labels if v is not None], dtype=str), return_counts=True
    )
    shown = sorted(names[np.argsort(-counts, kind="stable")][: len(COLOURS)].tolist())
    rest = np.array([v not in shown for v in labels])
    if rest.any():
        name = "others" if len(names) > len(shown) else "no label"
        axes.scatter(
            points[rest, 0],
            points[rest, 1],
            s=size,
            color=REST,
            linewidths=0,
            alpha=0.4,
            label=name,
        )
    for name, colour in zip(shown, COLOURS):
        members = np.array([v == name for v in labels])
        axes.scatter(
            points[members, 0],
            points[members, 1],
            s=size,
            color=colour,
            linewidths=0,
            alpha=0.8,
            label=textwrap.shorten(name, 24, placeholder="…"),
        )
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        markerscale=(40 / size) ** 0.5,
        handletextpad=0.2,
    )


def has_places(embedded: Embedded) -> bool:
    """Whether the records have the labels latitude and longitude, in degrees."""
    labels = [embedded.labels.get(name) for name in ("latitude", "longitude")]
    return all(v is not None and is_number(v) and bool(known(v).any()) for v in labels)


def world_map(embedded: Embedded | Sequence[Embedded], path: str | Path) -> Path:
    """Draw every record at its place on the Earth.

    Its colour is the first three principal components of its fused vector, by rank, as red, green
    and blue. So places of one colour are similar to the encoder.

    Args:
        embedded: Embedded records, or parts of one dataset.
        path: A PNG file.

    Returns:
        The path.
    """
    parts = [embedded] if isinstance(embedded, Embedded) else list(embedded)
    columns = [part.fused() for part in parts]
    values = normalize(torch.cat([vectors_of(c).float() for c in columns]), dim=1)
    latitude, longitude = (
        np.concatenate([p.labels[n][c.rows.numpy()] for p, c in zip(parts, columns)])
        for n in ("latitude", "longitude")
    )
    located = known(latitude) & known(longitude)
    latitude, longitude = latitude[located], longitude[located]
    points = principal(values[torch.from_numpy(located)], 3)
    colours = (points.argsort(0).argsort(0).double() / max(len(points) - 1, 1)).numpy() * 0.9 + 0.05
    grid = _grid(latitude, longitude, colours)
    with drawing(path, 8, 4.3) as figure:
        axes = figure.subplots()
        axes.grid(False)
        if grid is not None:
            axes.imshow(grid[0], extent=grid[1], interpolation="nearest", aspect="auto")
        else:
            axes.scatter(longitude, latitude, c=colours, s=6, linewidths=0)
        axes.set_title(
            f"{len(points):,} places, coloured by three principal components of their embeddings"
        )
        axes.set(xlim=(-180, 180), ylim=(-90, 90), facecolor="#EDEDED")
        axes.set_xticks(
            range(-180, 181, 60),
            [f"{abs(x)}°{'W' if x < 0 else 'E' if 0 < x else ''}" for x in range(-180, 181, 60)],
        )
        axes.set_yticks(
            range(-90, 91, 30),
            [f"{abs(y)}°{'S' if y < 0 else 'N' if y else ''}" for y in range(-90, 91, 30)],
        )
        axes.set_aspect("equal")
    return Path(path)


Extent = tuple[float, float, float, float]


def _grid(
    latitude: np.ndarray, longitude: np.ndarray, colours: np.ndarray
) -> tuple[np.ndarray, Extent] | None:
    """A picture and its extent if the places lie on a regular grid, else None."""
    axes = []
    for values in (latitude, longitude):
        lines = np.unique(values.round(6))
        step = np.diff(lines).min() if len(lines) > 1 else 0
        if (
            step < 0.05
            or np.abs((lines - lines[0]) / step - ((lines - lines[0]) / step).round()).max() > 0.02
        ):
            return None
        axes.append((lines[0], step, round((lines[-1] - lines[0]) / step) + 1))
    (south, dy, rows), (west, dx, columns) = axes
    picture = np.full((rows, columns, 3), 0.93)
    picture[
        rows - 1 - ((latitude - south) / dy).round().astype(int),
        ((longitude - west) / dx).round().astype(int),
    ] = colours
    return picture, (
        west - dx / 2,
        west + dx * (columns - 0.5),
        south - dy / 2,
        south + dy * (rows - 0.5),
    )
