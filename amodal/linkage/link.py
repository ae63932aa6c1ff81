"""`amodal link`: each record, and the one of another set or the same that shows the same thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.data.splits import PARTS
from amodal.evaluate.held_out import trained_on
from amodal.evaluate.labels import is_number
from amodal.evaluate.linkage import adjusted_rand, best_threshold
from amodal.linkage.nearest import Nearest, check_linkage, groups_of, nearest_of
from amodal.linkage.result import Links
from amodal.linkage.sides import Side, side_of, simple_nearest

if TYPE_CHECKING:
    from amodal.model import Model

MIN_LABELLED = 10
"""Labelled records of the validation part, below which no threshold is chosen on them."""
CANDIDATES = 101
"""Thresholds that are tried."""


def link(
    model: Model,
    data: Any,
    *,
    to: Any = None,
    field: str | None = None,
    to_field: str | None = None,
    weights: Mapping[str, float] | None = None,
    threshold: float | None = None,
    many_to_one: bool = False,
    linkage: str = "single",
    label: str | None = None,
    part: str | None = None,
    progress: bool = True,
) -> Links:
    """Link records by cosine, in the space where fields are compared.

    Between two sets a record is linked to its nearest of the other set, if it is that one's nearest
    too, or to an exemplar that many may be linked to (`many_to_one`); a similarity below the
    threshold is no match (Arora et al. 2023, arXiv:2304.03464). Within one set records are in one
    group by agglomerative clustering down to the threshold; without a threshold mutual nearest
    neighbours are.

    Args:
        model: The run.
        data: Records to link; whatever `amodal.open` takes. They may lack fields of the run.
        to: Records to link them to; None for each other.
        field: Whose vectors are compared, all together unless set; a run of `clippings` weighs them
            as it was trained.
        to_field: Of the records to link to, if it is another one.
        weights: Field -> its weight among all together.
        threshold: Least cosine of a link. With a label it is chosen on the validation part.
        many_to_one: Between two sets: links need not be mutual.
        linkage: Within one set: single, average or complete.
        label: Equal for records of one thing. Links are measured by it, and do not depend on it
            but by the threshold.
        part: Of the split of `data`, that is linked; all records unless set.
        progress: Show bars.

    Raises:
        AmodalError: For options that do not fit the run or the data.
    """
    _check(field, to, to_field, weights, threshold, many_to_one)
    settings: dict[str, Any] = {"weights": weights or {}, "progress": progress}
    one = side_of(model, data, field=field, part=part, **settings)
    check_linkage(linkage, len(one.rows))
    other = None
    if to is not None:
        other = side_of(model, to, field=to_field or field, part=None, **settings)
        if (to_field or field) == field and other.dataset.fingerprint == one.dataset.fingerprint:
            raise AmodalError(
                f"--to is the data itself, in which each record of {one.dataset.name!r} is its own "
                "nearest; leave --to out to link records to each other, or name two fields of "
                "them: --field, --to-field"
            )
    keys = one if other is None else other
    nearest = nearest_of(one.unit, None if other is None else other.unit)
    truth = None if label is None else (_labels(one, label), _labels(keys, label))
    tuned = None
    if truth is not None and threshold is None:
        valid = (one.parts == PARTS.index("valid")) & _known(truth[0])
        if valid.sum() < MIN_LABELLED:
            raise AmodalError(
                f"{int(valid.sum())} records of the validation part have the label {label!r}, and "
                f"a threshold is chosen on {MIN_LABELLED} or more; say it: --threshold"
            )
        score = _goal(one, other, nearest, truth, valid, linkage, many_to_one)
        tuned = threshold = best_threshold(score, _candidates(nearest.score))
    linked = _linked(nearest, threshold, many_to_one or (other is None and threshold is not None))
    measured, seen = _measured(model, one, truth, tuned is not None)
    group = None
    if other is None:
        pairs = nearest.index if threshold is None else None
        group = _groups(one, threshold, linkage, linked, pairs)
    return Links(
        one=one,
        other=other,
        nearest=nearest,
        linked=linked,
        group=group,
        threshold=threshold,
        tuned=tuned is not None,
        many_to_one=many_to_one,
        linkage=linkage,
        simple=simple_nearest(one, other),
        truth=truth,
        label=label or "",
        measured=measured,
        trained_on=seen,
    )


def _check(
    field: str | None,
    to: Any,
    to_field: str | None,
    weights: Mapping[str, float] | None,
    threshold: float | None,
    many_to_one: bool,
) -> None:
    if to is None and (to_field or many_to_one):
        name = "--to-field" if to_field else "--many-to-one"
        raise AmodalError(f"{name} is of two sets: say which other one, --to DATA")
    if weights and (field or to_field):
        raise AmodalError("weights are of all fields together, and one field is named")
    if weights and (min(weights.values()) < 0 or not sum(weights.values())):
        raise AmodalError(f"weights are at least 0, and not all of them 0; got {dict(weights)}")
    if to_field and not field:
        raise AmodalError(
            "--to-field names a field of the other set; say that of this one: --field"
        )
    if threshold is not None and not -1 <= threshold <= 1:
        raise AmodalError(f"the threshold is a cosine, from -1 to 1, not {threshold}")


def _labels(side: Side, label: str) -> np.ndarray:
    if label not in side.dataset.labels:
        raise unknown("label", label, side.dataset.labels, f"It is of {side.dataset.name!r}.")
    if is_number(side.dataset.label(label)):
        raise AmodalError(f"the label {label!r} is a number, and links are compared with names")
    return side.label(label)


def _measured(
    model: Model, one: Side, truth: tuple[np.ndarray, np.ndarray] | None, tuned: bool
) -> tuple[np.ndarray | None, bool]:
    """Records that links are measured on: no threshold was chosen on them, and the run was not
    trained on them if there are such.

    Returns:
        (N,) bool, None without labels; whether the run was trained on all of them.
    """
    if truth is None:
        return None, False
    free = one.parts != PARTS.index("valid") if tuned else np.ones(len(one.rows), dtype=bool)
    unseen = free & ~trained_on(model, one.dataset)[one.rows]
    known = _known(truth[0])
    if (unseen & known).any() or not (free & known).any():
        return unseen, False
    return free, True


def _known(values: np.ndarray) -> np.ndarray:
    return np.array([v is not None for v in values], dtype=bool)


def _candidates(score: np.ndarray) -> list[float]:
    """Cosines between which the number of links changes."""
    have = score[~np.isnan(score)]
    if not len(have):
        raise AmodalError("a single record has no other to be linked to")
    return sorted({float(q) for q in np.quantile(have, np.linspace(0, 1, CANDIDATES))})


def _goal(
    one: Side,
    other: Side | None,
    nearest: Nearest,
    truth: tuple[np.ndarray, np.ndarray],
    valid: np.ndarray,
    linkage: str,
    many_to_one: bool,
) -> Callable[[float], float]:
    """What a threshold is chosen by on the validation part: the adjusted Rand index of groups, or
    the share of records that are rightly linked, or rightly to none."""
    if other is None:
        unit = one.unit[np.flatnonzero(valid)]
        return lambda t: adjusted_rand(truth[0][valid].astype(str), groups_of(unit, t, linkage))
    sure = valid & judged(nearest, truth)
    sure = sure if sure.any() else valid
    return lambda t: float(correct(nearest, _linked(nearest, t, many_to_one), truth)[sure].mean())


def correct(
    nearest: Nearest, linked: np.ndarray, truth: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """(N,) bool: records that are linked to one with their label, or to none where none has it."""
    matches = set(truth[1].tolist()) - {None}
    right = np.array([t in matches for t in truth[0]], dtype=bool)
    same = truth[1][nearest.index] == truth[0]
    return np.where(linked, same & right, ~right)


def judged(near: Nearest, truth: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(N,) bool: records whose label is known, and that of the nearest."""
    sure: np.ndarray = _known(truth[0]) & _known(truth[1][near.index]) & (near.index >= 0)
    return sure


def _linked(nearest: Nearest, threshold: float | None, many: bool) -> np.ndarray:
    linked = nearest.index >= 0
    if not many:
        linked = linked & nearest.mutual
    if threshold is not None:
        with np.errstate(invalid="ignore"):
            linked = linked & (nearest.score >= threshold)
    return linked


def _groups(
    one: Side,
    threshold: float | None,
    linkage: str,
    linked: np.ndarray,
    pairs: np.ndarray | None,
) -> np.ndarray:
    """(N,) int64 group of each record."""
    if threshold is not None:
        return groups_of(one.unit, threshold, linkage)
    assert pairs is not None
    first = np.arange(len(linked))
    first[linked] = np.minimum(first[linked], pairs[linked])  # mutual ones are pairs
    return np.unique(first, return_inverse=True)[1]
