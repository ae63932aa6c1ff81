"""Retrieval of whole records: one field against all of the others together.

For encoders whose space is compared by |cosine| (gram) the score of a query and a record is the
volume that the query spans with the record's other fields, the least the best (Cicchetti et al.,
ICLR 2025, arXiv:2412.11959, section 3). For all others, and for simple features, it is the mean of
the cosines. Both ways: a field finds the rest of its record, and the rest finds the field.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_records import every_record, no_record
from amodal.evaluate.needs import TWO_FIELDS
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.retrieval import MIN_RECORDS
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded
from amodal.objectives.gram_volume import volumes
from amodal.stats.paired_bootstrap import Mean
from amodal.stats.ranking import chance_of, hits, ranks_by, reciprocal_ranks


def tuple_retrieval(
    train: Embedded | None,
    test: Embedded,
    *,
    recall_at: Sequence[int] = (10, 1, 5),
    gallery: int = 5000,
    seed: int = 0,
) -> Result:
    """Measure retrieval between each field and the tuple of all others.

    Args:
        train: Not used.
        test: Test records. Those that have all fields are ranked.
        recall_at: The k of Recall@k.
        gallery: Records at most, chosen by `seed`.
        seed: Of that choice.

    Raises:
        NotApplicable: With fewer than three fields, and where too few records have all of them.
    """
    names = test.sources
    if len(names) < 3:
        raise NotApplicable("a tuple needs two fields beside the one that asks; see retrieval")
    index, vectors = test.aligned.complete(names)
    if len(index) > gallery:
        drawn = np.sort(np.random.default_rng(seed).permutation(len(index))[:gallery])
        at = torch.from_numpy(drawn)
        index, vectors = index[at], [v[at] for v in vectors]
    if len(index) < MIN_RECORDS:
        raise NotApplicable(
            f"{len(index)} of the {len(test)} test records have all of {', '.join(names)}, and "
            f"{MIN_RECORDS} are needed"
        )
    rows: list[Row] = []
    for i, name in enumerate(names):
        rest = [v for j, v in enumerate(vectors) if j != i]
        label = " + ".join(n for n in names if n != name)
        scores = score_matrix(vectors[i], rest, test.abs_cosine)
        for source, target, table in ((name, label, scores), (label, name, scores.T)):
            metrics = metrics_of(table, index.numpy(), recall_at)
            rows += [{"source": source, "target": target, **row} for row in metrics]
    spec = {
        "recall_at": list(recall_at),
        "score": "volume" if test.abs_cosine else "mean cosine",
        "gallery": gallery,
        "seed": seed,
        "test": len(test),
    }
    return Result("tuple_retrieval", spec, rows)


def score_matrix(query_ND: Tensor, rest: Sequence[Tensor], by_volume: bool) -> Tensor:
    """(N, N) how well each query fits the other fields of each record, higher is better.

    Args:
        query_ND: Vectors of one field.
        rest: (N, D) of each other field.
        by_volume: By the volume, or else by the mean cosine.
    """
    if by_volume:
        return -volumes(query_ND.float(), [v.float() for v in rest])
    unit = normalize(query_ND.float(), dim=1)
    return torch.stack([unit @ normalize(v.float(), dim=1).T for v in rest]).mean(0)


def metrics_of(score_NN: Tensor, who: np.ndarray, recall_at: Sequence[int]) -> list[Row]:
    """A row for each metric.

    Args:
        score_NN: Of each query with each record; the right one has the same number.
        who: (N,) numbers of the records.
        recall_at: The k of Recall@k.
    """
    n = len(who)
    ahead, tied, equal = ranks_by(lambda start, stop: score_NN[start:stop], n)
    chance = chance_of(np.ones(n, dtype=np.int64), n, recall_at)
    of_query = {f"recall@{k}": hits(ahead, tied, equal, k) for k in recall_at}
    of_query["MRR"] = reciprocal_ranks(ahead, tied, equal)
    rows: list[Row] = [
        {
            "metric": metric,
            "value": float(value.mean()),
            "chance": chance[metric],
            "n": n,
            "outcome": Mean(who, value.numpy()),
        }
        for metric, value in of_query.items()
    ]
    middle = float((ahead + (tied + equal + 1) / (equal + 1)).median())
    more: Row = {"metric": "median rank", "value": middle, "chance": chance["median rank"], "n": n}
    return [*rows, more]


class TupleRetrieval(Protocol):
    """Each field against the tuple of all others."""

    name, needs, needed = "tuple_retrieval", (TWO_FIELDS,), (no_record, every_record)
    default = False
    compares_fields = True
    rank = 155
    yardstick = True
    measure = staticmethod(tuple_retrieval)


PROTOCOL = TupleRetrieval()
