"""How good a map is, beside pixels without a network and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

DRAWS = 500
"""Of the bootstrap over records."""
BINS = 512
"""Of scores, between 0 and the largest."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """One metric of a map and of what stands beside it.

    Args:
        metric: Its name.
        values: Column -> value. The first column is the map itself, and the last is chance.
        intervals: Column -> 95 % interval over records.
        differences: Column -> 95 % interval of the map less the column, of the same records.
    """

    metric: str
    values: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Interval] = field(default_factory=dict)


def pixel_score(
    table_NLC: np.ndarray,
    classes: Sequence[int],
    layer_of: Sequence[int] | None,
    layers: int | None = None,
) -> tuple[float, np.ndarray]:
    """Mean intersection over union, for all records together and for draws of them.

    Args:
        table_NLC: Of each record, how many pixels have a layer and a class.
        classes: Columns of the table that count.
        layer_of: The layer of each of these classes, -1 for none; None for the assignment of one
            layer to one class with the largest sum of intersections over unions.
        layers: How many rows of the table are layers; others are of pixels without any, which are
            missed. All unless set.

    Returns:
        The value, and (DRAWS,) of the bootstrap.
    """
    table = table_NLC[:, :, list(classes)].astype(float)
    whole = table.sum(0)
    chosen = matched(whole, layers) if layer_of is None else list(layer_of)
    weights = _draws(len(table))
    drawn = np.einsum("bn,nlc->blc", weights, table, optimize=True)
    values = np.array([_mean_iou(one, chosen) for one in (whole, *drawn)])
    return float(values[0]), values[1:]


def matched(table_LC: np.ndarray, layers: int | None = None) -> list[int]:
    """The layer of each class, -1 for none, with the largest sum of intersections over unions.

    Args:
        table_LC: How many pixels have a layer and a class.
        layers: How many rows are layers; all unless set.
    """
    union = table_LC.sum(1, keepdims=True) + table_LC.sum(0, keepdims=True) - table_LC
    chosen, classes = linear_sum_assignment((-table_LC / np.maximum(union, 1))[:layers])
    by_class = dict(zip(classes.tolist(), chosen.tolist()))
    return [by_class.get(c, -1) for c in range(table_LC.shape[1])]


def _mean_iou(table_LC: np.ndarray, layers: Sequence[int]) -> float:
    total, scores = table_LC.sum(0), []
    for c, layer in enumerate(layers):
        hit, guessed = (table_LC[layer, c], table_LC[layer].sum()) if layer >= 0 else (0.0, 0.0)
        union = total[c] + guessed - hit
        if union > 0:
            scores.append(hit / union)
    return float(np.mean(scores)) if scores else float("nan")


def chance_iou(table_LC: np.ndarray, number: int) -> float:
    """Mean intersection over union of a layer that is drawn anew for each pixel, out of `number`.

    Args:
        table_LC: Of all records, the classes that count.
        number: Of layers.
    """
    share = table_LC.sum(0) / max(table_LC.sum(), 1)
    share = share[share > 0]
    hit = share / number
    return float((hit / (share + 1 / number - hit)).mean()) if len(share) else float("nan")


def binned(score_P: np.ndarray, truth_P: np.ndarray, top: float) -> np.ndarray:
    """(2, BINS) how many pixels that did not change, and that did, have a score in each bin."""
    place = np.clip((score_P / max(top, 1e-12) * BINS).astype(int), 0, BINS - 1)
    return np.stack([np.bincount(place[truth_P == k], minlength=BINS) for k in (0, 1)])


def change_scores(count_N2B: np.ndarray, threshold_bin: int) -> dict[str, np.ndarray]:
    """Metrics of scores of change, for all records together and for draws of them.

    Args:
        count_N2B: See `binned`, of each record.
        threshold_bin: The first bin that counts as changed.

    Returns:
        Metric -> (1 + DRAWS,): F1 and IoU at the threshold, AUROC and average precision of the
        scores.
    """
    count = count_N2B.astype(float)
    drawn = np.tensordot(_draws(len(count)), count, 1)
    whole = np.concatenate([count.sum(0)[None], drawn])  # (1 + draws, 2, B)
    marked = whole[:, :, threshold_bin:].sum(2)
    hit, guessed, true = marked[:, 1], marked.sum(1), whole[:, 1].sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        f1, iou = 2 * hit / (guessed + true), hit / (guessed + true - hit)
        from_top = whole[:, :, ::-1]
        yes, no = from_top[:, 1].cumsum(1), from_top[:, 0].cumsum(1)
        precision = np.nan_to_num(yes / (yes + no))
        ap = (from_top[:, 1] * precision).sum(1) / true
        # a positive wins over the negatives of lower bins, and half over those of its own
        below = no[:, -1:] - no + from_top[:, 0] / 2
        auroc = (from_top[:, 1] * below).sum(1) / (true * no[:, -1])
    return {"F1": f1, "IoU": iou, "average precision": ap, "AUROC": auroc}


def chance_of_change(share: float) -> dict[str, float]:
    """The metrics of marking as many pixels as changed, at random.

    Args:
        share: Of the pixels that changed.
    """
    iou = share / (2 - share)
    return {"F1": share, "IoU": iou, "average precision": share, "AUROC": 0.5}


def assembled(metric: str, columns: Mapping[str, np.ndarray], chance: float) -> Score:
    """A score of the values of columns.

    Args:
        metric: Its name.
        columns: Column -> (1 + DRAWS,) the value and its draws, the map first. The draws of all
            columns are of the same records.
        chance: Its value for chance.
    """
    own = next(iter(columns))
    return Score(
        metric,
        {name: float(v[0]) for name, v in columns.items()} | {"chance": chance},
        {name: _interval(v[1:]) for name, v in columns.items()},
        {name: _interval(columns[own][1:] - v[1:]) for name, v in columns.items() if name != own},
    )


def _interval(draws: np.ndarray) -> Interval:
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


def _draws(count: int) -> np.ndarray:
    """(DRAWS, N): how often each record is in a draw, the same for all that is measured."""
    rng = np.random.default_rng(0)
    return rng.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(float)
