"""How well a score puts what is wanted before what is not: the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate._similarity import _ranks


def auroc(score_N: Sequence[float], wanted_N: Sequence[bool]) -> float:
    """Chance that one of the wanted scores higher than one of the others, ties counted half (Mann and Whitney). Raises AmodalError
    unless there are both."""
    score, wanted = np.asarray(score_N, dtype=np.float64), np.asarray(wanted_N, dtype=bool)
    yes, no = wanted.sum(), (~wanted).sum()
    if not yes or not no or len(score) != len(wanted):
        raise AmodalError(
            f"AUROC needs a score for each of some wanted and some other records, got {yes} and {no} for {len(score)}"
        )
    return float((_ranks(score)[wanted].sum() - yes * (yes + 1) / 2) / (yes * no))
