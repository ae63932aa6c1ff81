"""The linear probe of a label with more than one value a record, such as what covers the ground.

The protocol of BigEarthNet in SSL4EO-S12 (Wang et al. 2023, arXiv:2211.07044): a logistic
regression of each value against its absence, on frozen features, and mean average precision.
Average precision is the sum over ranks of precision times the step of recall (scikit-learn's), with
equal scores as one rank. `mAP` is the mean over values, `micro AP` that of all pairs of record and
value in one ranking. By chance it is the share of records that have the value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from amodal.core import AmodalError
from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.labels import NotApplicable, is_number
from amodal.evaluate.needed_records import labelled
from amodal.evaluate.needs import LABEL
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded, known
from amodal.stats.average_precision import MeanPrecision, MicroPrecision
from amodal.stats.logistic import logistic

LEAST = 2
"""Training records with and without a value, of which a classifier is fitted."""


def multilabel(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    separator: str = ";",
    share: float = 1.0,
    seed: int = 0,
    sources: Sequence[str] | None = None,
) -> Result:
    """Fit a classifier of each value on each field and on the fused vectors.

    Args:
        train: Training records.
        test: Test records.
        label: A category whose cells have values with `separator` between them.
        separator: Between values.
        share: Of the training records to learn from, drawn at random.
        seed: Of the draw.
        sources: All unless set.

    Raises:
        NotApplicable: If the label is a number, or no record has two values.
        AmodalError: For a share outside ]0, 1], and an empty separator.
    """
    if not separator:
        raise AmodalError('separator is what stands between values, such as ";"; it is empty')
    if not 0 < share <= 1:
        raise AmodalError(f"share is of the training records, above 0 and at most 1, not {share}")
    labels = [part.label(label) for part in (train, test)]
    if is_number(labels[0]):
        raise NotApplicable(f"{label!r} is a number, and this is of names of classes")
    sets = [[_values(cell, separator) for cell in part] for part in labels]
    if not any(len(values) > 1 for part in sets for values in part):
        raise NotApplicable(
            f"no record has more than one value of {label!r} with {separator!r} between them; "
            "linear is for one, and --protocol.separator is another sign"
        )
    classes = sorted({value for values in sets[0] for value in values})
    truths = [np.array([[c in values for c in classes] for values in part]) for part in sets]
    columns, others = train.probed(), test.probed()
    rows: list[Row] = []
    left: set[str] = set()
    for source in sources or columns:
        fitted, tested = columns[source], others[source]
        learnt = known(labels[0])[fitted.rows.numpy()]
        scored = known(labels[1])[tested.rows.numpy()]
        chosen = _drawn(np.flatnonzero(learnt), fitted.rows.numpy(), len(train), share, seed)
        seen = np.flatnonzero(scored)
        y, truth = truths[0][fitted.rows.numpy()[chosen]], truths[1][tested.rows.numpy()[seen]]
        usable = _usable(y, truth)
        left |= {c for c, fits in zip(classes, usable) if not fits}
        if not usable.any():
            continue
        x = vectors_of(fitted)[torch.from_numpy(chosen)].float()
        vectors = vectors_of(tested)[torch.from_numpy(seen)].float()
        score = np.stack([_scores(x, y[:, k], vectors) for k in np.flatnonzero(usable)], 1)
        rows += _rows(source, tested.rows.numpy()[seen], truth[:, usable], score)
    if not rows:
        raise NotApplicable(
            f"no value of {label!r} is in {LEAST} training records and in some of the test records "
            f"and not all: {', '.join(sorted(left)[:5]) or 'there is none'}"
        )
    spec = {"label": label, "kind": "category", "separator": separator, "share": share}
    spec |= {"seed": seed, "values": len(classes), "left out": sorted(left)}
    return Result(
        "multilabel", spec | {"space": "features", "train": len(train), "test": len(test)}, rows
    )


def _values(cell: str | None, separator: str) -> frozenset[str]:
    parts = (part.strip() for part in (cell or "").split(separator))
    return frozenset(part for part in parts if part)


def _drawn(
    places: np.ndarray, rows: np.ndarray, records: int, share: float, seed: int
) -> np.ndarray:
    """Places of the records to learn from, the same records for every source."""
    if share == 1:
        return places
    order = np.random.default_rng(seed).permutation(records)
    taken = np.zeros(records, dtype=bool)
    taken[order[: max(1, round(share * records))]] = True
    chosen: np.ndarray = places[taken[rows[places]]]
    return chosen


def _usable(y: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Which values can be learnt and measured."""
    counts = y.sum(0)
    enough = (counts >= LEAST) & (len(y) - counts >= LEAST)
    measured: np.ndarray = enough & truth.any(0) & ~truth.all(0)
    return measured


def _scores(x: torch.Tensor, y: np.ndarray, vectors: torch.Tensor) -> np.ndarray:
    """(M,) log-odds of a value."""
    w, b, _ = logistic(x, torch.from_numpy(y.astype(np.int64)), 2)
    odds: np.ndarray = (vectors @ (w[:, 1] - w[:, 0]) + (b[1] - b[0])).double().numpy()
    return odds


def _rows(source: str, who: np.ndarray, truth: np.ndarray, score: np.ndarray) -> list[Row]:
    outcomes = {
        "mAP": (MeanPrecision(who, truth, score), float(truth.mean(0).mean())),
        "micro AP": (MicroPrecision(who, truth, score), float(truth.mean())),
    }
    once = np.ones((1, len(who)))
    return [
        {
            "source": source,
            "metric": metric,
            "value": float(outcome.statistic(once)[0]),
            "chance": chance,
            "n": len(who),
            "outcome": outcome,
        }
        for metric, (outcome, chance) in outcomes.items()
    ]


class Multilabel(Protocol):
    """The linear probe of a label with more than one value a record."""

    name, needs, needed = "multilabel", (LABEL,), (labelled, labelled)
    default = False
    rank = 125
    yardstick = True
    headlines = ("mAP", "micro AP")
    measure = staticmethod(multilabel)


PROTOCOL = Multilabel()
