"""An ensemble of cheap filters for records, weighted without labels: a selection from a noisy pool.

Huang, Shin, Tay, Adila and Sala, ICCV 2023 workshop, arXiv:2401.12225. The label model is data
programming (Ratner et al. 2016, arXiv:1605.07723), fitted by triplets of rules (Fu et al.,
FlyingSquid, ICML 2020, arXiv:2002.11955). Row 154 of the catalogue.

Rules are taken to be independent given the quality of a record (y = 1 or -1). So the agreement of
pairs among any three rules determines the accuracy of each: cov(i, j) = b_i b_j var(y), and
b_i^2 var(y) = cov(i, j) cov(i, k) / cov(j, k). With `symmetric`, as in the Ising model of the
paper, a rule is as accurate on good records as on bad ones, and E[v_i v_j] = a_i a_j with
a_i = E[v_i y].

Rules over the output of a detector are in `detection_scores`; the detector is the caller's (the
paper's is Grounding DINO, prompted with the caption). The authors' other detector rules are not
published in detail. `amodal curate --by ensemble --rules A,B,C` runs rules of any kind over data,
weighs them, and writes the list of records to train on.

Differs:

- detector: none comes with the library, so a rule over its output is a function of one's own
  (`--rules FILE.py:NAME,…`), which turns boxes into scores by `detection_scores`.
- rules: clip_score, pair_rules (length of texts, size of pictures), in_domain and duplicates are
  at hand; DataComp's filters by language and by clusters near ImageNet are not. in_domain with a
  run takes the nearest of example records in place of clusters.
- label model: solved by triplets of rules in closed form, where the authors fit Snorkel's by
  gradients, and with an accuracy of its own on good and on bad records; `symmetric=True` (Python)
  is the paper's model. Of equal votes the verb takes those with the higher mean rank.
- share of good records: a half, as nothing is known of it; the authors do not say theirs.
- DataComp's pool, its recipe of CLIP and its 38 tasks are not bundled.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amodal.core import AmodalError

EPS = 1e-3
"""Least probability of a wrong vote: no rule is taken to be infallible."""


@dataclass(frozen=True)
class Ensemble:
    """The fitted label model.

    Attributes:
        names: of the M rules.
        class_accuracy: (M, 2), accuracy of each rule's votes on bad and on good records.
        good: share of good records.
        posterior: (N,) probability of being good.
        selected: (N,) bool.
    """

    names: tuple[str, ...]
    class_accuracy: np.ndarray
    good: float
    posterior: np.ndarray
    selected: np.ndarray

    @property
    def accuracy(self) -> dict[str, float]:
        """Rule -> mean of its accuracies on bad and on good records."""
        return dict(zip(self.names, self.class_accuracy.mean(1).tolist()))


def filter_ensembles(
    votes: Mapping[str, np.ndarray],
    *,
    good: float = 0.5,
    keep: float = 0.0,
    symmetric: bool = False,
) -> Ensemble:
    """Fit the label model to votes, and select records.

    A rule that the others together contradict gets a negative weight.

    Args:
        votes: rule -> (N,) of 1 (keep), -1 (drop) or 0 (abstain), at least three rules.
        good: share of good records; 0 to estimate it from the votes (by their third moments, or
            with `symmetric` by their means).
        keep: share of records to select, those of the highest posterior; 0 for all above 0.5.
        symmetric: see the top of this file.

    Raises:
        AmodalError: fewer than three rules, unequal lengths, other votes, a share out of range, or
            no three rules that depend on each other.
    """
    names, votes_NM = _checked(votes)
    if not 0 <= good < 1 or not 0 <= keep <= 1:
        raise AmodalError(
            f"good must be at least 0 and below 1, keep from 0 to 1, not {good} and {keep}"
        )
    voted = votes_NM != 0
    joint_votes = voted.astype(float).T @ voted
    product = votes_NM.T @ votes_NM / np.maximum(joint_votes, 1)
    mean = votes_NM.sum(0) / np.maximum(voted.sum(0), 1)
    both = (votes_NM.T @ voted) / np.maximum(
        joint_votes, 1
    )  # [i, j]: mean of rule i where both vote
    moments, informative = product, joint_votes > 0
    if not symmetric:
        # where one of two rules always says the same, their covariance is 0 of necessity and no
        # sign of independence
        varies = 1 - both**2 > 1e-9
        moments, informative = product - both * both.T, informative & varies & varies.T
    root = triplets(moments, informative)
    if not good:
        good = _share(mean @ root / (root @ root)) if symmetric else _balance(votes_NM, mean, root)
    tilt = 2 * good - 1
    slope = root if symmetric else root / np.sqrt(1 - tilt**2)
    level = np.zeros_like(mean) if symmetric else mean - slope * tilt
    class_accuracy = np.stack([(1 - level + slope) / 2, (1 + level + slope) / 2], 1).clip(
        EPS, 1 - EPS
    )
    bad, fine = class_accuracy.T
    odds = np.log(good / (1 - good)) + (
        (votes_NM > 0) @ np.log(fine / (1 - bad)) + (votes_NM < 0) @ np.log((1 - fine) / bad)
    )
    posterior = 1 / (1 + np.exp(-odds.clip(-700, 700)))
    selected = odds > 0
    if keep:
        selected = np.zeros(len(odds), dtype=bool)
        selected[np.argsort(-odds, kind="stable")[: round(keep * len(odds))]] = True
    return Ensemble(names, class_accuracy, good, posterior, selected)


def triplets(moments_MM: np.ndarray, informative_MM: np.ndarray | None = None) -> np.ndarray:
    """Factors r with r_i r_j = moments_ij for i != j.

        |r_i| = sqrt(median_{j, k} |m_ij m_ik / m_jk|)

    Signs: rules agree with the others on the whole, unless their moments with them sum to less
    than 0.

    Args:
        moments_MM: moments of pairs of rules.
        informative_MM: bool, which moments count; None for all. A rule without two informative
            others gets 0.

    Returns:
        (M,)

    Raises:
        AmodalError: no rule has two informative others.
    """
    count = len(moments_MM)
    off_diagonal = ~np.eye(count, dtype=bool)
    informative = (off_diagonal if informative_MM is None else informative_MM & off_diagonal) & (
        np.abs(moments_MM) > 1e-12
    )
    size, any_informative = np.zeros(count), False
    for i in range(count):
        squares = [
            abs(moments_MM[i, j] * moments_MM[i, k] / moments_MM[j, k])
            for j, k in itertools.combinations(np.flatnonzero(informative[i]), 2)
            if informative[j, k]
        ]
        any_informative |= bool(squares)
        size[i] = np.median(squares) ** 0.5 if squares else 0.0
    if not any_informative:
        raise AmodalError(
            "the accuracy of no rule can be estimated: it takes three that vary and agree, or "
            "disagree, more than by chance"
        )
    return np.where(np.where(informative, moments_MM, 0.0).sum(1) < 0, -size, size)


def _balance(votes_NM: np.ndarray, mean_M: np.ndarray, root_M: np.ndarray) -> float:
    """Share of good records from the skewness of y.

    The third central moment of three rules is b_i b_j b_k E[(y - E y)^3]. That of y over its
    deviation cubed is -2 E[y] / sqrt(1 - E[y]^2) (Jaffe, Nadler and Kluger 2015, arXiv:1407.7644,
    section 4).
    """
    centred, voted = votes_NM - mean_M, votes_NM != 0
    third, scale = 0.0, 0.0
    for i, j, k in itertools.combinations(range(len(mean_M)), 3):
        all_three = voted[:, i] & voted[:, j] & voted[:, k]
        size = root_M[i] * root_M[j] * root_M[k]
        if all_three.any():  # least squares over all triplets
            third += size * float(
                (centred[all_three, i] * centred[all_three, j] * centred[all_three, k]).mean()
            )
            scale += size**2
    skew = third / scale if scale else 0.0
    return _share(-skew / np.sqrt(4 + skew**2))


def _share(tilt: float) -> float:
    """E[y] as a share of good records."""
    return float(np.clip((1 + tilt) / 2, EPS, 1 - EPS))


def majority(votes: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) mean vote of the rules that vote, 0 where none does: the baseline of an ensemble.

    Args:
        votes: as in `filter_ensembles`.
    """
    _, votes_NM = _checked(votes)
    mean: np.ndarray = votes_NM.sum(1) / np.maximum((votes_NM != 0).sum(1), 1)
    return mean


