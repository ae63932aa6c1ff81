"""Many cheap keep-or-drop rules for records, weighed against each other without a label: what to
keep of a noisy pool. Huang, Shin, Tay, Adila and Sala, ICCV 2023 workshop, arXiv:2401.12225; the
label model is data programming (Ratner et al. 2016, arXiv:1605.07723), fitted by triplets of rules
(Fu et al., FlyingSquid, ICML 2020, arXiv:2002.11955). Row 154 of the catalogue.

Given what a record is worth (y = 1 or -1) the rules are taken to be independent, so that of any
three the agreement of pairs tells how much each knows: cov(i, j) = b_i b_j var(y), and b_i^2 var(y)
= cov(i, j) cov(i, k) / cov(j, k). With `symmetric`, as in the Ising model of the paper, a rule is
as often right about good records as about bad ones, and E[v_i v_j] = a_i a_j with a_i = E[v_i y].

Rules over what a detector found are in `detected`; the detector is the caller's (the paper's is
Grounding DINO, prompted with the caption). What its authors' other detector rules were in detail is
not published.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amodal.core import AmodalError

SURE = 1e-3
"""Least chance of either answer of a rule: none is taken to be infallible."""


@dataclass(frozen=True)
class Ensemble:
    """What the rules say together. names: of the M rules; right: (M, 2), how often each that votes
    is right about bad and about good records; good: share of good records; posterior: (N,)
    probability of being good; kept: (N,) bool."""

    names: tuple[str, ...]
    right: np.ndarray
    good: float
    posterior: np.ndarray
    kept: np.ndarray

    @property
    def accuracy(self) -> dict[str, float]:
        """rule -> mean of how often it is right about bad and about good records."""
        return dict(zip(self.names, self.right.mean(1).tolist()))


def filter_ensembles(
    votes: Mapping[str, np.ndarray],
    *,
    good: float = 0.5,
    keep: float = 0.0,
    symmetric: bool = False,
) -> Ensemble:
    """votes: rule -> (N,) of 1 (keep), -1 (drop) or 0 (abstains), at least three rules.

    good: share of records that are worth keeping, 0 to tell it from the votes (by their third
    moments, or with `symmetric` by their means); keep: share of records to keep, those of the
    highest posterior (0: all above 0.5); symmetric: see above. A rule that the others together
    contradict gets a negative weight. Raises AmodalError for fewer rules, unequal lengths, other
    numbers, and if no three rules say anything about each other.
    """
    names, votes_NM = _checked(votes)
    if not 0 <= good < 1 or not 0 <= keep <= 1:
        raise AmodalError(
            f"good must be at least 0 and below 1, keep from 0 to 1, not {good} and {keep}"
        )
    voted = votes_NM != 0
    together = voted.astype(float).T @ voted
    product = votes_NM.T @ votes_NM / np.maximum(together, 1)
    mean = votes_NM.sum(0) / np.maximum(voted.sum(0), 1)
    both = (votes_NM.T @ voted) / np.maximum(together, 1)  # [i, j]: mean of rule i where both vote
    moments, told = product, together > 0
    if not symmetric:
        # where one of two rules always says the same, their covariance is 0 of necessity and no
        # sign of independence
        varies = 1 - both**2 > 1e-9
        moments, told = product - both * both.T, told & varies & varies.T
    root = triplets(moments, told)
    if not good:
        good = _share(mean @ root / (root @ root)) if symmetric else _balance(votes_NM, mean, root)
    tilt = 2 * good - 1
    slope = root if symmetric else root / np.sqrt(1 - tilt**2)
    level = np.zeros_like(mean) if symmetric else mean - slope * tilt
    right = np.stack([(1 - level + slope) / 2, (1 + level + slope) / 2], 1).clip(SURE, 1 - SURE)
    bad, fine = right.T
    odds = np.log(good / (1 - good)) + (
        (votes_NM > 0) @ np.log(fine / (1 - bad)) + (votes_NM < 0) @ np.log((1 - fine) / bad)
    )
    posterior = 1 / (1 + np.exp(-odds.clip(-700, 700)))
    kept = odds > 0
    if keep:
        kept = np.zeros(len(odds), dtype=bool)
        kept[np.argsort(-odds, kind="stable")[: round(keep * len(odds))]] = True
    return Ensemble(names, right, good, posterior, kept)


def triplets(moments_MM: np.ndarray, told_MM: np.ndarray | None = None) -> np.ndarray:
    """(M,): r with r_i r_j = moments_ij for i != j, each the median over all pairs of other rules
    of sqrt(|m_ij m_ik / m_jk|).

    Signs: rules agree with the others on the whole, unless their moments with them sum to less than
    0. told_MM: bool, which moments say anything; a rule without two others to be told by is taken
    to know nothing (0). Raises AmodalError if that is true of all.
    """
    count = len(moments_MM)
    apart = ~np.eye(count, dtype=bool)
    told = (apart if told_MM is None else told_MM & apart) & (np.abs(moments_MM) > 1e-12)
    size, some = np.zeros(count), False
    for i in range(count):
        found = [
            abs(moments_MM[i, j] * moments_MM[i, k] / moments_MM[j, k])
            for j, k in itertools.combinations(np.flatnonzero(told[i]), 2)
            if told[j, k]
        ]
        some |= bool(found)
        size[i] = np.median(found) ** 0.5 if found else 0.0
    if not some:
        raise AmodalError(
            "nothing tells how good any of the rules is: it takes three that vary and agree, or disagree, more than by chance"
        )
    return np.where(np.where(told, moments_MM, 0.0).sum(1) < 0, -size, size)


def _balance(votes_NM: np.ndarray, mean_M: np.ndarray, root_M: np.ndarray) -> float:
    """Share of good records from the skewness of y: the third central moment of three rules is b_i
    b_j b_k E[(y - E y)^3], and that of y over its deviation cubed is -2 E[y] / sqrt(1 - E[y]^2)
    (Jaffe, Nadler and Kluger 2015, arXiv:1407.7644, section 4)."""
    off, voted = votes_NM - mean_M, votes_NM != 0
    third, scale = 0.0, 0.0
    for i, j, k in itertools.combinations(range(len(mean_M)), 3):
        all_three = voted[:, i] & voted[:, j] & voted[:, k]
        size = root_M[i] * root_M[j] * root_M[k]
        if all_three.any():  # least squares over all triplets
            third += size * float(
                (off[all_three, i] * off[all_three, j] * off[all_three, k]).mean()
            )
            scale += size**2
    skew = third / scale if scale else 0.0
    return _share(-skew / np.sqrt(4 + skew**2))


def _share(tilt: float) -> float:
    """E[y] as a share of good records."""
    return float(np.clip((1 + tilt) / 2, SURE, 1 - SURE))


def majority(votes: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,): the mean vote of the rules that vote, 0 where none does; what an ensemble is to be
    better than."""
    _, votes_NM = _checked(votes)
    return votes_NM.sum(1) / np.maximum((votes_NM != 0).sum(1), 1)


