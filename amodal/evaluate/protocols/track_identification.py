"""Identification of wholes by their parts: every part of a track, in one field, asks for its
nearest parts in another, which vote.

Dorfer et al., TISMIR 2018, for sheet music and recordings; as used by Carvalho et al. 2023
(arXiv:2309.12134): all snippets of a piece are queries, each retrieves so many neighbours among the
snippets of all pieces, and pieces are ranked by their votes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.evaluate.labels import NotApplicable, codes, is_number
from amodal.evaluate.needs import TWO_FIELDS, two_fields
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded, known


def track_identification(
    train: Embedded | None,
    test: Embedded,
    *,
    whole: str = "",
    neighbours: int = 25,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Result:
    """whole: the label that names what a record is a part of (a piece, a film, a patient);
    neighbours: votes that each part has; pairs: (query, gallery) fields, all unless given. Reads
    the aligned space. `train` is not used."""
    if not whole:
        raise NotApplicable("it needs the label that names what a record is a part of (whole = …)")
    two_fields(test)
    if is_number(test.label(whole)):
        raise NotApplicable(f"identification needs names, and {whole!r} is a number")
    labels = test.label(whole)
    names = sorted({v for v in labels if v is not None})
    of, rows = codes(labels, names), []
    for a, b in pairs or itertools.permutations(test.sources, 2):
        there = [
            test.aligned[s].at(torch.from_numpy(known(labels)[test.aligned[s].rows.numpy()]))
            for s in (a, b)
        ]
        asked, held = (of[column.rows.numpy()] for column in there)
        both = np.intersect1d(asked, held)
        if len(both) < 2:
            continue
        vectors = (column.values for column in there)
        found = votes(*vectors, asked, held, len(names), neighbours, test.unsigned)[both][
            :, np.unique(held)
        ]
        right = np.searchsorted(np.unique(held), both)
        own = found[np.arange(len(both)), right][:, None]
        ahead, tied = (found > own).sum(1), (found == own).sum(1) - 1
        n = found.shape[1]
        # ties count as they would on average if they were broken at random
        mrr = [(1 / np.arange(i + 1, i + t + 2)).mean() for i, t in zip(ahead, tied)]
        first = np.where(ahead == 0, 1 / (tied + 1), 0.0)
        each = {
            "MRR, by votes": (np.mean(mrr), (1 / np.arange(1, n + 1)).mean()),
            "recall@1, by votes": (first.mean(), 1 / n),
        }
        for metric, (value, chance) in each.items():
            row = {
                "source": a,
                "target": b,
                "metric": metric,
                "value": float(value),
                "chance": float(chance),
            }
            rows.append(row | {"n": len(both)})
    if not rows:
        raise NotApplicable(f"no two of {whole!r} have parts in two fields")
    spec = {"whole": whole, "neighbours": neighbours, "space": "aligned", "test": len(test)}
    return Result("track_identification", spec, rows)


def votes(
    query_MD: Tensor,
    gallery_ND: Tensor,
    asked: np.ndarray,
    held: np.ndarray,
    wholes: int,
    neighbours: int,
    unsigned: bool = False,
) -> np.ndarray:
    """(wholes, wholes): how many neighbours of the parts of each whole are parts of each other.
    asked, held: whose part each row is; unsigned: near is a large |cosine|."""
    gallery = normalize(gallery_ND.float(), dim=1)
    found = np.zeros((wholes, wholes))
    for part, own in zip(
        normalize(query_MD.float(), dim=1).split(1024),
        np.split(asked, range(1024, len(asked), 1024)),
    ):
        like = part @ gallery.T
        near = (
            (like.abs() if unsigned else like)
            .topk(min(neighbours, len(gallery)), dim=1)
            .indices.numpy()
        )
        np.add.at(found, (own[:, None], held[near]), 1)
    return found


class TrackIdentification(Protocol):
    """Tracks identified by votes of their parts."""

    name, needs = "track_identification", (TWO_FIELDS,)
    rank = 110
    measure = staticmethod(track_identification)


PROTOCOL = TrackIdentification()
