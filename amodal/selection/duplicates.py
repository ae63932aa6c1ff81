"""duplicates: records that are near copies of others."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, unknown
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.curate.shared.near import near_duplicates
from amodal.modalities import BadValue
from amodal.modalities.shared.protocols import Readable
from amodal.progress import Bar
from amodal.selection.chunks import Columns, Rows
from amodal.selection.pairs import embedded
from amodal.selection.pool import Pool, Scores

VECTORS = 0.05
"""Cosine distance below which vectors are those of near copies (SemDeDup keeps what is farther)."""
TEXTS = 0.2
"""Jaccard distance of runs of words below which texts are near copies."""
LEAST = 0.5
"""Jaccard index from which pairs of texts are looked for."""
TILE = 1024


def duplicates(pool: Pool) -> Scores:
    """The distance of a record from the nearest one before it, by vectors of a run (SemDeDup,
    Abbas et al. 2023, arXiv:2303.09540); without a run by the words of a text, or by equal content.

    Records of the other parts of the split come before all others, so that no near copy of a record
    to test on stays.

    Raises:
        AmodalError: For an unknown field, or one that the vectors do not have.
    """
    if pool.model is not None:
        return _by_vectors(pool)
    fields = pool.dataset.fields
    texts = [name for name, modality in fields.items() if isinstance(modality, Readable)]
    field = pool.settings.field or next(iter(texts or fields))
    if field not in fields:
        raise unknown("field of this data", field, fields)
    return _by_words(pool, field) if field in texts else _by_content(pool, field)


def _result(pool: Pool, distance: np.ndarray, before: np.ndarray, scale: Threshold) -> Scores:
    """distance: (N,) NaN without a value; before: (N,) the nearest record before, -1 for none."""
    near = distance < scale.least
    leaks = near & np.isin(before, pool.held_out)
    keys = [pool.dataset.keys[i] if i >= 0 else None for i in before.tolist()]
    column = np.full(len(keys), None, dtype=object)
    column[:] = keys
    return Scores(
        score=distance,
        meaning=scale.meaning,
        lacking=scale.field,
        fields=(scale.field,) if scale.field in pool.dataset.fields else (),
        threshold=scale.least,
        reasons={
            "near copies of an earlier record": near & ~leaks,
            "near copies of a held-out record": leaks,
        },
        columns={"nearest before": column},
    )


class Threshold:
    """What distances are of, and below which one records are near copies."""

    def __init__(self, field: str, meaning: str, least: float):
        self.field, self.meaning, self.least = field, meaning, least


def _by_vectors(pool: Pool) -> Scores:
    model, decoded = pool.run("duplicates"), pool.decoded
    field = pool.settings.field
    if field is not None and field not in model.fields:
        raise unknown("field of this run", field, model.fields)

    def make(rows: Rows) -> Columns:
        z = embedded(model, decoded, rows)
        if z.abs_cosine and field is None and len(z.sources) > 1:
            raise AmodalError(
                "this run compares vectors whose sign means nothing, so those of all fields have "
                f"no mean; say which field: {', '.join(model.fields)}"
            )
        columns = z.probed()
        source = field or (FUSED if FUSED in columns else next(iter(columns)))
        column = columns[source]
        vectors = np.full((len(rows), vectors_of(column).shape[1]), np.nan, dtype=np.float16)
        vectors[column.rows.numpy()] = normalize(vectors_of(column).float(), dim=1).half().numpy()
        return {"vector": vectors}

    rows = np.concatenate([pool.held_out, pool.rows])
    vectors = torch.from_numpy(pool.chunks.each("vectors", rows, make)["vector"])
    have = ~vectors[:, 0].isnan()
    with Bar("nearest before", int(have.sum()), shown=pool.chunks.progress) as bar:
        cosine, place = nearest_before(
            normalize(vectors[have].float(), dim=1), step=lambda n: bar.step("records", by=n)
        )
    distance, before = np.full(len(rows), np.nan), np.full(len(rows), -1)
    distance[have.numpy()] = 1 - cosine.numpy()
    before[have.numpy()] = np.where(place >= 0, rows[have.numpy()][place.numpy()], -1)
    start = len(pool.held_out)
    scale = Threshold(
        field or " or ".join(model.fields),
        "cosine distance from the nearest record before",
        VECTORS,
    )
    return _result(pool, distance[start:], before[start:], scale)


def nearest_before(unit_ND: Tensor, *, step: object = None) -> tuple[Tensor, Tensor]:
    """The highest cosine of each row to one of the rows before it.

    Args:
        unit_ND: Unit vectors.
        step: Called with the number of rows just done.

    Returns:
        (N,) cosines, -1 for the first row; (N,) int64 rows, -1 for the first.
    """
    cosine, place = [], []
    for start in range(0, len(unit_ND), TILE):
        tile = unit_ND[start : start + TILE]
        products = tile @ unit_ND[: start + len(tile)].T
        later = torch.arange(products.shape[1]) >= (start + torch.arange(len(tile)))[:, None]
        best = products.masked_fill(later, -2.0).max(1)
        none = best.values < -1.5
        cosine.append(best.values.masked_fill(none, -1.0))
        place.append(best.indices.masked_fill(none, -1))
        if callable(step):
            step(len(tile))
    if not cosine:
        return torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    return torch.cat(cosine), torch.cat(place)


def _by_words(pool: Pool, field: str) -> Scores:
    rows = np.concatenate([pool.held_out, pool.rows])
    texts = pool.texts(field, rows)
    have = np.array([t is not None for t in texts], dtype=bool)
    distance, before = np.where(have, 1.0, np.nan), np.full(len(rows), -1)
    for i, j, index in near_duplicates([t or "" for t in texts], LEAST):
        if 1 - index < distance[j]:  # the nearest pairs come first
            distance[j], before[j] = 1 - index, rows[i]
    start = len(pool.held_out)
    meaning = f"Jaccard distance of {field} from the nearest record before, 1 from {1 - LEAST} on"
    return _result(pool, distance[start:], before[start:], Threshold(field, meaning, TEXTS))


def _by_content(pool: Pool, field: str) -> Scores:
    def make(rows: Rows) -> Columns:
        return {"hash": np.array([_hash(pool, i, field) for i in rows.tolist()], dtype="U32")}

    rows = np.concatenate([pool.held_out, pool.rows])
    hashes = pool.chunks.each("content", rows, make)["hash"].tolist()
    first = dict[str, int]()
    distance, before = np.full(len(rows), np.nan), np.full(len(rows), -1)
    for place, digest in enumerate(hashes):
        if digest:
            known = first.setdefault(digest, place)
            distance[place], before[place] = (
                float(known == place),
                -1 if known == place else rows[known],
            )
    start = len(pool.held_out)
    scale = Threshold(field, f"0 if the {field} equals that of a record before, else 1", 0.5)
    return _result(pool, distance[start:], before[start:], scale)


def _hash(pool: Pool, i: int, field: str) -> str:
    try:
        value = pool.dataset.value(i, field)
    except BadValue:
        return ""
    if value is None:
        return ""
    shape = f"{value.dtype}{value.shape}".encode()
    return hashlib.blake2b(
        shape + np.ascontiguousarray(value).tobytes(), digest_size=16
    ).hexdigest()
