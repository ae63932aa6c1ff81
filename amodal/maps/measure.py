"""Maps against rasters of labels, with pixels alone and chance beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from amodal.core import AmodalError
from amodal.maps.laying import label_map
from amodal.maps.scores import (
    BINS,
    Score,
    assembled,
    binned,
    chance_iou,
    chance_of_change,
    change_scores,
    pixel_score,
)
from amodal.maps.truth import Truth
from amodal.modalities.shared.rasters import UNKNOWN
from amodal.stats.kmeans import assign, kmeans
from amodal.stats.otsu import otsu

THIS = "this map"
MAX_SAMPLED = 200
"""Records whose pixels are clustered."""
MAX_PIXELS = 20_000
"""Of these."""
LARGEST = 10.0
"""Difference of pixels in standard deviations; larger ones count as this."""

Laid = Callable[[int], np.ndarray]
"""Item -> (K, H, W), the layers of a map on its picture."""
Pictures = Callable[[int], list[np.ndarray]]
"""Item -> its pictures (C, H, W), of one size."""


@dataclass(frozen=True)
class Measured:
    """Scores, and what they are of.

    Args:
        scores: Of the map.
        records: How many have labels.
        left_out: Share of the labelled pixels whose class no layer stands for.
    """

    scores: tuple[Score, ...]
    records: int
    left_out: float = 0.0


class PixelClusters:
    """K-means of single pixels, which has no network.

    Args:
        sample_TC: Pixels, among them none that does not count.
        number: Of clusters.
        seed: Of k-means.
    """

    def __init__(self, sample_TC: np.ndarray, number: int, seed: int):
        sample = sample_TC.astype(float)
        self.mean, self.std = sample.mean(0), sample.std(0) + 1e-9
        scaled = torch.from_numpy((sample - self.mean) / self.std)
        self.centres = kmeans(scaled, number, seed=seed)[1]

    def __call__(self, picture_CHW: np.ndarray) -> np.ndarray:
        """(H, W) cluster of each pixel."""
        pixels = picture_CHW.reshape(len(picture_CHW), -1).T
        scaled = torch.from_numpy((pixels - self.mean) / self.std)
        return assign(scaled, self.centres)[0].numpy().reshape(picture_CHW.shape[1:])


def measure_segments(
    laid: Mapping[str, Laid],
    pictures: Pictures,
    truth: Truth,
    items: list[int],
    *,
    numbers: list[int] | None,
    layers: int,
    threshold: Mapping[str, float | None],
    seed: int,
) -> Measured:
    """Mean intersection over union of label maps.

    Args:
        laid: Column -> its layers, the map first.
        pictures: Of items.
        truth: Rasters of labels.
        items: Which have a map.
        numbers: The class number of each layer; None where layers are matched to classes, as those
            of pixels always are.
        layers: K.
        threshold: Column -> that of a single layer.
        seed: Of clusters of pixels.
    """
    # one layer divides a picture into two
    count = max(layers, 2)
    if numbers is not None and layers == 1:
        truth, numbers = truth.only(numbers[0]), [0, 1]
    labelled = [n for n, _ in _rasters(pictures, truth, items)]
    occurring = sorted({c for c in truth.numbers if numbers is None or c in numbers})
    sample_TC = _pixels_of(pictures, truth, labelled, occurring, seed)
    clusters = PixelClusters(sample_TC, count, seed)
    width = max(truth.numbers) + 1
    tables: dict[str, list[np.ndarray]] = {name: [] for name in (*laid, "pixels")}
    for n, raster in _rasters(pictures, truth, labelled):
        values = {name: one(n) for name, one in laid.items()}
        # what lies outside of the part that the encoder reads counts in no column
        inside = np.all([np.isfinite(value).all(0) for value in values.values()], 0)
        raster = np.where(inside, raster, -1)
        for name, value in values.items():
            guess = label_map(value, threshold[name]).astype(np.int64)
            # below a threshold a pixel has no layer, and what is there was missed
            guess = np.where(guess == UNKNOWN, count, guess)
            tables[name].append(_table(guess, raster, count + 1, width))
        tables["pixels"].append(_table(clusters(pictures(n)[0]), raster, count + 1, width))
    stacked = {name: np.stack(table) for name, table in tables.items()}
    classes = [c for c in occurring if stacked["pixels"][:, :, c].any()]
    fixed = None if numbers is None else [numbers.index(c) for c in classes]
    columns = {
        name: pixel_score(table, classes, None if name == "pixels" else fixed, count)
        for name, table in stacked.items()
    }
    whole = stacked["pixels"].sum(0)
    score = assembled(
        "mIoU",
        {name: np.concatenate([[value], draws]) for name, (value, draws) in columns.items()},
        chance_iou(whole[:, classes], count),
    )
    left_out = 1 - whole[:, classes].sum() / max(whole.sum(), 1)
    return Measured((score,), len(labelled), float(left_out))


def _pixels_of(
    pictures: Pictures, truth: Truth, items: list[int], classes: list[int], seed: int
) -> np.ndarray:
    """(T, C) pixels of some items, of classes that count."""
    rng = np.random.default_rng(seed)
    sampled = np.sort(rng.permutation(items)[:MAX_SAMPLED]).tolist()
    most, parts = MAX_PIXELS // max(len(sampled), 1), []
    for n, raster in _rasters(pictures, truth, sampled):
        picture = pictures(n)[0]
        parts.append(rng.permutation(picture[:, np.isin(raster, classes)].T)[:most])
    sample = np.concatenate(parts) if parts else np.zeros((0, 1))
    if not len(sample):
        named = ", ".join(map(str, classes)) or "none"
        raise AmodalError(
            f"no pixel of {truth.name!r} has a class that the map can name ({named}); its numbers "
            f"are {', '.join(map(str, truth.numbers))}. Write the number before a query: 1=a cat"
        )
    return sample


def _rasters(
    pictures: Pictures, truth: Truth, items: list[int]
) -> Iterator[tuple[int, np.ndarray]]:
    for n in items:
        raster = truth.raster(n, *pictures(n)[0].shape[1:])
        if raster is not None and (raster >= 0).any():
            yield n, raster


def _table(guess_HW: np.ndarray, truth_HW: np.ndarray, layers: int, classes: int) -> np.ndarray:
    """(layers, classes): how many pixels have both; those without a layer are the last one's."""
    known = truth_HW >= 0
    pair = guess_HW[known] * classes + truth_HW[known]
    return np.bincount(pair, minlength=layers * classes).reshape(layers, classes)