def vote(
    score_N: Sequence[float], *, least: float | None = None, share: float | None = None
) -> np.ndarray:
    """(N,) int64: 1 for scores of at least `least`, or for the `share` of records that score
    highest, -1 for the rest; 0 for NaN."""
    score = np.asarray(score_N, dtype=np.float64)
    if (least is None) == (share is None):
        raise AmodalError(
            "a vote needs either `least`, a score, or `share`, of the records to keep"
        )
    there = ~np.isnan(score)
    if least is None:
        least = np.inf if not there.any() else np.quantile(score[there], 1 - share)
    return np.where(there, np.where(score >= least, 1, -1), 0)


def detected(
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    phrases: Sequence[int],
    *,
    confident: float = 0.35,
) -> dict[str, np.ndarray]:
    """Scores (N,) for `vote` from what a detector that was asked for a caption's phrases found in
    each of N pictures.

    boxes: (n, 4) left, top, right, bottom as shares of the picture; scores: (n,) of each box;
    phrases: how many the caption has. "found" is the best score, "grounded" confident boxes per
    phrase (at most 1), "area" what they cover on average; NaN, which abstains, where there was no
    phrase to look for or, for "area", no confident box.
    """
    found = {"found": [], "grounded": [], "area": []}
    for box, score, asked in zip(boxes, scores, phrases, strict=True):
        score, box = (
            np.asarray(score, dtype=np.float64),
            np.asarray(box, dtype=np.float64).reshape(-1, 4),
        )
        sure = score >= confident
        found["found"].append((score.max() if len(score) else 0.0) if asked else np.nan)
        found["grounded"].append(min(sure.sum() / asked, 1.0) if asked else np.nan)
        sides = box[sure, 2:] - box[sure, :2]
        found["area"].append(sides.prod(1).mean() if asked and sure.any() else np.nan)
    return {name: np.array(values) for name, values in found.items()}


def _checked(votes: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], np.ndarray]:
    each = {name: np.asarray(v) for name, v in votes.items()}
    lengths = {name: len(v) for name, v in each.items()}
    if len(each) < 3 or len(set(lengths.values())) > 1:
        raise AmodalError(
            f"an ensemble needs three rules or more, with a vote on every record; got {lengths}"
        )
    for name, v in each.items():
        if not np.isin(v, (-1, 0, 1)).all():
            raise AmodalError(
                f"votes are 1 (keep), -1 (drop) or 0 (abstains), not {np.unique(v)[:6]} as in {name!r}; `vote` makes some"
            )
    return tuple(each), np.stack(list(each.values()), 1).astype(np.float64)
