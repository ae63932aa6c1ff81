"""Late interaction (MaxSim) over an index: score = sum over a query's vectors of their largest
product with a vector of the record, in any compared field (Khattab and Zaharia 2020,
arXiv:2004.12832; over fields: Wan et al. 2025, arXiv:2506.06144).

Exact, in tiles of records: memory holds one tile of vectors and of products, whatever the size of
the index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TILE = 8192
"""Vectors at once: they stay in the processor's cache. A record with more of them is a tile."""


@dataclass(frozen=True)
class Lists:
    """The vectors of one field, as a list for each record.

    Args:
        values: (n, D) float16, the lists end to end.
        rows: (m,) int64 ascending, the record of each list.
        lengths: (m,) int64; None where every record has one vector.
        parts: (n,) int32 number of the part that each vector is of; None where it is its position.
    """

    values: np.ndarray
    rows: np.ndarray
    lengths: np.ndarray | None = None
    parts: np.ndarray | None = None

    @property
    def ends(self) -> np.ndarray:
        """(m + 1,) int64: list i is values[ends[i] : ends[i + 1]]."""
        if self.lengths is None:
            return np.arange(len(self.rows) + 1)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths, dtype=np.int64)])

    def vector_rows(self) -> np.ndarray:
        """(n,) int64: the record of each vector."""
        return self.rows if self.lengths is None else np.repeat(self.rows, self.lengths)

    def select(self, chosen: np.ndarray) -> Lists:
        """The lists at `chosen` (c,) int64."""
        if self.lengths is None:
            return Lists(self.values[chosen], self.rows[chosen])
        flat = spans(self.ends[chosen], self.lengths[chosen])
        parts = None if self.parts is None else self.parts[flat]
        return Lists(self.values[flat], self.rows[chosen], self.lengths[chosen], parts)

    def span_of(self, record: int) -> slice:
        """The slice of `values` that is of a record; empty if it has none."""
        i = int(np.searchsorted(self.rows, record))
        if i == len(self.rows) or self.rows[i] != record:
            return slice(0, 0)
        return slice(i, i + 1) if self.lengths is None else slice(*self.ends[i : i + 2].tolist())


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(sum of lengths,) the numbers start, start + 1, … of each span, end to end."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def top_records(
    fields: Sequence[Lists],
    query_LD: np.ndarray,
    k: int,
    mask_R: np.ndarray,
    unsigned: bool = False,
    tile: int = TILE,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank records by MaxSim.

    Args:
        fields: The vectors of the fields that are compared.
        query_LD: The query's vectors; the norm of each is its weight.
        k: How many records.
        mask_R: bool, the records that may be found.
        unsigned: Rank by |product|.
        tile: Vectors at once.

    Returns:
        (up to k,) float32 scores and int64 numbers of records, best first, of equal scores the
        first. A record without a vector in any of these fields is not among them.
    """
    query = torch.from_numpy(np.ascontiguousarray(query_LD, dtype=np.float32)).T.contiguous()
    scores, records = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    ends = [s.ends for s in fields]
    for start, stop in tiles(fields, len(mask_R), tile):
        # what stays at -inf has no vector in any of the fields, and is not found
        best = torch.full((stop - start, query.shape[1]), -torch.inf)
        for field, end in zip(fields, ends):
            low, high = np.searchsorted(field.rows, [start, stop])
            rows = np.asarray(field.rows[low:high])
            chosen = np.flatnonzero(mask_R[rows])
            if not len(chosen):
                continue
            lengths = None if field.lengths is None else np.asarray(field.lengths[low:high])
            if len(chosen) == len(rows):
                part = field.values[end[low] : end[high]]
            elif lengths is None:
                part = field.values[low + chosen]
            else:
                lengths = lengths[chosen]
                part = field.values[spans(end[low + chosen], lengths)]
            product = products(part, query, unsigned)
            if lengths is not None:
                starts = np.cumsum(lengths) - lengths
                product = torch.from_numpy(np.maximum.reduceat(product.numpy(), starts, axis=0))
            row = torch.from_numpy(rows[chosen] - start)
            best[row] = torch.maximum(best[row], product)
        total = best.sum(1)
        scored = (total > -torch.inf).nonzero().squeeze(1)
        scores, records = torch.cat([scores, total[scored]]), torch.cat([records, scored + start])
        if len(scores) > k:
            order = scores.sort(descending=True, stable=True).indices[:k]
            scores, records = scores[order], records[order]
    order = scores.sort(descending=True, stable=True).indices[:k]
    return scores[order].numpy(), records[order].numpy()


def products(part: np.ndarray, query_DL: Tensor, unsigned: bool) -> Tensor:
    """(n, L) float32."""
    # A copy: a mapped array cannot be written, of which torch warns.
    product = torch.from_numpy(np.array(part)).float() @ query_DL
    return product.abs() if unsigned else product


def tiles(fields: Sequence[Lists], records: int, tile: int) -> list[tuple[int, int]]:
    """Ranges of record numbers that hold about `tile` vectors each."""
    count = np.zeros(records, dtype=np.int64)
    for field in fields:
        count[field.rows] += 1 if field.lengths is None else field.lengths
    group = np.cumsum(count) // tile
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), records]
    return [(a, b) for a, b in zip(edges, edges[1:]) if b > a]


def best_match(
    query_LD: np.ndarray, vectors: Mapping[str, np.ndarray], unsigned: bool = False
) -> tuple[float, str, int]:
    """Score one record, and say why it matched.

    Args:
        query_LD: The query's vectors.
        vectors: field -> (n, D) of the record, n at least 1.
        unsigned: By |product|.

    Returns:
        The score, the field that scores highest by itself, and, for a query of one vector, the
        position of the vector that matched in that field; -1 for other queries.
    """
    query = torch.from_numpy(np.asarray(query_LD, dtype=np.float32)).T
    best: dict[str, Tensor] = {}
    place: dict[str, int] = {}
    for field, values in vectors.items():
        largest = products(values, query, unsigned).max(0)
        best[field], place[field] = largest.values, int(largest.indices[0])
    score = float(torch.stack(list(best.values())).amax(0).sum())
    field = max(best, key=lambda s: float(best[s].sum()))
    return score, field, place[field] if query.shape[1] == 1 else -1