def measure_change(
    laid: Mapping[str, Laid],
    pictures: Pictures,
    truth: Truth,
    items: list[int],
    *,
    threshold: Mapping[str, float | None],
    top: Mapping[str, float],
) -> Measured:
    """F1 and intersection over union of marked change, and metrics of its scores.

    Beside the map stand two differences of pixels, each with a threshold of Otsu's: of pictures as
    they are, and of pictures of which every channel was brought to one mean and deviation.

    Args:
        laid: Column -> its layer, the map first.
        pictures: Before and after, of items.
        truth: Above 0 is changed.
        items: Which have a map.
        threshold: Column -> above which a pixel is changed.
        top: Column -> the largest score.
    """
    labelled = [n for n, _ in _rasters(pictures, truth, items)]
    scale = _scale(pictures, labelled)
    counts: dict[str, list[np.ndarray]] = {
        name: [] for name in (*laid, "pixels", "pixels, equalised")
    }
    tops = {name: LARGEST for name in counts} | dict(top)
    for n, raster in _rasters(pictures, truth, labelled):
        before, after = pictures(n)
        scores = {name: one(n)[0] for name, one in laid.items()}
        scores["pixels"] = _difference(before, after, scale)
        scores["pixels, equalised"] = _difference(_equalised(before), _equalised(after), 1.0)
        known = raster >= 0
        for score in scores.values():
            known &= np.isfinite(score)
        changed = (raster > 0)[known].astype(int)
        for name, score in scores.items():
            counts[name].append(binned(score[known], changed, tops[name]))
    columns = {}
    for name, count in counts.items():
        stacked = np.stack(count)
        edge = np.linspace(0, tops[name], BINS + 1)
        value = threshold.get(name)
        if value is None:
            value = otsu(stacked.sum((0, 1)), edge)[0]
        first = int(np.clip(round(value / max(tops[name], 1e-12) * BINS), 0, BINS))
        columns[name] = change_scores(stacked, first)
    whole = np.stack(counts["pixels"]).sum((0, 2))
    chance = chance_of_change(float(whole[1] / max(whole.sum(), 1)))
    scores_ = tuple(
        assembled(metric, {name: column[metric] for name, column in columns.items()}, value)
        for metric, value in chance.items()
    )
    return Measured(scores_, len(labelled))


def _scale(pictures: Pictures, items: list[int]) -> np.ndarray:
    """(C, 1, 1) standard deviation of pixels."""
    some = items[:: max(1, len(items) // MAX_SAMPLED)]
    flat = np.concatenate([x.reshape(len(x), -1) for n in some for x in pictures(n)], 1)
    out: np.ndarray = flat.astype(float).std(1)[:, None, None] + 1e-9
    return out


def _difference(
    before_CHW: np.ndarray, after_CHW: np.ndarray, scale: np.ndarray | float
) -> np.ndarray:
    difference = (after_CHW.astype(float) - before_CHW) / scale
    return np.asarray(np.sqrt(np.square(difference).mean(0)))


def _equalised(picture_CHW: np.ndarray) -> np.ndarray:
    """The picture with mean 0 and deviation 1 of each channel, so that its light does not count."""
    x = picture_CHW.astype(float)
    return np.asarray((x - x.mean((1, 2), keepdims=True)) / (x.std((1, 2), keepdims=True) + 1e-9))
