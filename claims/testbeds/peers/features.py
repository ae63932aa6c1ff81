"""Matrices of raw values for the estimators of other libraries.

    describe = raw_features(train, ("image", "caption"))     # fitted on training records
    x = describe(test)                                       # (n, d), the fields side by side

A field that a record lacks is zeros and a flag; a missing cell of a table is NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse, stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import OneHotEncoder

from amodal.core import unknown
from amodal.modalities import name_of
from testbeds.testbed import Records

Matrix = Any
"""(n, d): an array, or a sparse matrix of scipy."""
Describe = Callable[[Records], Matrix]
Features = Callable[[Records, Sequence[str]], Describe]
"""(training records, fields) -> what makes a matrix of records."""

Column = Sequence[Any]
"""n values of a field, None where missing."""


def raw_features(train: Records, fields: Sequence[str]) -> Describe:
    """The usual description of each field: pixels, tf-idf, k-mers, statistics, cells."""
    return _joined(train, fields, RAW)


def gradient_features(train: Records, fields: Sequence[str]) -> Describe:
    """As `raw_features`, with histograms of gradients (HOG) in the place of pixels."""
    return _joined(train, fields, {**RAW, "image": _hog})


def _joined(
    train: Records, fields: Sequence[str], by_kind: Mapping[str, Callable[..., Any]]
) -> Describe:
    fitted = {}
    for field in fields:
        kind = name_of(train.dataset.fields[field])
        if kind not in by_kind:
            raise unknown("kind of field that peers describe", kind, by_kind)
        fitted[field] = by_kind[kind](train, field)

    def describe(records: Records) -> Matrix:
        blocks = [fitted[field](records) for field in fields]
        for field in fields:
            here = records.dataset.present(field)
            if not here.all():
                blocks.append(here[records.rows, None].astype(np.float32))
        if any(sparse.issparse(block) for block in blocks):
            return sparse.csr_matrix(sparse.hstack(blocks))
        return np.hstack(blocks)

    return describe


VECTORS: dict[tuple[str, str, str], dict[int, np.ndarray]] = {}
"""(fingerprint of the data, field, features) -> record -> its vector, as options do not change it."""


def _by_row(make: Callable[[Any], np.ndarray], decoded: bool = True) -> Callable[..., Describe]:
    """Features that need no fitting: a vector of each value, zeros where there is none."""

    def fit(train: Records, field: str) -> Describe:
        data = train.dataset
        known = VECTORS.setdefault((data.fingerprint, field, make.__name__), {})

        def describe(records: Records) -> np.ndarray:
            new = Records(data, np.array([i for i in records.rows if i not in known], dtype=int))
            values = new.values(field) if decoded else new.raw(field)
            for row, value in zip(new.rows, values):
                if value is not None:
                    known[row] = make(value).astype(np.float32)
            width = len(next(iter(known.values()), ()))
            zeros = np.zeros(width, np.float32)
            return np.stack([known.get(row, zeros) for row in records.rows])

        return describe

    return fit


def _pixels(picture: np.ndarray) -> np.ndarray:
    return picture.reshape(-1) / (255.0 if picture.dtype == np.uint8 else 1.0)


def _gradients(picture: np.ndarray) -> np.ndarray:
    from skimage.feature import hog

    grey = picture.astype(np.float64).mean(-1) if picture.ndim == 3 else picture
    side = 8 if min(grey.shape) >= 48 else 4
    return np.asarray(hog(grey, pixels_per_cell=(side, side), cells_per_block=(2, 2)))


def _statistics(series: np.ndarray) -> np.ndarray:
    """Of each channel: moments, quantiles, changes, and energies of eight bands; correlations."""
    x = np.nan_to_num(series.astype(np.float64))
    x = x if x.ndim == 2 else x[:, None]
    spectrum = np.abs(np.fft.rfft(x - x.mean(0), axis=0)) ** 2
    bands = [np.log1p(band.sum(0)) for band in np.array_split(spectrum[1:], 8)]
    with np.errstate(invalid="ignore", divide="ignore"):
        moments = [x.mean(0), x.std(0), stats.skew(x, axis=0), stats.kurtosis(x, axis=0)]
        between = np.atleast_2d(np.corrcoef(x.T))[np.triu_indices(x.shape[1], 1)]
    quantiles = list(np.quantile(x, (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0), axis=0))
    changes = [np.abs(np.diff(x, axis=0)).mean(0)]
    found = np.concatenate([*moments, *quantiles, *changes, *bands, between])
    return np.asarray(np.nan_to_num(found))


def _sound(wave: np.ndarray) -> np.ndarray:
    """Mean, deviation and eight successive means of 40 log energies of bands (STFT of 25 ms)."""
    from scipy.signal import stft

    x = np.asarray(wave, np.float64).reshape(-1)
    x = x if len(x) >= 800 else np.pad(x, (0, 800 - len(x)))
    _, _, z = stft(x, nperseg=400, noverlap=240)
    edges = np.unique(np.geomspace(2, z.shape[0], 41).astype(int))
    power = np.abs(z) ** 2
    bands = np.stack([power[a:b].sum(0) for a, b in zip(edges, edges[1:])])
    log = np.log(bands + 1e-9)
    slices = [part.mean(1) for part in np.array_split(log, 8, axis=1)]
    return np.concatenate([log.mean(1), log.std(1), *slices, [np.log(len(x))]])


def _blocks(raster: np.ndarray) -> np.ndarray:
    """Mean and deviation of each band of each date, and the means of 4 x 4 blocks; 0 for gaps."""
    bands = raster[:, 1:].reshape(-1, *raster.shape[2:]).astype(np.float64)
    rows = np.array_split(bands, min(4, bands.shape[1]), axis=1)
    parts = [p for row in rows for p in np.array_split(row, min(4, bands.shape[2]), axis=2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a block without a pixel
        means = [np.nanmean(part, (1, 2)) for part in (bands, *parts)]
        return np.asarray(np.nan_to_num(np.concatenate([*means, np.nanstd(bands, (1, 2))])))


def _words(train: Records, field: str) -> Describe:
    """tf-idf of words and of two to four letters within words."""
    return _vectorized(
        field,
        train,
        [
            TfidfVectorizer(sublinear_tf=True, max_features=50_000),
            TfidfVectorizer(
                analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=50_000
            ),
        ],
    )


def _kmers(train: Records, field: str) -> Describe:
    """tf-idf of one to four letters in a row, whatever their case means."""
    return _vectorized(
        field,
        train,
        [
            TfidfVectorizer(
                analyzer="char",
                ngram_range=(1, 4),
                lowercase=False,
                sublinear_tf=True,
                max_features=50_000,
            )
        ],
    )


def _vectorized(field: str, train: Records, vectorizers: Sequence[TfidfVectorizer]) -> Describe:
    texts = [text for text in _texts(train, field) if text]
    fitted = [vectorizer.fit(texts) for vectorizer in vectorizers]

    def describe(records: Records) -> sparse.csr_matrix:
        found = _texts(records, field)
        return sparse.csr_matrix(sparse.hstack([one.transform(found) for one in fitted]))

    return describe


def _texts(records: Records, field: str) -> list[str]:
    return ["" if text is None else str(text) for text in records.raw(field)]


def _cells(train: Records, field: str) -> Describe:
    """Numbers as they are (NaN where missing), names one-hot but for the first."""
    first = next(row for row in train.raw(field) if row is not None)
    if not isinstance(first, dict):
        return _by_row(_numbers, decoded=False)(train, field)
    columns = list(first)
    sample = [row for row in train.raw(field) if row is not None]
    named = [c for c in columns if any(isinstance(row[c], str) for row in sample)]
    numbers = [c for c in columns if c not in named]
    encoder = OneHotEncoder(
        drop="first", handle_unknown="ignore", sparse_output=False
    )  # a name less, as models without a penalty cannot tell them apart
    if named:
        encoder.fit([[str(row[c]) for c in named] for row in sample])

    def describe(records: Records) -> np.ndarray:
        rows = [row or {} for row in records.raw(field)]
        cells = [[np.nan if row.get(c) is None else float(row[c]) for c in numbers] for row in rows]
        blocks = [np.array(cells, np.float32).reshape(len(rows), len(numbers))]
        if named:
            blocks.append(encoder.transform([[str(row.get(c)) for c in named] for row in rows]))
        return np.hstack(blocks)

    return describe


def _numbers(row: Sequence[float]) -> np.ndarray:
    return np.array(row, np.float32)


RAW: Mapping[str, Callable[..., Any]] = {
    "image": _by_row(_pixels),
    "series": _by_row(_statistics),
    "audio": _by_row(_sound),
    "raster": _by_row(_blocks),
    "text": _words,
    "sequence": _kmers,
    "table": _cells,
}
_hog = _by_row(_gradients)
