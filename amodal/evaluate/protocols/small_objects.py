"""Retrieval of pictures by words about one object in them, by its size and the number of others.

The question of SORCE-1K (Liu et al. 2025, arXiv:2505.24441), for any data, two fields and method. A
record is a picture and words about one object in it. Labels say how large that is: `area`, its
share of the picture, or `box`, JSON of [left, top, right, bottom] as shares of the sides, or in
pixels with the picture's width and height behind them. Two more labels are optional: `count`, how
many objects there are, and `objects`, the names of all of them with "; " between.

Equal pictures are one picture of the gallery. A picture is right for a query if its record has the
same words, or if its `objects` name these very words.

`source` of a row says by which vectors:

- "one": one vector of each value;
- "multi_vector": the encoder's own way to make more (`Encoder.multi_vector`), where it has one;
- "regions": else the whole and the cells of a grid, by the encoder as it is;
- "gain": the difference between the latter two and "one".

`target` says of which queries. Intervals are 95 %, from resampling pictures with their queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal import modalities
from amodal.core import AmodalError, Column, Ragged, unknown
from amodal.core.column import both
from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_records import every_record, no_record
from amodal.evaluate.object_sizes import areas, bins_of, number_of
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded, as_encoder, embed_multi_vector
from amodal.inference.forward_passes import PerturbedForward, eval_mode, sequential_loader
from amodal.modalities import Modality
from amodal.nn.encoder import Encoder
from amodal.nn.multi_vector import MultiVector
from amodal.objectives.late_interaction import late_interaction
from amodal.stats.ranking import chance_of

MIN_QUERIES = 5
"""Below which a bin is left out."""
MAX_PRODUCTS = 2**24


def small_objects(
    train: Embedded | None,
    test: Embedded,
    *,
    words: str = "",
    pictures: str = "",
    sizes: Sequence[float] = (0.01, 0.03, 0.1),
    counts: Sequence[float] = (2, 4, 8),
    grid: int = 2,
    recall_at: Sequence[int] = (1, 5, 10),
    draws: int = 1000,
    seed: int = 0,
) -> Result:
    """Measure Recall@k of pictures by words about one object.

    Args:
        train: Not used.
        test: Test records, with a label `area` or `box`.
        words: The field of the queries, the first text unless set.
        pictures: The field of the gallery, the first picture unless set.
        sizes: Edges of bins of the share of the picture that the object covers.
        counts: Edges of bins of the number of objects.
        grid: Cells along each axis, for encoders with one vector a value.
        recall_at: The k of Recall@k.
        draws: Of the intervals.
        seed: Of these draws.

    Raises:
        NotApplicable: If a field or a label is lacking, or there are too few queries.
        AmodalError: For unknown fields, edges that do not rise, and labels that cannot be read.
    """
    query_field, gallery_field = _fields(test, words, pictures)
    share = areas(test)
    queries, gallery = both(test.aligned[query_field], test.aligned[gallery_field])
    usable = torch.from_numpy(np.isfinite(share[queries.rows.numpy()]))
    queries, gallery = queries.at(usable), gallery.at(usable)
    if len(queries) < MIN_QUERIES:
        raise NotApplicable(
            f"fewer than {MIN_QUERIES} test records have {query_field}, {gallery_field} and how "
            "large the thing is"
        )
    rows = queries.rows.numpy()
    _, first, picture_Q = np.unique(
        _content(test, gallery_field, gallery), return_index=True, return_inverse=True
    )
    right = _right(test, query_field, queries, picture_Q, len(first))
    unit = normalize(vectors_of(queries), dim=1)
    cosine = unit @ normalize(vectors_of(gallery)[torch.from_numpy(first)], dim=1).T
    ranks = {"one": ranks_of(cosine.abs() if test.abs_cosine else cosine, right)}
    by_parts = _by_parts(test, query_field, gallery_field, rows, rows[first], grid)
    kind = ""
    if by_parts is not None:
        kind, scores = by_parts
        ranks[kind] = ranks_of(scores, right)
    bins = _all_bins(test, rows, share[rows], sizes, counts)
    results: list[Row] = []
    for name, part in bins.items():
        if part.sum() >= MIN_QUERIES:
            for k in recall_at:
                results += _recall(name, part, k, ranks, kind, right, picture_Q, draws, seed)
    spec = {
        "words": query_field,
        "pictures": gallery_field,
        "sizes": list(sizes),
        "counts": list(counts),
        "recall_at": list(recall_at),
        "seed": seed,
        **({"multi_vector": kind, "grid": grid} if kind else {}),
        "draws": draws,
        "queries": len(rows),
        "gallery": right.shape[1],
    }
    return Result("small_objects", spec, results)


def _recall(
    name: str,
    part: np.ndarray,
    k: int,
    ranks: dict[str, tuple[np.ndarray, np.ndarray]],
    kind: str,
    right: np.ndarray,
    picture_Q: np.ndarray,
    draws: int,
    seed: int,
) -> list[Row]:
    """Rows of one bin and one k."""
    chance = chance_of(right[part].sum(1), right.shape[1], (k,))[f"recall@{k}"]
    hits = {
        # ties count as they would on average if they were broken at random
        source: np.clip((k - ahead) / (tied + 1), 0, 1)[part]
        for source, (ahead, tied) in ranks.items()
    }
    if kind:
        hits["gain"] = hits[kind] - hits["one"]
    intervals = resampled(np.stack(list(hits.values()), 1), picture_Q[part], draws, seed)
    rows = []
    for (source, hit), interval in zip(hits.items(), intervals):
        gain = source == "gain"
        rows.append(
            {
                "source": source,
                "target": name,
                "metric": f"recall@{k}" + (" gained" if gain else ""),
                "value": float(hit.mean()),
                "chance": 0.0 if gain else chance,
                "n": int(part.sum()),
                "interval": list(interval),
            }
        )
    return rows


def _fields(test: Embedded, words: str, pictures: str) -> tuple[str, str]:
    forward = test.perturbed_forward
    fields = forward.encoder.fields if forward is not None else {}
    known = modalities.every()  # without an encoder a source's name says what it is
    modality: dict[str, Any] = {s: fields.get(s, known.get(s)) for s in test.sources}
    wanted: dict[str, tuple[str, Callable[[Modality], bool]]] = {
        "words": (words, lambda m: m.takes_prompts),
        "pictures": (pictures, lambda m: m.layout == "grid"),
    }
    chosen = []
    for option, (name, fits) in wanted.items():
        if name and name not in test.sources:
            raise unknown("field of these records", name, test.sources)
        fitting = [name] if name else [s for s, m in modality.items() if m is not None and fits(m)]
        if not fitting:
            raise NotApplicable(
                f"it needs a field of {option}, or `{option}` naming one; "
                f"there are {', '.join(test.sources)}"
            )
        chosen.append(fitting[0])
    if chosen[0] == chosen[1]:
        raise AmodalError(f"words and pictures are both {chosen[0]!r}; name two fields")
    return chosen[0], chosen[1]


def _content(test: Embedded, field: str, column: Column) -> np.ndarray:
    """(n,) int64, equal where values are."""
    if field not in test.content:
        return column.rows.numpy()
    place = np.searchsorted(test.aligned[field].rows.numpy(), column.rows.numpy())
    return test.content[field].numpy()[place]


def _right(
    test: Embedded, query_field: str, queries: Column, picture_Q: np.ndarray, gallery: int
) -> np.ndarray:
    """(Q, G) bool: which pictures are right for each query."""
    right = np.zeros((len(picture_Q), gallery), dtype=bool)
    right[np.arange(len(picture_Q)), picture_Q] = True
    texts = _content(test, query_field, queries)
    for text in np.unique(texts):
        same = texts == text
        right[same] |= right[same].any(0)
    forward = test.perturbed_forward
    if "objects" in test.labels and forward is not None:
        objects: list[set[str]] = [set() for _ in range(gallery)]
        for picture, value in zip(picture_Q, test.labels["objects"][queries.rows.numpy()]):
            objects[picture] |= {o.strip().lower() for o in (value or "").split(";")}
        for i, row in enumerate(queries.rows.tolist()):
            words = forward.dataset.raw(int(forward.indices[row]), query_field)
            right[i] |= [str(words).strip().lower() in names for names in objects]
    return right


@torch.no_grad()
def _by_parts(
    test: Embedded,
    query_field: str,
    gallery_field: str,
    rows: np.ndarray,
    pictures: np.ndarray,
    grid: int,
) -> tuple[str, Tensor] | None:
    """("multi_vector" or "regions", (Q, G) scores by late interaction); None without an encoder, or
    for one that gives no regions."""
    forward = test.perturbed_forward
    if forward is None:
        return None
    encoder, kind = forward.encoder, "multi_vector"
    multi_vector = encoder.multi_vector
    if not isinstance(multi_vector, MultiVector) or multi_vector.query_field != query_field:
        plain = (
            isinstance(encoder, Encoder)
            and encoder.heads is not None
            and encoder.similarity == "cosine"
        )
        if grid < 2 or not plain:
            return None
        kind, multi_vector = "regions", MultiVector("regions", query_field, grid)
    _, z, _, _ = embed_multi_vector(
        encoder,
        forward.dataset.select([gallery_field]),
        forward.indices[pictures],
        batch=forward.batch,
        device=forward.device,
        multi_vector=multi_vector,
    )
    query = _query_vectors(forward, multi_vector, query_field, forward.indices[rows])
    gallery = z[gallery_field].values
    if not isinstance(gallery, Ragged):
        raise AmodalError(f"{gallery_field!r} has one vector for each value")
    parts = Ragged(gallery.flat.float(), gallery.lengths)
    cells = max(1, int(query.lengths.max()) * int(parts.lengths.max()))
    step = max(1, MAX_PRODUCTS // (8 * cells))
    blocks = [
        late_interaction(query, parts[torch.arange(start, min(start + step, len(parts)))], tile=8)
        for start in range(0, len(parts), step)
    ]
    return kind, torch.cat(blocks, 1) / query.lengths[:, None]


def _query_vectors(
    forward: PerturbedForward, multi_vector: MultiVector, query_field: str, indices: np.ndarray
) -> Ragged:
    lists = []
    with eval_mode(forward.encoder):
        dataset = forward.dataset.select([query_field])
        for part in sequential_loader(dataset, indices, forward.batch):
            part = part.to(forward.device)
            query = multi_vector.of_query(as_encoder(forward.encoder), part, query_field)
            lists.append(query.to("cpu"))
    return Ragged(torch.cat([q.flat.float() for q in lists]), torch.cat([q.lengths for q in lists]))


def ranks_of(scores_QG: Tensor, right_QG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the best right picture of each query ranks.

    Args:
        scores_QG: Of each picture for each query.
        right_QG: bool, which pictures are right.

    Returns:
        Two (Q,) float64: how many wrong pictures score higher than the best right one, and how many
        score the same.
    """
    right = torch.from_numpy(right_QG)
    best = scores_QG.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    ahead, tied = ((where & ~right).sum(1) for where in (scores_QG > best, scores_QG == best))
    return ahead.double().numpy(), tied.double().numpy()


