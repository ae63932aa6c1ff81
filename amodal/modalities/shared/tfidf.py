"""Tf-idf of texts: their simple features, see `simple`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.modalities.shared.base import NoSimpleFeatures, Raw

MAX_WORDS, MAX_NGRAMS, MAX_COMPONENTS, MAX_DECOMPOSED = 20_000, 20_000, 256, 5000


def tfidf(train: Sequence[Raw], read: Callable[[Raw], str]) -> TfIdf:
    """Word and character tf-idf, reduced to at most 256 dimensions by a truncated SVD.

    Args:
        train: Training values, for the vocabulary.
        read: A raw value -> its text.

    Raises:
        NoSimpleFeatures: No text has a word or a character.
    """
    from scipy.sparse import hstack
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [read(raw) for raw in train]
    vectorizers, parts = [], []
    for options in (
        {"token_pattern": r"(?u)\w+", "max_features": MAX_WORDS},
        {"analyzer": "char_wb", "ngram_range": (2, 4), "max_features": MAX_NGRAMS},
    ):
        one = TfidfVectorizer(sublinear_tf=True, **options)
        try:
            parts.append(one.fit_transform(texts))
        except ValueError:  # no word in any of them
            continue
        vectorizers.append(one)
    if not vectorizers:
        raise NoSimpleFeatures("the training texts have neither words nor characters")
    matrix, svd = hstack(parts).tocsr(), None
    if matrix.shape[1] > MAX_COMPONENTS:
        rows = np.linspace(0, len(texts) - 1, min(len(texts), MAX_DECOMPOSED)).round().astype(int)
        svd = TruncatedSVD(min(MAX_COMPONENTS, len(rows)), n_iter=4, random_state=0)
        svd.fit(matrix[rows])
    return TfIdf(read, vectorizers, svd)


@dataclass(frozen=True)
class TfIdf:
    """Raw values -> (n, F) tf-idf of their words and characters.

    Args:
        read: A raw value -> its text.
        vectorizers: Fitted `TfidfVectorizer`s.
        svd: The `TruncatedSVD` after them, None where their columns are few.
    """

    read: Callable[[Raw], str]
    vectorizers: Sequence[Any]
    svd: Any

    @property
    def state(self) -> dict[str, Any]:
        """See `FittedFeatures`."""
        return {"vectorizers": list(self.vectorizers), "svd": self.svd}

    def __call__(self, raws: Sequence[Raw]) -> npt.NDArray[np.float32]:
        """(n, F) float32, finite."""
        from scipy.sparse import hstack

        if not len(raws):
            words = sum(len(one.vocabulary_) for one in self.vectorizers)
            width = self.svd.n_components if self.svd else words
            return np.zeros((0, width), dtype=np.float32)
        texts = [self.read(raw) for raw in raws]
        sparse = hstack([one.transform(texts) for one in self.vectorizers]).tocsr()
        dense = self.svd.transform(sparse) if self.svd else sparse.toarray()
        features: npt.NDArray[np.float32] = np.nan_to_num(dense).astype(np.float32)
        return features
