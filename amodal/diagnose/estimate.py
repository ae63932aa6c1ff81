"""The mean of a label over a population of which two other labels are known: balanced estimates.

Liu et al., NeurIPS 2024, arXiv:2408.15065: records are weighted so that the shares of two labels
are those of the population, one label after the other, and the variance falls with each step
(their theorem 1). In surveys it is called raking; one step is post-stratification.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from amodal.console import Printed
from amodal.core import AmodalError, unknown
from amodal.core.whole_file import whole_file
from amodal.data import Dataset
from amodal.diagnose.balance import balance, dependence, variances

FITTED = 50
"""Steps of the table that stands for the unknown truth in predictions."""


@dataclass(frozen=True)
class Estimate(Printed):
    """Estimates of one mean after each number of steps.

    Args:
        name: What is estimated.
        by: The two labels whose shares are known.
        rows: For each number of steps: `steps`, `estimate`, its `error` (predicted standard
            error), `variance` (over that of the plain mean), and with draws `measured`, the root of
            the mean squared error.
        weights: Key -> weight of each record that has all three labels; their mean is 1.
        second: The second singular value of the dependence of the two labels.
        records: How many have all three labels.
        population: How many have the two.
        truth: The mean over all records, where only some of them were drawn.
        draws: How many times; `failed` of them lacked a class.
        failed: See `draws`.
    """

    name: str
    by: tuple[str, str]
    rows: list[dict[str, float]]
    weights: dict[str, float]
    second: float
    records: int
    population: int
    truth: float | None = None
    draws: int = 0
    failed: int = 0

    def table(self) -> Table:
        """For a terminal."""
        note = (
            f"{self.records:,} records, weighted by the shares of {self.by[0]} and {self.by[1]} "
            f"among {self.population:,}. Dependence of these two: {self.second:.2f} (0 none, 1 "
            "one of the other); the smaller, the fewer steps are enough."
        )
        if self.truth is not None:
            note += (
                f" The mean of all is {self.truth:.4g}; `measured` is the distance from it, over "
                f"{self.draws - self.failed} draws of {self.records:,}."
            )
        if self.failed:
            note += f" {self.failed} draws lacked a class and could not be weighted."
        shown = Table(title=f"mean of {self.name}", caption=note)
        names = {"steps": "steps", "estimate": "estimate", "error": "predicted error"}
        names |= {"measured": "measured error", "variance": "variance / plain"}
        present = [key for key in names if key in self.rows[0]]
        for key in present:
            shown.add_column(names[key], justify="right")
        kinds = ["plain mean", "one label", "both"]
        shown.add_column("")
        for row in self.rows:
            cells = [f"{row[k]:.4g}" if k != "steps" else f"{int(row[k])}" for k in present]
            shown.add_row(*cells, kinds[min(int(row["steps"]), 2)])
        return shown

    def save(self, path: str | Path) -> Path:
        """Write all numbers but the weights as JSON."""
        content = {name: value for name, value in vars(self).items() if name != "weights"}
        with whole_file(Path(path)) as file:
            file.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return Path(path)

    def save_weights(self, path: str | Path) -> Path:
        """Write `key,weight` as CSV."""
        with whole_file(Path(path)) as file, file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerows([("key", "weight"), *self.weights.items()])
        return Path(path)


def estimate(
    dataset: Dataset,
    value: str,
    by: Sequence[str],
    *,
    population: Dataset | None = None,
    steps: int = 2,
    bins: int = 4,
    records: int | None = None,
    draws: int = 200,
    seed: int = 0,
) -> Estimate:
    """Estimate the mean of a label, with the shares of two other labels known.

    Args:
        dataset: Records, some of which have the label.
        value: A number, or LABEL=CLASS for the share of a class.
        by: Two labels. Numbers are divided into quantiles.
        population: Where the shares are taken from; all records of the dataset if None, and with
            `records` those that have the label.
        steps: Of balancing at most, in the order of `by`.
        bins: Quantiles of a number.
        records: Pretend that only so many records, drawn with replacement, have the label, and
            compare with the mean of all.
        draws: How often.
        seed: Of the draws.

    Raises:
        AmodalError: For unknown labels, other than two in `by`, classes that no record with the
            label has, and `records` with a `population`.
    """
    if len(by) != 2 or by[0] == by[1]:
        raise AmodalError(f"two labels are balanced, got {', '.join(by) or 'none'}: --by A,B")
    if steps < 0 or bins < 2 or draws < 1 or (records is not None and records < 2):
        raise AmodalError(
            f"steps {steps}, bins {bins}, records {records} and draws {draws}: take 0 steps or "
            "more, 2 bins or more, 2 records or more and 1 draw or more"
        )
    if records is not None and population is not None:
        raise AmodalError(
            "--records measures against the records that have the label, whose shares are then "
            "known; leave --population out"
        )
    numbers = values_of(dataset, value)
    (x_N, y_N), (x_M, y_M), classes = _codes(dataset, population or dataset, by, bins)
    whole = np.flatnonzero(np.isfinite(numbers) & (x_N >= 0) & (y_N >= 0))
    if len(whole) < 2:
        raise AmodalError(
            f"{len(whole)} records have {value}, {by[0]} and {by[1]}, and at least 2 are needed"
        )
    if records is not None:  # what is measured is the distance from the mean of these
        x_M, y_M = x_N[whole], y_N[whole]
    known = _table(x_M, y_M, classes)
    rows_X, columns_Y = (torch.from_numpy(known.sum(axis) / known.sum()) for axis in (1, 0))
    rng = np.random.default_rng(seed)
    chosen = whole if records is None else rng.choice(whole, records)

    def balanced(index: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        cells = _Cells.of(x_N[index], y_N[index], numbers[index], classes)
        return cells.estimates(rows_X, columns_Y, steps)

    try:
        means, errors, last = balanced(chosen)
    except ValueError as e:
        raise AmodalError(
            f"{e} The classes are those of {by[0]} (rows) and {by[1]} (columns), numbers in {bins} "
            "--bins; take fewer bins, or more records."
        ) from e
    rows = [
        {"steps": k, "estimate": float(mean), "error": float(error)}
        for k, (mean, error) in enumerate(zip(means, errors))
    ]
    for row in rows:
        row["variance"] = (row["error"] / rows[0]["error"]) ** 2 if rows[0]["error"] else 1.0
    truth, failed = None, 0
    if records is not None:
        truth, apart = float(numbers[whole].mean()), []
        for _ in range(draws):
            try:
                apart.append(balanced(rng.choice(whole, records))[0] - truth)
            except ValueError:  # a class that this draw lacks
                failed += 1
        if apart:
            measured = torch.stack(apart).square().mean(0).sqrt()
            for row, error in zip(rows, measured.tolist()):
                row["measured"] = error
    weight = last[torch.from_numpy(x_N[chosen]), torch.from_numpy(y_N[chosen])]
    keys = [dataset.keys[i] for i in chosen.tolist()]
    return Estimate(
        value,
        (by[0], by[1]),
        rows,
        dict(zip(keys, weight.tolist())),
        float(dependence(torch.from_numpy(known))[1]),
        len(chosen),
        int(known.sum()),
        truth,
        draws if records is not None else 0,
        failed,
    )


def values_of(dataset: Dataset, value: str) -> np.ndarray:
    """(N,) float64, NaN where missing: a number, or 1 for records of a class (LABEL=CLASS)."""
    name, _, wanted = value.partition("=")
    if name not in dataset.labels:
        raise unknown("label", name, dataset.labels)
    values = dataset.label(name)
    if values.dtype.kind == "f":
        if wanted:
            raise AmodalError(f"{name} is a number; its mean is --value {name}, without a class")
        return values
    names = sorted({str(v) for v in values if v is not None})
    if wanted not in names:
        raise unknown(
            f"class of {name}", wanted, names, f"A share is estimated: --value {name}=CLASS."
        )
    return np.array([np.nan if v is None else float(str(v) == wanted) for v in values])


@dataclass(frozen=True)
class _Cells:
    """Counts, means and variances within the cells of a table (X, Y)."""

    counts: Tensor
    means: Tensor
    within: Tensor

    @staticmethod
    def of(x_N: np.ndarray, y_N: np.ndarray, value_N: np.ndarray, size: tuple[int, int]) -> _Cells:
        cell = x_N * size[1] + y_N
        sums = [
            torch.from_numpy(
                np.bincount(cell, weights=value_N**power, minlength=size[0] * size[1])
            ).reshape(size)
            for power in (0, 1, 2)
        ]
        number = sums[0].clamp_min(1)
        means = sums[1] / number
        return _Cells(sums[0], means, (sums[2] / number - means.square()).clamp_min(0))

    def estimates(
        self, rows_X: Tensor, columns_Y: Tensor, steps: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(steps + 1,) means and predicted standard errors, and (X, Y) the weights at the end."""
        tables = [balance(self.counts, rows_X, columns_Y, steps=k) for k in range(steps + 1)]
        fitted = balance(self.counts, rows_X, columns_Y, steps=max(steps, FITTED))
        # what varies inside a cell is no function of the two labels, and no step removes it
        noise = (fitted * self.within).sum()
        variance = variances(fitted, self.means, steps=steps).clamp_min(0) + noise
        means = torch.stack([(p * self.means).sum() for p in tables])
        weights = tables[-1] / (self.counts / self.counts.sum()).clamp_min(1e-300)
        return means, (variance / self.counts.sum()).sqrt(), weights


