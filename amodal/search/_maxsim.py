"""Late interaction over an index: each vector of a query finds the best of a record's, over all
fields that are compared, and the score is the sum of what they find (Khattab and Zaharia 2020,
arXiv:2004.12832; over fields: Wan et al. 2025, arXiv:2506.06144).

Exact, in tiles of records: what is held is one tile of vectors and of products, whatever the size
of the index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TILE = 8192
"""Vectors at once, which stay in the processor's cache; a record with more of them is looked at
whole."""


@dataclass(frozen=True)
class Lists:
    """The vectors of one field: values (n, D) float16, end to end; rows (m,) int64, ascending: the
    record of each list; lengths (m,) int64, None where every record has one vector; parts (n,)
    int32: the number of the part that each vector is of, None where it is its place."""

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

    def owners(self) -> np.ndarray:
        """(n,) int64: the record of each vector."""
        return self.rows if self.lengths is None else np.repeat(self.rows, self.lengths)

    def at(self, chosen: np.ndarray) -> Lists:
        """The lists at `chosen` (c,) int64."""
        if self.lengths is None:
            return Lists(self.values[chosen], self.rows[chosen])
        flat = spans(self.ends[chosen], self.lengths[chosen])
        parts = None if self.parts is None else self.parts[flat]
        return Lists(self.values[flat], self.rows[chosen], self.lengths[chosen], parts)

    def of(self, record: int) -> slice:
        """Where the vectors of a record are; an empty slice if it has none."""
        i = int(np.searchsorted(self.rows, record))
        if i == len(self.rows) or self.rows[i] != record:
            return slice(0, 0)
        return slice(i, i + 1) if self.lengths is None else slice(*self.ends[i : i + 2].tolist())


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(sum of lengths,) the numbers start, start + 1, … of each span, end to end."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def best_records(
    fields: Sequence[Lists],
    query_LD: np.ndarray,
    k: int,
    kept_R: np.ndarray,
    unsigned: bool = False,
    tile: int = TILE,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (up to k,) float32 and numbers int64 of the records that score highest, best first; of
    equal ones the first.

    query_LD: a query's vectors, each as long as it is to weigh; kept_R: (R,) bool, the records that
    may be found; unsigned: by the size of products. A record without a vector in any of these
    fields is not found.
    """
    query = torch.from_numpy(np.ascontiguousarray(query_LD, dtype=np.float32)).T.contiguous()
    scores, found = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    ends = [s.ends for s in fields]
    for start, stop in tiles(fields, len(kept_R), tile):
        best = torch.full((stop - start, query.shape[1]), -torch.inf)
        for field, at in zip(fields, ends):
            low, high = np.searchsorted(field.rows, [start, stop])
            own = np.asarray(field.rows[low:high])
            let = np.flatnonzero(kept_R[own])
            if not len(let):
                continue
            lengths = None if field.lengths is None else np.asarray(field.lengths[low:high])
            if len(let) == len(own):
                part = field.values[at[low] : at[high]]
            elif lengths is None:
                part = field.values[low + let]
            else:
                lengths = lengths[let]
                part = field.values[spans(at[low + let], lengths)]
            product = products(part, query, unsigned)
            if lengths is not None:
                product = np.maximum.reduceat(product.numpy(), np.cumsum(lengths) - lengths, axis=0)
                product = torch.from_numpy(product)
            rows = torch.from_numpy(own[let] - start)
            best[rows] = torch.maximum(best[rows], product)
        total = best.sum(1)
        there = (total > -torch.inf).nonzero().squeeze(1)
        scores, found = torch.cat([scores, total[there]]), torch.cat([found, there + start])
        if len(scores) > k:
            order = scores.sort(descending=True, stable=True).indices[:k]
            scores, found = scores[order], found[order]
    order = scores.sort(descending=True, stable=True).indices[:k]
    return scores[order].numpy(), found[order].numpy()


def products(part: np.ndarray, query_DL: Tensor, unsigned: bool) -> Tensor:
    """(n, L) float32."""
    product = (
        torch.from_numpy(np.array(part)).float() @ query_DL
    )  # a copy: what is mapped cannot be written, of which torch warns
    return product.abs() if unsigned else product


def tiles(fields: Sequence[Lists], records: int, tile: int) -> list[tuple[int, int]]:
    """Ranges of record numbers that hold about `tile` vectors each."""
    count = np.zeros(records, dtype=np.int64)
    for field in fields:
        count[field.rows] += 1 if field.lengths is None else field.lengths
    group = np.cumsum(count) // tile
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), records]
    return [(a, b) for a, b in zip(edges, edges[1:]) if b > a]


def explained(
    query_LD: np.ndarray, vectors: Mapping[str, np.ndarray], unsigned: bool = False
) -> tuple[float, str, int]:
    """Of one record (field -> (n, D), n at least 1): its score, the field that scores highest by
    itself, and, for a query of one vector, the place in it of the vector that was found, -1 for
    others."""
    query, best, place = torch.from_numpy(np.asarray(query_LD, dtype=np.float32)).T, {}, {}
    for field, values in vectors.items():
        found = products(values, query, unsigned).max(0)
        best[field], place[field] = found.values, int(found.indices[0])
    score = float(torch.stack(list(best.values())).amax(0).sum())
    field = max(best, key=lambda s: float(best[s].sum()))
    return score, field, place[field] if query.shape[1] == 1 else -1
