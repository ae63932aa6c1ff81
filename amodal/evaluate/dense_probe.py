"""Linear probes of grids of tokens against maps of their pixels, or voxels."""

from __future__ import annotations

from collections.abc import Sequence
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
MAX_LOGITS = 2**26
"""Numbers of the classes of pixels that are held at a time."""
KNOWN = 0.5
"""Share of a token's pixels that must be known for it to be learnt from."""


@dataclass(frozen=True)
class Example:
    """One record.

    Attributes:
        grids: source -> (*cells, D), such as (rows, columns, D).
        truth: (H, W), or (X, Y, Z) of a scan: class numbers, `UNKNOWN` or less than 0 where
            there is none, or amounts, NaN where there is none.
        sides: entries of `truth` along each axis of a token; () where the tokens cover it evenly.
    """

    grids: dict[str, np.ndarray]
    truth: np.ndarray
    sides: tuple[int, ...] = ()


def _index(example: Example, cells: Sequence[int]) -> np.ndarray:
    """The number of the token that each pixel lies in, in reading order, in the shape of the map.

    Args:
        example: the record.
        cells: tokens along each axis.
    """
    shape = example.truth.shape
    if example.sides:
        along = [np.arange(n) // side for n, side in zip(shape, example.sides)]
    else:
        along = [((np.arange(n) + 0.5) * count // n).astype(int) for n, count in zip(shape, cells)]
    return np.asarray(np.ravel_multi_index(np.ix_(*along), cells))


def _token_counts(index: np.ndarray, truth: np.ndarray, tokens: int, classes: int) -> np.ndarray:
    """(tokens, classes): pixels of each class in each token.

    Args:
        index: of the token of each pixel.
        truth: class of each pixel, below 0 where unknown.
        tokens, classes: how many there are.
    """
    known = truth >= 0
    flat = index[known] * classes + truth[known]
    return np.bincount(flat, minlength=tokens * classes).reshape(tokens, classes)


def _learnt(x: list[np.ndarray], y: list[np.ndarray], seed: int) -> tuple[Tensor, Tensor]:
    """Tokens that a probe learns from, at most `MAX_TOKENS`."""
    features, targets = np.concatenate(x), np.concatenate(y)
    if len(features) > MAX_TOKENS:
        chosen = np.random.default_rng(seed).choice(len(features), MAX_TOKENS, replace=False)
        features, targets = features[np.sort(chosen)], targets[np.sort(chosen)]
    return torch.from_numpy(features).float(), torch.from_numpy(targets)


def _enlarged(grid: Tensor, example: Example) -> np.ndarray:
    """(*cells, K) -> (K, *shape of the map), linear between the centres of tokens."""
    shape = example.truth.shape
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    # tokens at the border may lie over it
    size = [n * side for n, side in zip(grid.shape, example.sides)] if example.sides else shape
    large = interpolate(grid.movedim(-1, 0)[None], size=tuple(size), mode=mode, align_corners=False)
    within: np.ndarray = large[0].numpy()[(slice(None), *(slice(n) for n in shape))]
    return within


def _likeliest(logits: Tensor, example: Example) -> np.ndarray:
    """The class of each pixel, of logits (*cells, K) of tokens, a few classes at a time in
    memory."""
    shape = example.truth.shape
    best, guess = np.full(shape, -np.inf, dtype=np.float32), np.zeros(shape, dtype=np.int64)
    step = max(1, MAX_LOGITS // example.truth.size)
    for first in range(0, logits.shape[-1], step):
        some = _enlarged(logits[..., first : first + step].float(), example)
        number, value = some.argmax(0), some.max(0)
        guess, best = np.where(value > best, number + first, guess), np.maximum(value, best)
    return guess


def probe_classes(
    train: list[Example], test: list[Example], draws: int, seed: int
) -> tuple[list[Row], dict[str, Any]]:
    """Mean intersection over union, Dice and the share of right pixels.

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
    occurring = {int(n) for e in train for n in np.unique(e.truth) if n >= 0}
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
            grid, cells = _flat(example.grids[source])
            index = _index(example, cells)
            counts = _token_counts(index, known(example.truth), len(grid), count)
            usable = (counts.sum(1) >= KNOWN * _pixels(index, len(grid))) & np.isfinite(grid).all(1)
            x.append(grid[usable])
            y.append(counts.argmax(1)[usable])
        w, b, _ = logistic(*_learnt(x, y, seed), count)
        tables = []
        for example in test:
            tokens, truth = torch.from_numpy(example.grids[source]), known(example.truth)
            absent = tokens.isnan().any(-1, keepdim=True)
            logits = torch.where(absent, 0.0, tokens.nan_to_num() @ w + b)
            guess = _likeliest(logits, example)
            pairs = truth[truth >= 0] * count + guess[truth >= 0]
            tables.append(np.bincount(pairs, minlength=count**2).reshape(count, count))
        rows += _overlaps(source, np.stack(tables), int(total.argmax()), draws, seed)
    return rows, {"kind": "classes", "classes": numbers}


def _flat(grid: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """(tokens, D), and tokens along each axis."""
    return grid.reshape(-1, grid.shape[-1]), grid.shape[:-1]


def _pixels(index: np.ndarray, tokens: int) -> np.ndarray:
    """(tokens,) pixels of each token, at least 1."""
    return np.bincount(index.ravel(), minlength=tokens).clip(min=1)


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
        for metric, score in (
            ("mIoU", _mean_iou),
            ("Dice", _mean_dice),
            ("pixel accuracy", _accuracy),
        )
    ]


def _mean_iou(table: np.ndarray) -> float:
    hit = table.diagonal()
    either = table.sum(0) + table.sum(1) - hit
    # a class that no record of the sample has says nothing
    present = table.sum(1) > 0
    return float((hit[present] / either[present]).mean())


def _mean_dice(table: np.ndarray) -> float:
    """Twice the overlap over the sum of both parts (Dice 1945), the mean over classes."""
    both = table.sum(0) + table.sum(1)
    present = table.sum(1) > 0
    return float((2 * table.diagonal()[present] / both[present]).mean())


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
            (grid, cells), known = _flat(example.grids[source]), np.isfinite(example.truth)
            index = _index(example, cells)
            count = np.bincount(index[known], minlength=len(grid))
            total = np.bincount(index[known], example.truth[known], len(grid))
            usable = (count >= KNOWN * _pixels(index, len(grid))) & np.isfinite(grid).all(1)
            x.append(grid[usable])
            y.append((total / np.maximum(count, 1))[usable])
        features, targets = _learnt(x, y, seed)
        w, b = ridge(features, targets.float())
        sums = []
        for example in test:
            tokens = torch.from_numpy(example.grids[source])
            usual = targets.float().mean()
            guess = torch.where(tokens.isnan().any(-1), usual, tokens.nan_to_num() @ w + b)
            shown = _enlarged(guess[..., None], example)[0]
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
