"""What clustering gives: for each record a cluster, for each cluster what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.markup import escape
from rich.table import Table

from amodal.console import Printed
from amodal.core import AmodalError
from amodal.data import Dataset
from amodal.evaluate.contact_sheet import card, sheet
from amodal.inference.write_table import save_table

SUFFIXES = (".csv", ".parquet")
CARDS = 8
"""Records of a cluster in a picture."""
MAX_ROWS = 40
"""Clusters in a picture."""
CLEAR = 0.05
"""Silhouette above that of one cloud, below which clusters are a matter of degree."""
LOW = 0.5
"""Stability below which clusters are called arbitrary."""


@dataclass(frozen=True)
class Clustering(Printed):
    """Records in clusters, the largest first.

    Args:
        keys: Of N records.
        cluster: (N,) int64 numbers from 0, -1 for a record without the field.
        margin: (N,) cosine to the own cluster's mean less that to the nearest other, NaN without a
            cluster. Records near 0 lie on a border; below 0 another mean is nearer.
        source: The field, or `fused` for all.
        by: kmeans, spectral or membership.
        dataset: Where the records are.
        names: cluster -> name; {} where there were no words to choose from.
        descriptions: cluster -> what sets its records apart.
        judged: Number of clusters -> how good it is, higher is better; {} where it was given.
        stability: Adjusted Rand index of clusterings of two halves of the records, see
            `amodal.cluster.groups.stability`; None where there are too few records a cluster.
        silhouette: How much nearer records are to their own cluster than to the next, of at most 1.
        cloud: The same of as many clusters of one normal cloud of the same spread, which has none.
        simple: The same of simple features of the same records, None without any.
        scores: Metric -> (this clustering, simple features) against a label that it did not see.
        label: The label of these.
    """

    keys: Sequence[str]
    cluster: np.ndarray
    margin: np.ndarray
    source: str
    by: str
    dataset: Dataset
    names: Mapping[int, str] = field(default_factory=dict)
    descriptions: Mapping[int, str] = field(default_factory=dict)
    judged: Mapping[int, float] = field(default_factory=dict)
    stability: float | None = None
    silhouette: float = 0.0
    cloud: float = 0.0
    simple: float | None = None
    scores: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
    label: str = ""

    @property
    def number(self) -> int:
        """Of clusters."""
        return len(np.unique(self.cluster[self.cluster >= 0]))

    def name(self, cluster: int) -> str:
        """What to call a cluster: its name, or what sets it apart."""
        return self.names.get(cluster) or self.descriptions.get(cluster, "")

    def typical(self, cluster: int, count: int = 3) -> list[int]:
        """Records that lie deepest in a cluster, by their place among the N."""
        members = np.flatnonzero(self.cluster == cluster)
        return [int(i) for i in members[np.argsort(-self.margin[members], kind="stable")[:count]]]

    @property
    def sentence(self) -> str:
        """What was found, and whether to believe it."""
        placed = int((self.cluster >= 0).sum())
        how = f"{self.number} clusters of {placed:,} records by {self.by} of {self.source}"
        if self.judged:
            low, high = min(self.judged), max(self.judged)
            how += f", a number chosen from {low} to {high}"
            if self.number in (low, high) and low < high:
                how += f" (the {'smallest' if self.number == low else 'largest'} of these)"
        parts = [how, *self._comes_back()]
        for metric, (value, simple) in self.scores.items():
            beside = "" if simple is None else f" (simple features {simple:.2f})"
            parts.append(f"{metric} with {self.label} {value:.2f}{beside}")
        return "; ".join(parts)

    def _comes_back(self) -> list[str]:
        parts = [f"silhouette {self.silhouette:.2f} (one cloud without clusters {self.cloud:.2f})"]
        if self.silhouette < self.cloud + CLEAR:
            parts.append("that is no more than one cloud has: where they end is a matter of degree")
        if self.stability is None:
            return [*parts, "too few records a cluster to say whether they come back"]
        beside = "" if self.simple is None else f"; simple features {self.simple:.2f}"
        parts.append(
            f"clusters of halves of the records agree by {self.stability:.2f} (adjusted Rand index"
            f"{beside})"
        )
        if self.stability < LOW:
            parts.append("that is little: other records would give other clusters")
        return parts

    def table(self) -> Table:
        """A table for a terminal."""
        shown = Table(title=escape(f"{self.sentence}."), title_justify="left")
        for heading in ("cluster", "records", "name", "set apart by", "typical records"):
            if heading != "name" or self.names:
                shown.add_column(
                    heading, justify="right" if heading in ("cluster", "records") else "left"
                )
        for cluster in range(self.number):
            cells = [str(cluster), f"{int((self.cluster == cluster).sum()):,}"]
            cells += [self.names.get(cluster, "")] if self.names else []
            cells += [self.descriptions.get(cluster, "")]
            cells += [", ".join(self.keys[i] for i in self.typical(cluster))]
            shown.add_row(*map(escape, cells))
        return shown

    def rows(self) -> list[dict[str, Any]]:
        """key, cluster, name and margin of each record; None where it has no cluster."""
        return [
            {
                "key": key,
                "cluster": int(c) if c >= 0 else None,
                "name": self.name(int(c)) or None if c >= 0 else None,
                "margin": round(float(m), 6) if c >= 0 else None,
            }
            for key, c, m in zip(self.keys, self.cluster, self.margin)
        ]

    def save(self, path: str | Path) -> Path:
        """Write `rows` to a .csv or .parquet file.

        Returns:
            The path.

        Raises:
            AmodalError: For another ending, and if it cannot be written.
        """
        path = check_suffix(path)
        types = {"key": pa.string(), "cluster": pa.int64(), "name": pa.string()}
        schema = pa.schema({**types, "margin": pa.float64()})
        table = pa.Table.from_pylist(self.rows(), schema=schema)
        return save_table(table, path)

    def save_picture(self, path: str | Path, field: str | None = None) -> Path:
        """Draw the records that lie deepest in each cluster, a row for each.

        Args:
            path: A PNG file.
            field: Which to show, the clustered one unless set, or the first.

        Returns:
            The path.

        Raises:
            AmodalError: For a field that is not there, and if it cannot be written.
        """
        check_picture(path)
        shown = field or (self.source if self.source in self.dataset.fields else None)
        shown = shown or next(iter(self.dataset.fields))
        self.dataset.present(shown)  # raises for one that is none
        place = {key: i for i, key in enumerate(self.dataset.keys)}
        lines = []
        for cluster in range(min(self.number, MAX_ROWS)):
            some = self.typical(cluster, CARDS)
            first = self.names.get(cluster, f"{int((self.cluster == cluster).sum()):,} records")
            titles = [f"{cluster}: {first}", *(self.keys[i] for i in some[1:])]
            lines.append(
                [card(self.dataset, place[self.keys[i]], shown, t) for i, t in zip(some, titles)]
            )
        return sheet(lines, path, title=f"{self.number} clusters, typical records")


def check_picture(path: str | Path) -> Path:
    """The path of a picture.

    Raises:
        AmodalError: For an ending other than .png.
    """
    if Path(path).suffix != ".png":
        raise AmodalError(f"the picture is written to a .png file, not {path}")
    return Path(path)


def check_suffix(path: str | Path) -> Path:
    """The path of a table.

    Raises:
        AmodalError: For an ending that is none of `SUFFIXES`.
    """
    if Path(path).suffix not in SUFFIXES:
        raise AmodalError(f"clusters are written to a {' or '.join(SUFFIXES)} file, not {path}")
    return Path(path)