def vote(
    score_N: Sequence[float], *, least: float | None = None, share: float | None = None
) -> np.ndarray:
    """Turn scores into votes: 1 for high ones, -1 for the rest, 0 for NaN.

    Args:
        score_N: scores.
        least: votes are 1 from this score on.
        share: votes are 1 for this share of records, those with the highest scores.

    Returns:
        (N,) int64

    Raises:
        AmodalError: both or none of `least` and `share`.
    """
    score = np.asarray(score_N, dtype=np.float64)
    present = ~np.isnan(score)
    if (least is None) == (share is None):
        raise AmodalError(
            "a vote needs either `least`, a score, or `share`, of the records to keep"
        )
    if share is not None:
        least = float(np.quantile(score[present], 1 - share)) if present.any() else np.inf
    votes: np.ndarray = np.where(present, np.where(score >= np.float64(least or 0.0), 1, -1), 0)
    return votes


def detection_scores(
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    phrases: Sequence[int],
    *,
    confident: float = 0.35,
) -> dict[str, np.ndarray]:
    """Scores for `vote` from the output of a detector that was prompted with a caption's phrases.

    Args:
        boxes: of each of N images (n, 4): left, top, right, bottom as shares of the image.
        scores: (n,) of its boxes.
        phrases: number of phrases of its caption.
        confident: least score of a confident box.

    Returns:
        "found": the best score; "grounded": confident boxes a phrase, at most 1; "area": mean area
        of confident boxes. Each (N,), NaN (abstain) where there is no phrase or, for "area", no
        confident box.
    """
    result: dict[str, list[float]] = {"found": [], "grounded": [], "area": []}
    for box, score, phrase_count in zip(boxes, scores, phrases, strict=True):
        score = np.asarray(score, dtype=np.float64)
        box = np.asarray(box, dtype=np.float64).reshape(-1, 4)
        is_confident = score >= confident
        result["found"].append((score.max() if len(score) else 0.0) if phrase_count else np.nan)
        result["grounded"].append(
            min(is_confident.sum() / phrase_count, 1.0) if phrase_count else np.nan
        )
        sides = box[is_confident, 2:] - box[is_confident, :2]
        result["area"].append(
            sides.prod(1).mean() if phrase_count and is_confident.any() else np.nan
        )
    return {name: np.array(values) for name, values in result.items()}


def _checked(votes: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], np.ndarray]:
    arrays = {name: np.asarray(v) for name, v in votes.items()}
    lengths = {name: len(v) for name, v in arrays.items()}
    if len(arrays) < 3 or len(set(lengths.values())) > 1:
        raise AmodalError(
            f"an ensemble needs three rules or more, with a vote on every record; got {lengths}"
        )
    for name, v in arrays.items():
        if not np.isin(v, (-1, 0, 1)).all():
            raise AmodalError(
                f"votes are 1 (keep), -1 (drop) or 0 (abstains), not {np.unique(v)[:6]} as in "
                f"{name!r}; `vote` makes some"
            )
    return tuple(arrays), np.stack(list(arrays.values()), 1).astype(np.float64)
