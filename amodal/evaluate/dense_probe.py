"""Linear probes of grids of tokens against maps of their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.protocols.linear import ridge
from amodal.evaluate.row import Row
from amodal.modalities.shared.rasters import UNKNOWN
from amodal.stats.logistic import logistic

MAX_TOKENS = 20_000
"""That a probe learns from."""
KNOWN = 0.5
"""Share of a token's pixels that must be known for it to be learnt from."""


@dataclass(frozen=True)
class Example:
    """One record.

    Attributes:
        grids: source -> (rows, columns, D).
        truth: (H, W): class numbers, `UNKNOWN` where there is none, or amounts, NaN where there is
            none.
    """

    grids: dict[str, np.ndarray]
    truth: np.ndarray


def _cells(truth: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The row and the column of the token that each pixel lies in."""
    y, x = (
        (np.arange(side) + 0.5) * count // side for side, count in zip(truth.shape, (rows, columns))
    )
    return y.astype(int)[:, None], x.astype(int)[None]


def _token_counts(truth: np.ndarray, rows: int, columns: int, classes: int) -> np.ndarray:
    """(rows, columns, classes): pixels of each class in each token."""
    y, x = _cells(truth, rows, columns)
    index = np.broadcast_to(y * columns + x, truth.shape)
    known = truth >= 0
    flat = index[known] * classes + truth[known]
    return np.bincount(flat, minlength=rows * columns * classes).reshape(rows, columns, classes)


def _learnt(x: list[np.ndarray], y: list[np.ndarray], seed: int) -> tuple[Tensor, Tensor]:
    """Tokens that a probe learns from, at most `MAX_TOKENS`."""
    features, targets = np.concatenate(x), np.concatenate(y)
    if len(features) > MAX_TOKENS:
        chosen = np.random.default_rng(seed).choice(len(features), MAX_TOKENS, replace=False)
        features, targets = features[np.sort(chosen)], targets[np.sort(chosen)]
    return torch.from_numpy(features).float(), torch.from_numpy(targets)


def _enlarged(grid: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """(rows, columns, K) -> (H, W, K), linear between the centres of tokens."""
    large = interpolate(
        grid.permute(2, 0, 1)[None], size=shape, mode="bilinear", align_corners=False
    )
    return large[0].permute(1, 2, 0).numpy()


def probe_classes(
    train: list[Example], test: list[Example], draws: int, seed: int
) -> tuple[list[Row], dict[str, Any]]:
    """Mean intersection over union and the share of right pixels.

    Args:
        train: Records that probes learn from.
        test: Records that they are measured on.
        draws: Of the intervals.
        seed: Of these draws, and of the tokens that are learnt from.

    Returns:
        Rows, and what the maps are.

    Raises:
        NotApplicable: For maps of one class.
    """
    occurring = {int(n) for e in train for n in np.unique(e.truth)}
    # a mask is 0 and 255, and has no unknown pixel
    numbers = sorted(occurring if occurring == {0, UNKNOWN} else occurring - {UNKNOWN})
    if len(numbers) < 2:
        raise NotApplicable("the maps of the training records have fewer than two classes")
    place = np.full(max(UNKNOWN, *numbers) + 1, -1)
    place[numbers] = np.arange(len(numbers))

    def known(truth: np.ndarray) -> np.ndarray:
        inside = (truth >= 0) & (truth < len(place))
        return np.where(inside, place[np.where(inside, truth, 0)], -1)

    count = len(numbers)
    total = np.zeros(count)
    for example in train:
        truth = known(example.truth)
        total += np.bincount(truth[truth >= 0], minlength=count)
    rows: list[Row] = []
    for source in train[0].grids:
        x, y = [], []
        for example in train:
            grid = example.grids[source]
            counts = _token_counts(known(example.truth), grid.shape[0], grid.shape[1], count)
            pixels = example.truth.size / (grid.shape[0] * grid.shape[1])
            usable = (counts.sum(2) >= KNOWN * pixels) & np.isfinite(grid).all(2)
            x.append(grid[usable])
            y.append(counts.argmax(2)[usable])
        w, b, _ = logistic(*_learnt(x, y, seed), count)
        tables = []
        for example in test:
            tokens, truth = torch.from_numpy(example.grids[source]), known(example.truth)
            absent = tokens.isnan().any(2, keepdim=True)
            logits = torch.where(absent, 0.0, tokens.nan_to_num() @ w + b)
            guess = _enlarged(logits, truth.shape).argmax(2)
            pairs = truth[truth >= 0] * count + guess[truth >= 0]
            tables.append(np.bincount(pairs, minlength=count**2).reshape(count, count))
        rows += _overlaps(source, np.stack(tables), int(total.argmax()), draws, seed)
    return rows, {"kind": "classes", "classes": numbers}


def _overlaps(
    source: str, tables: np.ndarray, most_frequent: int, draws: int, seed: int
) -> list[Row]:
    """Rows of one source.

    Args:
        tables: (N, true class, guess) pixels of each record.
        most_frequent: class of the training part, whose guess everywhere is chance.
    """
    constant = np.zeros(tables.shape[1:])
    constant[:, most_frequent] = tables.sum((0, 2))
    weights = _resampled(len(tables), draws, seed)
    drawn = np.tensordot(weights, tables.astype(float), 1)
    whole = tables.sum(0).astype(float)
    return [
        {
            "source": source,
            "metric": metric,
            "value": score(whole),
            "chance": score(constant),
            "n": len(tables),
            "interval": np.percentile([score(d) for d in drawn], (2.5, 97.5)).tolist(),
        }
        for metric, score in (("mIoU", _mean_iou), ("pixel accuracy", _accuracy))
    ]


def _mean_iou(table: np.ndarray) -> float:
    hit = table.diagonal()
    either = table.sum(0) + table.sum(1) - hit
    # a class that no record of the sample has says nothing
    present = table.sum(1) > 0
    return float((hit[present] / either[present]).mean())


def _accuracy(table: np.ndarray) -> float:
    return float(table.trace() / table.sum())


def _resampled(count: int, draws: int, seed: int) -> np.ndarray:
    """(draws, count) how often each record is drawn."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)


def probe_amounts(
    train: list[Example], test: list[Example], draws: int, seed: int
) -> tuple[list[Row], dict[str, Any]]:
    """R2 and the root of the mean squared error, over pixels; arguments as of `probe_classes`."""
    rows: list[Row] = []
    for source in train[0].grids:
        x, y = [], []
        for example in train:
            grid, known = example.grids[source], np.isfinite(example.truth)
            rows_of, columns_of = grid.shape[:2]
            count = _token_counts(known.astype(np.int64) - 1, rows_of, columns_of, 1)[..., 0]
            total = np.zeros((rows_of, columns_of))
            cells = np.broadcast_arrays(*_cells(example.truth, rows_of, columns_of))
            np.add.at(total, (cells[0][known], cells[1][known]), example.truth[known])
            pixels = example.truth.size / (rows_of * columns_of)
            usable = (count >= KNOWN * pixels) & np.isfinite(grid).all(2)
            x.append(grid[usable])
            y.append((total / np.maximum(count, 1))[usable])
        features, targets = _learnt(x, y, seed)
        w, b = ridge(features, targets.float())
        sums = []
        for example in test:
            tokens = torch.from_numpy(example.grids[source])
            usual = targets.float().mean()
            guess = torch.where(tokens.isnan().any(2), usual, tokens.nan_to_num() @ w + b)
            shown = _enlarged(guess[..., None], example.truth.shape)[..., 0]
            known = np.isfinite(example.truth)
            true = example.truth[known]
            square = float(((shown[known] - true) ** 2).sum())
            sums.append((len(true), true.sum(), float((true**2).sum()), square))
        table = np.array(sums)
        drawn = _resampled(len(table), draws, seed) @ table
        for metric, score, chance in (
            ("R2", _r2, 0.0),
            ("RMSE", _rmse, _deviation(table.sum(0))),
        ):
            rows.append(
                {
                    "source": source,
                    "metric": metric,
                    "value": score(table.sum(0)),
                    "chance": chance,
                    "n": len(table),
                    "interval": np.percentile([score(d) for d in drawn], (2.5, 97.5)).tolist(),
                }
            )
    return rows, {"kind": "amounts"}


def _deviation(sums: np.ndarray) -> float:
    """Standard deviation of pixels, of (count, sum, sum of squares, squared error)."""
    count, total, squares, _ = sums
    return float(max(squares / count - (total / count) ** 2, 0.0) ** 0.5)


def _r2(sums: np.ndarray) -> float:
    return 1 - float(sums[3] / sums[0]) / max(_deviation(sums) ** 2, 1e-12)


def _rmse(sums: np.ndarray) -> float:
    return float((sums[3] / sums[0]) ** 0.5)
