"""What a choice does to groups of records, and what a score goes with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2_contingency

from amodal.data import Dataset
from amodal.data.attributes import Attributes
from amodal.inference.embed import known
from amodal.selection.chunks import Rows
from amodal.stats.rank_correlation import spearman

MAX_GROUPS = 50
CLEARLY = 0.01
"""p of equal shares, below which groups differ."""
MAX_RECORDS = 2000
"""Records whose attributes are read."""
STRONGLY = 0.5
"""Spearman's correlation from which a score goes with an attribute."""


@dataclass(frozen=True)
class Groups:
    """How many records of each group were there, and how many are selected.

    Args:
        label: Of the groups.
        counts: Value -> (records, selected records), the least selected share first.
        differ: Whether shares differ by more than chance.
    """

    label: str
    counts: dict[str, tuple[int, int]]
    differ: bool


def groups_of(
    dataset: Dataset, rows: Rows, selected: np.ndarray, label: str | None = None
) -> Groups | None:
    """Compare the groups of a label.

    Args:
        dataset: Where the records are.
        rows: (N,) their numbers.
        selected: (N,) bool.
        label: The label; the one whose groups differ most (Cramér's V) unless set.

    Returns:
        None without a label that makes 2 to `MAX_GROUPS` groups.
    """
    names = [n for n, one in dataset.labels.items() if one.kind == "category"]
    best: tuple[float, Groups] | None = None
    for name in names if label is None else [label]:
        values = dataset.label(name)[rows]
        has = known(values)
        texts = values[has].astype(str)
        unique, place = np.unique(texts, return_inverse=True)
        if not 2 <= len(unique) <= MAX_GROUPS:
            continue
        total = np.bincount(place, minlength=len(unique))
        chosen = np.bincount(place, weights=selected[has], minlength=len(unique)).astype(int)
        order = np.argsort(chosen / total, kind="stable")
        counts = {str(unique[i]): (int(total[i]), int(chosen[i])) for i in order}
        table = np.stack([chosen, total - chosen])
        cramer, p = 0.0, 1.0
        if table.sum(1).all():
            statistic, p = chi2_contingency(table)[:2]
            cramer = float(statistic) / total.sum()
        if best is None or cramer > best[0]:
            best = cramer, Groups(name, counts, bool(p < CLEARLY))
    return None if best is None else best[1]


def correlate(
    dataset: Dataset, rows: Rows, score: np.ndarray, by: str, seed: int = 0
) -> tuple[str, float] | None:
    """The number, such as the length of a text, that a score goes with most.

    Args:
        dataset: Where the records are.
        rows: (N,) their numbers.
        score: (N,) NaN without one.
        by: The rule, which is not compared with itself.
        seed: Of the choice of records.

    Returns:
        Its name and Spearman's correlation, None where that is below `STRONGLY`.
    """
    have = np.flatnonzero(np.isfinite(score))
    some = np.sort(np.random.default_rng(seed).permutation(have)[:MAX_RECORDS])
    attributes = Attributes(dataset)
    keys = [dataset.keys[i] for i in rows[some].tolist()]
    best: tuple[str, float] | None = None
    for name, values in attributes.all_values(keys).items():
        if attributes.names.get(name) != "number" or name == by:
            continue
        both = np.isfinite(values)
        if both.sum() < 10:
            continue
        correlation = spearman(score[some][both], values[both])
        if abs(correlation) >= STRONGLY and (best is None or abs(correlation) > abs(best[1])):
            best = name, float(correlation)
    return best
