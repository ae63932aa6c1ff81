"""`amodal curate`: the records that are worth training on, by one rule."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.core.argument_types import check_type, is_word
from amodal.core.references import load_reference
from amodal.core.source_code import source_hash
from amodal.data import Openable
from amodal.data import open as open_data
from amodal.data.splits import PARTS
from amodal.selection.chunks import Chunks, Rows
from amodal.selection.draws import uniform_of
from amodal.selection.groups import correlate, groups_of
from amodal.selection.pool import Pool, Scores, Settings
from amodal.selection.result import Selection, check_folder
from amodal.selection.rules import rule

if TYPE_CHECKING:
    from amodal.model import Model

WITH_THRESHOLD = ("pair_rules", "duplicates", "ensemble")
"""Rules whose scores have a natural threshold."""
UNSCORED = ("keep", "drop")


def curate(
    data: Openable,
    *,
    by: str,
    keep: float | None = None,
    threshold: float | None = None,
    lowest: bool = False,
    unscored: str = "keep",
    part: str = "train",
    model: Model | None = None,
    reference: Model | None = None,
    field: str | None = None,
    fields: Sequence[str] = (),
    like: Any = None,
    over: str = "",
    words: Sequence[str] = (),
    rules: Sequence[str] = (),
    limits: Mapping[str, float] | None = None,
    label: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> Selection:
    """Choose records by a rule. Records of the other parts of the split stay as they are.

    Args:
        data: Whatever `amodal.open` takes.
        by: The rule, see `amodal.selection.rules.rule`.
        keep: The share of the scored records to select, those of the highest scores.
        threshold: Select scores from this on. Without both, the rule's own threshold.
        lowest: Low scores are the good ones.
        unscored: keep or drop records that the rule cannot score.
        part: Of the split, to choose from; "all" for all records.
        model: A run, for rules that score by one.
        reference: A run on clean data, for learnability.
        field, fields, like, over, words, rules, limits: Options of the rules, see
            `amodal.selection.pool.Settings`.
        label: By which to say what was dropped; the one that differs most unless set.
        seed: Of all that is random.
        out: Where `Selection.save` will write. Scores that are done lie there, so that an
            interrupted choice goes on.
        progress: Show bars.

    Raises:
        AmodalError: For options that do not fit the rule or the data, and if no record is selected.
    """
    check_type("by", by, is_word, "the name of a rule")
    _check(by, keep, threshold, unscored)
    dataset = open_data(data)
    if label is not None and label not in dataset.labels:
        raise unknown("label of this data", label, dataset.labels)
    source = _source(data, dataset.path)
    if out is not None:
        check_folder(Path(out), source)
    if part != "all" and part not in PARTS:
        raise unknown("part of a split", part, (*PARTS, "all"))
    rows = dataset.split(part)
    if not len(rows):
        raise AmodalError(f"{dataset.name!r} has no records in its {part} part to choose from")
    held_out = np.setdiff1d(np.arange(len(dataset)), rows)
    settings = Settings(
        field=field,
        fields=tuple(fields),
        like=like,
        over=over,
        words=tuple(words),
        rules=tuple(rules),
        limits=dict(limits or {}),
        reference=reference,
        share=0.5 if keep is None else keep,
        seed=seed,
    )
    plan = {
        "data": dataset.fingerprint,
        "part": part,
        "run": None if model is None else model.fingerprint,
        "reference": None if reference is None else reference.fingerprint,
        "settings": [field, [*fields], _content(like), [*words], over, limits, seed],
        "code": [source_hash(load_reference(name)) for name in (by, *rules) if ":" in name],
    }
    chunks = Chunks(None if out is None else Path(out) / ".scores", plan, progress=progress)
    pool = Pool(
        dataset=dataset, rows=rows, held_out=held_out, chunks=chunks, settings=settings, model=model
    )
    scores = rule(by)(pool)
    keys = [dataset.keys[i] for i in rows.tolist()]
    selected, cut = choose(
        scores, keys, keep=keep, threshold=threshold, lowest=lowest, unscored=unscored, seed=seed
    )
    if not selected.any():
        raise AmodalError(
            f"no record would be left: {by} scores by {scores.meaning}, and the best is "
            f"{_best(scores.score, lowest)}; lower --threshold, or raise --keep"
        )
    return Selection(
        dataset=dataset,
        source=source,
        rows=rows,
        others=held_out,
        selected=selected,
        scores=scores,
        by=by,
        cut=cut,
        part=part,
        lowest=lowest,
        groups=groups_of(dataset, rows, selected, label),
        correlated=None if by == "random" else correlate(dataset, rows, scores.score, by, seed),
        settings={"keep": keep, "threshold": threshold, "unscored": unscored, **plan},
        chunks=chunks,
    )


def choose(
    scores: Scores,
    keys: Sequence[str],
    *,
    keep: float | None = None,
    threshold: float | None = None,
    lowest: bool = False,
    unscored: str = "keep",
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """Which records to select.

    Args:
        scores: Of N records.
        keys: Of these, whose hashes decide between equal scores.
        keep: Share of the scored records.
        threshold: Least score, or largest if low ones are good. Without both, the rule's own.
        lowest: Low scores are the good ones.
        unscored: keep or drop records without a score.
        seed: Of the hashes.

    Returns:
        (N,) bool, and the score of the last one that is selected.
    """
    sign = -1.0 if lowest else 1.0
    have = ~np.isnan(scores.score)
    selected = np.zeros(len(have), dtype=bool)
    if keep is None:
        least = scores.threshold if threshold is None else threshold
        assert least is not None, "checked before scores are computed"
        selected[have] = sign * scores.score[have] >= sign * least
        cut = least
    else:
        rows: Rows = np.flatnonzero(have)
        tie = np.zeros(len(have)) if scores.tie is None else sign * scores.tie
        drawn = uniform_of(keys, seed, 1)
        order = np.lexsort((drawn[rows], -tie[rows], -sign * scores.score[rows]))
        chosen = rows[order[: round(keep * len(rows))]]
        selected[chosen] = True
        cut = float(scores.score[chosen[-1]]) if len(chosen) else np.nan
    if unscored == "keep":
        selected[~have] = True
    return selected, float(cut)


def _check(by: str, keep: float | None, threshold: float | None, unscored: str) -> None:
    if unscored not in UNSCORED:
        raise unknown("way with records without a score", unscored, UNSCORED)
    if keep is not None and threshold is not None:
        raise AmodalError("--keep and --threshold both say how many stay; leave one of them out")
    if keep is not None and not 0 < keep <= 1:
        raise AmodalError(f"--keep is a share of the records, above 0 and at most 1, not {keep}")
    if keep is None and threshold is None and by not in WITH_THRESHOLD:
        raise AmodalError(
            f"{by} has no threshold of its own: say how many records stay, --keep 0.3 for three "
            "of ten, or from which score on, --threshold"
        )


def _content(like: Any) -> str:
    """What says whether the examples of a domain are still the same."""
    if like is None or (isinstance(like, Sequence) and not isinstance(like, str)):
        return str(like)
    if isinstance(like, str | Path) and Path(like).is_file():
        return hashlib.sha256(Path(like).read_bytes()).hexdigest()
    return open_data(like).fingerprint


def _source(data: Openable, path: object) -> str:
    """What opens the data a second time; "" for data in memory."""
    if isinstance(data, str) and not Path(data).exists():
        return data  # the name of a set, or an address
    if isinstance(data, str | Path):
        return str(Path(data).resolve())
    return "" if path is None else str(path)


def _best(score: np.ndarray, lowest: bool) -> str:
    if np.isnan(score).all():
        return "none"
    return f"{(np.nanmin if lowest else np.nanmax)(score):.4g}"