def _all_bins(
    test: Embedded,
    rows: np.ndarray,
    share: np.ndarray,
    sizes: Sequence[float],
    counts: Sequence[float],
) -> dict[str, np.ndarray]:
    """Name of a bin -> (Q,) bool."""
    bins = {"all": np.ones(len(rows), dtype=bool)}
    bins |= bins_of(share, sizes, "covering {} of the picture", lambda v: f"{100 * v:g} %")
    if "count" in test.labels:
        number = np.array([number_of(v) for v in test.labels["count"][rows]])
        bins |= bins_of(number, counts, "{} things in the picture", lambda v: f"{v:g}")
    return bins


def resampled(hits_QM: np.ndarray, picture_Q: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Intervals of means over queries.

    Args:
        hits_QM: What each query contributes to M means.
        picture_Q: The picture of each query. A draw takes pictures with all their queries.
        draws: Of the bootstrap, 0 for none.
        seed: Of the draws.

    Returns:
        (M, 2) 95 % intervals, NaN without draws.
    """
    _, owner = np.unique(picture_Q, return_inverse=True)
    pictures = owner.max() + 1
    total = np.stack([np.bincount(owner, h, pictures) for h in hits_QM.T], 1)
    count = np.bincount(owner, minlength=pictures)
    rng, means = np.random.default_rng(seed), []
    for _ in range(draws):
        # how often each picture is drawn weighs its totals, which are added up once
        drawn = np.bincount(rng.integers(pictures, size=pictures), minlength=pictures)
        means.append(drawn @ total / (drawn @ count))
    if not draws:
        return np.full((hits_QM.shape[1], 2), np.nan)
    return np.asarray(np.quantile(np.stack(means), (0.025, 0.975), axis=0).T)


class SmallObjects(Protocol):
    """Small objects in pictures, found by words."""

    name, needed = "small_objects", (no_record, every_record)
    reads_tokens = True
    default = False
    measure = staticmethod(small_objects)
    headlines = ("recall@1", "recall@1 gained")

    def shortened(self, rows: Sequence[Row]) -> list[Row]:
        """All of them: intervals are not averaged."""
        return list(rows)

    def draw(self, result: Result, path: Path) -> Path:
        """See `Protocol.draw`."""
        from amodal.evaluate.small_objects_picture import small_objects as picture

        return picture(result.rows, path)


PROTOCOL = SmallObjects()
