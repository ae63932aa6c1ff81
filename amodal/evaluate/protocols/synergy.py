"""Synergy: how much more of a label two fields say together than each by itself, bounded from
labels of single fields and unlabelled pairs.

Liang et al., ICLR 2024, arXiv:2306.04539 (`amodal.diagnose.pid_semisup`). Vectors of each field are
cut into clusters. No record needs a label and both fields: a label counts for each field that its
record has, and pairs count with or without one.

How to read it: if "accuracy, at most" is hardly above "accuracy, best field", labelled pairs and
a network that fuses both fields are not worth their cost. If "synergy, at least" is well above 0,
they are. In between nothing is certain, and the bounds say so by their distance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core.embeddings import vectors as vectors_of
from amodal.diagnose.pid_semisup import Bounds, pid_semisup
from amodal.diagnose.pid_semisup import synergy as synergy_of
from amodal.evaluate.labels import NotApplicable, classes_of, codes, is_number
from amodal.evaluate.needed_records import every_record, no_record
from amodal.evaluate.needs import LABEL, TWO_FIELDS
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded, known
from amodal.stats.kmeans import kmeans

MIN_RECORDS = 20
"""Labels of a field, and pairs of fields, below which nothing is said."""


def synergy(
    train: Embedded,
    test: Embedded | None,
    *,
    label: str,
    clusters: int = 5,
    bins: int = 4,
    steps: int = 1000,
    pairs: Sequence[tuple[str, str]] | None = None,
    seed: int = 0,
) -> Result:
    """Bound the synergy of every two fields, in bits.

    Rows of a pair: "synergy, at least" and "at most"; "at most, greedy" is the paper's upper bound,
    which is closer and not certain; "synergy, labelled pairs" where there are such; "redundancy";
    "unique", what the source says and the target does not; "accuracy, at least" and "at most" of
    the best classifier of both, and "accuracy, best field".

    Args:
        train: The records. Labels and pairs are counted here.
        test: Not used.
        label: What is to be predicted.
        clusters: Of each field.
        bins: Of a label that is a number, with equal counts.
        steps: See `pid_semisup`.
        pairs: Pairs of fields, all unless set.
        seed: Of k-means.

    Raises:
        NotApplicable: If the label has no two classes, or no pair has enough labels and records.
    """
    y_N, classes = _classes(train.label(label), bins)
    if classes < 2:
        raise NotApplicable(f"the label {label!r} has no two classes among the training records")
    codes_N = {}
    for source in train.sources:
        column = train.features[source]
        if len(column) >= max(clusters, MIN_RECORDS):
            unit = normalize(vectors_of(column).float(), dim=1)
            codes_N[source] = _filled(len(train), column.rows, kmeans(unit, clusters, seed=seed)[0])
    rows: list[Row] = []
    for a, b in pairs or itertools.combinations(codes_N, 2):
        x1, x2 = codes_N[a], codes_N[b]
        counts = [
            _counts(x1, y_N, clusters, classes),
            _counts(x2, y_N, clusters, classes),
            _counts(x1, x2, clusters, clusters),
        ]
        n = int(min(table.sum() for table in counts))
        if n < MIN_RECORDS:
            continue
        bounds = pid_semisup(*counts, steps=steps)
        labelled = _counts(x1 * clusters + x2, y_N, clusters**2, classes, (x1 >= 0) & (x2 >= 0))
        true = None
        if labelled.sum() >= MIN_RECORDS:
            true = float(synergy_of(labelled.view(clusters, clusters, classes), steps=steps))
        rows += [row | {"n": n} for row in _rows(a, b, bounds, counts, true)]
    if not rows:
        raise NotApplicable(
            f"no two fields have {MIN_RECORDS} records with {label!r} each and as many with both"
        )
    spec = {"label": label, "clusters": clusters, "steps": steps, "seed": seed, "space": "features"}
    return Result("synergy", spec | {"train": len(train), "classes": classes}, rows)


def _rows(
    a: str, b: str, bounds: Bounds, counts: Sequence[Tensor], true: float | None
) -> list[Row]:
    """What is said of one pair of fields. counts: (A, Y), (B, Y), (A, B)."""
    least, most = bounds.accuracy()
    bits = {
        "synergy, at least": bounds.lower,
        "synergy, at most": bounds.upper,
        "synergy, at most, greedy": bounds.upper_greedy,
        "redundancy": bounds.redundancy,
        "unique": bounds.unique1,
    }
    if true is not None:
        bits["synergy, labelled pairs"] = torch.tensor(true)
    single = max(float(t.amax(1).sum() / t.sum()) for t in counts[:2])
    share = max(float(t.sum(0).max() / t.sum()) for t in counts[:2])
    shares = {"at least": float(least), "at most": float(most), "best field": single}
    shared = {"source": a, "target": b}
    rows: list[Row] = [
        shared | {"metric": name, "value": float(value), "chance": 0.0}
        for name, value in bits.items()
    ]
    rows += [
        shared | {"metric": f"accuracy, {name}", "value": value, "chance": share}
        for name, value in shares.items()
    ]
    other = {"source": b, "target": a, "metric": "unique", "value": float(bounds.unique2)}
    return [*rows, other | {"chance": 0.0}]


def _classes(labels: np.ndarray, bins: int) -> tuple[Tensor, int]:
    """(N,) int64 the class of each record, -1 where it has none, and how many classes there are."""
    if not is_number(labels):
        names = classes_of(labels)
        return torch.from_numpy(codes(labels, names)), len(names)
    has = known(labels)
    found = np.full(len(labels), -1, dtype=np.int64)
    if has.any():
        edges = np.unique(np.quantile(labels[has], np.arange(1, bins) / bins))
        _, found[has] = np.unique(np.searchsorted(edges, labels[has], "right"), return_inverse=True)
    return torch.from_numpy(found), int(found.max(initial=-1)) + 1


def _filled(size: int, rows: Tensor, values: Tensor) -> Tensor:
    """(N,) int64 `values` at `rows`, -1 elsewhere."""
    full = torch.full((size,), -1, dtype=torch.int64)
    full[rows] = values.cpu()
    return full


def _counts(
    a_N: Tensor, b_N: Tensor, a_size: int, b_size: int, where_N: Tensor | None = None
) -> Tensor:
    """(A, B) how many records have both codes."""
    both = (a_N >= 0) & (b_N >= 0) if where_N is None else where_N & (b_N >= 0)
    flat = torch.bincount(a_N[both] * b_size + b_N[both], minlength=a_size * b_size)
    return flat.view(a_size, b_size).double()


class Synergy(Protocol):
    """What two fields say of a label together and neither says alone."""

    name, needs = "synergy", (LABEL, TWO_FIELDS)
    needed = (every_record, no_record)
    default = False
    rank = 117
    headlines = (
        "synergy, at least",
        "synergy, at most",
        "accuracy, at most",
        "accuracy, best field",
    )
    measure = staticmethod(synergy)


PROTOCOL = Synergy()