def _codes(
    dataset: Dataset, population: Dataset, by: Sequence[str], bins: int
) -> tuple[list[np.ndarray], list[np.ndarray], tuple[int, int]]:
    """Numbers of the classes of both labels, -1 where missing, of the records and of the
    population, and how many classes there are."""
    ours, theirs, sizes = [], [], []
    for name in by:
        for data in (dataset, population):
            if name not in data.labels:
                raise unknown(f"label of {data.name}", name, data.labels)
        mine, known = dataset.label(name), population.label(name)
        if (mine.dtype.kind == "f") != (known.dtype.kind == "f"):
            raise AmodalError(
                f"{name} is a number in one of the two data sets and not in the other"
            )
        if known.dtype.kind == "f":
            edges = np.unique(np.nanquantile(known, np.arange(1, bins) / bins))
            coded = [np.where(np.isfinite(v), np.searchsorted(edges, v), -1) for v in (mine, known)]
            size = len(edges) + 1
        else:
            # classes that the population does not have have no share in it
            names = {v: i for i, v in enumerate(sorted({v for v in known if v is not None}))}
            coded = [np.array([names.get(v, -1) for v in values]) for values in (mine, known)]
            size = len(names)
        if size < 2:
            raise AmodalError(f"{name} has one class only, and there is nothing to balance")
        ours.append(coded[0].astype(np.int64))
        theirs.append(coded[1].astype(np.int64))
        sizes.append(size)
    return ours, theirs, (sizes[0], sizes[1])


def _table(x_M: np.ndarray, y_M: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    both = (x_M >= 0) & (y_M >= 0)
    cell = x_M[both] * size[1] + y_M[both]
    return np.bincount(cell, minlength=size[0] * size[1]).reshape(size).astype(np.float64)
