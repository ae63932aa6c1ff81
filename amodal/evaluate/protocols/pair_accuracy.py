"""Pairs of records that are easily confused: does each of two values in one field find the right
one of two in another?

MMVP: Tong et al., CVPR 2024, arXiv:2401.06209, section 2.2, for pictures that CLIP takes for alike
and statements about what sets them apart. A pair counts where both of its queries are right.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.labels import NotApplicable, codes, is_number
from amodal.evaluate.needed_records import labelled_by, no_record
from amodal.evaluate.needs import TWO_FIELDS, require_two_fields
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded, known


def pair_accuracy(
    train: Embedded | None,
    test: Embedded,
    *,
    pair: str = "",
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Result:
    """Measure pairs in the aligned space.

    Args:
        train: Not used.
        test: Test records.
        pair: The label that the two records of a pair share, and no others.
        pairs: (query, gallery) fields, all unless set.

    Raises:
        NotApplicable: Without `pair`, if it is a number with fractions, and if no pair has both of
            its records in two fields.
    """
    if not pair:
        raise NotApplicable("it needs the label that two records of a pair share (pair = …)")
    require_two_fields(test)
    labels = test.label(pair)
    if is_number(labels):
        raise NotApplicable(f"pairs need names, and {pair!r} is a number")
    names = sorted({v for v in labels if v is not None})
    number_N, rows = codes(labels, names), []
    named = known(labels)
    for a, b in pairs or itertools.permutations(test.sources, 2):
        query, gallery = test.aligned[a], test.aligned[b]
        both = np.intersect1d(query.rows.numpy(), gallery.rows.numpy())
        both = both[named[both]]
        groups = [both[number_N[both] == n] for n in np.unique(number_N[both])]
        twos = [group for group in groups if len(group) == 2]
        if not twos:
            continue
        rows_P2 = torch.from_numpy(np.stack(twos))
        right_P2 = chosen_right(
            vectors_at(query.rows, vectors_of(query), rows_P2),
            vectors_at(gallery.rows, vectors_of(gallery), rows_P2),
            test.abs_cosine,
        )
        metrics = {
            "pairs, both right": (right_P2.prod(1).mean(), 0.25),
            "of two, the right one": (right_P2.mean(), 0.5),
        }
        for metric, (value, chance) in metrics.items():
            row = {"source": a, "target": b, "metric": metric, "value": float(value)}
            rows.append(row | {"chance": chance, "n": len(twos)})
    if not rows:
        raise NotApplicable(f"no value of {pair!r} is that of exactly two records with two fields")
    return Result("pair_accuracy", {"pair": pair, "space": "aligned", "test": len(test)}, rows)


def vectors_at(rows_N: Tensor, x_ND: Tensor, rows_P2: Tensor) -> Tensor:
    """(P, 2, D) the vectors of pairs of rows.

    Args:
        rows_N: The rows that have a vector, ascending.
        x_ND: Their vectors.
        rows_P2: Pairs, of rows that have one.
    """
    return x_ND[torch.searchsorted(rows_N.contiguous(), rows_P2)]


def chosen_right(query_P2D: Tensor, gallery_P2D: Tensor, abs_cosine: bool = False) -> Tensor:
    """Whether each query of a pair is nearer to its own of the two values than to the other.

    Args:
        query_P2D: Vectors of P pairs.
        gallery_P2D: Vectors of what they look for.
        abs_cosine: Whether to compare by |cosine|.

    Returns:
        (P, 2): 1 or 0, .5 for a tie.
    """
    cosine = normalize(query_P2D.float(), dim=2) @ normalize(gallery_P2D.float(), dim=2).mT
    cosine = cosine.abs() if abs_cosine else cosine
    right = cosine.diagonal(dim1=1, dim2=2)
    wrong = cosine.flip(2).diagonal(dim1=1, dim2=2)
    return (right > wrong).double() + 0.5 * (right == wrong).double()


class PairAccuracy(Protocol):
    """Pairs of records that are easily confused."""

    name, needs = "pair_accuracy", (TWO_FIELDS,)
    needed = (no_record, labelled_by("pair"))
    default = False
    rank = 115
    measure = staticmethod(pair_accuracy)


PROTOCOL = PairAccuracy()
