"""Identification of tracks by their parts: every part of a track, in one field, retrieves its
nearest parts in another, which vote.

Dorfer et al., TISMIR 2018, for sheet music and recordings; as used by Carvalho et al. 2023
(arXiv:2309.12134): all snippets of a piece are queries, each retrieves neighbours among the
snippets of all pieces, and pieces are ranked by their votes.
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

BATCH = 1024


def track_identification(
    train: Embedded | None,
    test: Embedded,
    *,
    whole: str = "",
    neighbours: int = 25,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Result:
    """Measure identification in the aligned space.

    Args:
        train: Not used.
        test: Test records.
        whole: The label that says what a record is a part of (a piece, a film, a patient).
        neighbours: Votes of each part.
        pairs: (query, gallery) fields, all unless set.

    Raises:
        NotApplicable: Without `whole`, if it is a number, and if no two tracks have parts in two
            fields.
    """
    if not whole:
        raise NotApplicable("it needs the label that names what a record is a part of (whole = …)")
    require_two_fields(test)
    if is_number(test.label(whole)):
        raise NotApplicable(f"identification needs names, and {whole!r} is a number")
    labels = test.label(whole)
    names = sorted({v for v in labels if v is not None})
    whole_N, rows = codes(labels, names), []
    for a, b in pairs or itertools.permutations(test.sources, 2):
        query, gallery = (
            test.aligned[s].at(torch.from_numpy(known(labels)[test.aligned[s].rows.numpy()]))
            for s in (a, b)
        )
        query_whole, gallery_whole = whole_N[query.rows.numpy()], whole_N[gallery.rows.numpy()]
        both = np.intersect1d(query_whole, gallery_whole)
        if len(both) < 2:
            continue
        candidates = np.unique(gallery_whole)
        counts = votes(
            vectors_of(query),
            vectors_of(gallery),
            query_whole,
            gallery_whole,
            len(names),
            neighbours,
            test.abs_cosine,
        )[both][:, candidates]
        right = counts[np.arange(len(both)), np.searchsorted(candidates, both)][:, None]
        ahead, tied = (counts > right).sum(1), (counts == right).sum(1) - 1
        n = counts.shape[1]
        # ties count as they would on average if they were broken at random
        mrr = [(1 / np.arange(i + 1, i + t + 2)).mean() for i, t in zip(ahead, tied)]
        first = np.where(ahead == 0, 1 / (tied + 1), 0.0)
        metrics = {
            "MRR, by votes": (np.mean(mrr), (1 / np.arange(1, n + 1)).mean()),
            "recall@1, by votes": (first.mean(), 1 / n),
        }
        for metric, (value, chance) in metrics.items():
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
    query_whole: np.ndarray,
    gallery_whole: np.ndarray,
    wholes: int,
    neighbours: int,
    abs_cosine: bool = False,
) -> np.ndarray:
    """Count the votes.

    Args:
        query_MD: Parts that are queries.
        gallery_ND: Parts of the gallery.
        query_whole: (M,) whose part each query is.
        gallery_whole: (N,) whose part each gallery row is.
        wholes: How many tracks.
        neighbours: Votes of each query.
        abs_cosine: Whether to compare by |cosine|.

    Returns:
        (wholes, wholes): votes of the parts of each track for each track.
    """
    gallery = normalize(gallery_ND.float(), dim=1)
    counts = np.zeros((wholes, wholes))
    for part, whole in zip(
        torch.split(normalize(query_MD.float(), dim=1), BATCH),
        np.split(query_whole, range(BATCH, len(query_whole), BATCH)),
    ):
        cosine = part @ gallery.T
        near = (cosine.abs() if abs_cosine else cosine).topk(min(neighbours, len(gallery)), dim=1)
        np.add.at(counts, (whole[:, None], gallery_whole[near.indices.numpy()]), 1)
    return counts


class TrackIdentification(Protocol):
    """Tracks identified by votes of their parts."""

    name, needs = "track_identification", (TWO_FIELDS,)
    needed = (no_record, labelled_by("whole"))
    rank = 110
    measure = staticmethod(track_identification)


PROTOCOL = TrackIdentification()
