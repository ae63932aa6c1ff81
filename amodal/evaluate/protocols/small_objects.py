"""Find the picture by words about one thing in it, by how much of the picture the thing covers and
how much else there is.

The question of SORCE-1K (Liu et al. 2025, arXiv:2505.24441), for any data, any two fields and any
method. A record is a picture, words about one thing in it, and one of two labels: `area`, the
thing's share of the picture, or `box`, JSON of [left, top, right, bottom] as shares of the sides,
or in pixels with the picture's width and height behind them. `count`, if it is there, is how many
things there are, and `objects` names all of them with "; " between: a picture that names the very
words of a query is right too, as is one that another record has them with. Pictures that are equal
are one picture of the gallery.

`source` says by which vectors: "one" for each value; "several" where the encoder gives several for
search (`Encoder.several`), else "regions": the whole and the cells of a grid, of the encoder as it
is. "gain" is the difference. `target` says of which queries. Intervals are 95 %, from resampling
pictures, with the queries that ask for them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal import modalities
from amodal.core import AmodalError, Column, Ragged, unknown
from amodal.core.column import both
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.retrieval import _chance
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded, embed_multi_vector
from amodal.inference.forward_passes import evaluating, in_order
from amodal.nn.encoder import Encoder
from amodal.nn.multi_vector import MultiVector
from amodal.objectives.late_interaction import late_interaction

LEAST = 5
"""Queries below which a bin is left out."""
MATRIX = 2**24


def small_objects(
    train: Embedded | None,
    test: Embedded,
    *,
    words: str = "",
    pictures: str = "",
    sizes: Sequence[float] = (0.01, 0.03, 0.1),
    counts: Sequence[float] = (2, 4, 8),
    grid: int = 2,
    at: Sequence[int] = (1, 5, 10),
    draws: int = 1000,
    seed: int = 0,
) -> Result:
    """words: the field that asks, the first text unless given; pictures: the one that is found, the
    first picture unless given; sizes: edges of bins of the share that a thing covers; counts: of
    the number of things; grid: cells along each axis, for encoders that give one vector; at: the k
    of Recall@k; draws: of the interval. `train` is not used."""
    asks, shown = _fields(test, words, pictures)
    share = areas(test)
    queries, seen = both(test.aligned[asks], test.aligned[shown])
    known = torch.from_numpy(np.isfinite(share[queries.rows.numpy()]))
    queries, seen = queries.at(known), seen.at(known)
    if len(queries) < LEAST:
        raise NotApplicable(
            f"fewer than {LEAST} test records have {asks}, {shown} and how large the thing is"
        )
    rows = queries.rows.numpy()
    _, first, own = np.unique(_content(test, shown, seen), return_index=True, return_inverse=True)
    right = _right(test, asks, shown, queries, own, len(first))
    cosine = normalize(queries.values, dim=1) @ normalize(seen.values[first], dim=1).T
    ranks = {"one": ahead(cosine.abs() if test.unsigned else cosine, right)}
    kind, scores = _by_parts(test, asks, shown, rows, rows[first], grid)
    if kind:
        ranks[kind] = ahead(scores, right)
    bins = {"all": np.ones(len(rows), dtype=bool)}
    bins |= _bins(share[rows], sizes, "covering {} of the picture", lambda v: f"{100 * v:g} %")
    if "count" in test.labels:
        number = np.array([_number(v) for v in test.labels["count"][rows]])
        bins |= _bins(number, counts, "{} things in the picture", lambda v: f"{v:g}")
    found, gallery = [], right.shape[1]
    for name, part in bins.items():
        if part.sum() < LEAST:
            continue
        chance = _chance(right[part].sum(1), gallery, at)
        for k in at:
            hits = {
                source: np.clip((k - a) / (t + 1), 0, 1)[part] for source, (a, t) in ranks.items()
            }
            if kind:
                hits["gain"] = hits[kind] - hits["one"]
            intervals = resampled(np.stack(list(hits.values()), 1), own[part], draws, seed)
            for (source, hit), interval in zip(hits.items(), intervals):
                found.append({
                    "source": source, "target": name, "metric": f"recall@{k}" + (" gained" if source == "gain" else ""),
                    "value": float(hit.mean()), "chance": 0.0 if source == "gain" else chance[f"recall@{k}"],
                    "n": int(part.sum()), "interval": list(interval),
                })  # fmt: skip
    spec = {
        "words": asks,
        "pictures": shown,
        "sizes": list(sizes),
        "counts": list(counts),
        "at": list(at),
        "seed": seed,
    }
    several = {"several": kind, "grid": grid} if kind else {}
    return Result(
        "small_objects",
        spec | several | {"draws": draws, "queries": len(rows), "gallery": gallery},
        found,
    )


def _fields(test: Embedded, words: str, pictures: str) -> tuple[str, str]:
    fields = getattr(getattr(test.changed, "encoder", None), "fields", {})
    known = modalities.every()  # without an encoder a source's name says what it is
    modality = {s: fields.get(s, known.get(s)) for s in test.sources}
    wanted = {
        "words": (words, lambda m: m.takes_prompts),
        "pictures": (pictures, lambda m: m.layout == "grid"),
    }
    chosen = []
    for what, (given, fits) in wanted.items():
        if given and given not in test.sources:
            raise unknown("field of these records", given, test.sources)
        some = (
            [given]
            if given
            else [s for s in test.sources if modality[s] is not None and fits(modality[s])]
        )
        if not some:
            raise NotApplicable(
                f"it needs a field of {what}, or `{what}` naming one; there are {', '.join(test.sources)}"
            )
        chosen.append(some[0])
    if chosen[0] == chosen[1]:
        raise AmodalError(f"words and pictures are both {chosen[0]!r}; name two fields")
    return chosen[0], chosen[1]


def areas(test: Embedded) -> np.ndarray:
    """(N,) the share of its picture that the thing of each record covers, NaN where that is not
    known."""
    if "area" in test.labels:
        share = np.array([_number(v) for v in test.labels["area"]])
    elif "box" in test.labels:
        share = np.array([np.nan if v is None else area_of(v) for v in test.labels["box"]])
    else:
        raise NotApplicable(
            "it needs a label `area`, a share of the picture, or `box`; declare one in dataset.toml"
        )
    off = share[np.isfinite(share) & ((share <= 0) | (share > 1))]
    if len(off):
        raise AmodalError(
            f"a thing covers more than 0 and at most 1 of its picture, not {off[0]:g}; see `small_objects`"
        )
    return share


def area_of(box: str) -> float:
    """The share of a picture that a box covers. Raises AmodalError for what is no box."""
    try:
        left, top, right, bottom, *picture = map(float, json.loads(box))
        width, height = picture or (1.0, 1.0)
        share = (right - left) * (bottom - top) / (width * height)
        if right > left and bottom > top and (picture or max(right, bottom) <= 1):
            return share
    except (ValueError, TypeError, ZeroDivisionError):
        pass
    raise AmodalError(
        f"{str(box)[:60]!r} is no box: [left, top, right, bottom] as shares of the sides, or in pixels with the picture's width and height"
    )


def _number(value) -> float:
    try:
        return np.nan if value is None else float(value)
    except ValueError:
        raise AmodalError(f"{value!r} is no number; `area` and `count` are numbers") from None


def _content(test: Embedded, field: str, column: Column) -> np.ndarray:
    """(n,) int64, equal where values are."""
    if field not in test.content:
        return column.rows.numpy()
    return test.content[field].numpy()[
        np.searchsorted(test.aligned[field].rows.numpy(), column.rows.numpy())
    ]


def _right(
    test: Embedded, asks: str, shown: str, queries: Column, own: np.ndarray, gallery: int
) -> np.ndarray:
    """(Q, G) bool: which pictures show what each query says."""
    right = np.zeros((len(own), gallery), dtype=bool)
    right[np.arange(len(own)), own] = True
    said = _content(test, asks, queries)
    for text in np.unique(said):
        same = said == text
        right[same] |= right[same].any(0)
    if "objects" in test.labels and test.changed is not None:
        listed = [set() for _ in range(gallery)]
        for place, value in zip(own, test.labels["objects"][queries.rows.numpy()]):
            listed[place] |= {o.strip().lower() for o in (value or "").split(";")}
        for i, row in enumerate(queries.rows.tolist()):
            text = (
                str(test.changed.dataset.raw(int(test.changed.indices[row]), asks)).strip().lower()
            )
            right[i] |= [text in things for things in listed]
    return right


@torch.no_grad()
def _by_parts(
    test: Embedded, asks: str, shown: str, rows: np.ndarray, pictures: np.ndarray, grid: int
) -> tuple[str, Tensor | None]:
    """ "several" or "regions", and (Q, G) scores by late interaction; "" for records whose network
    is not at hand, or gives no regions."""
    if test.changed is None:
        return "", None
    rerun = test.changed
    encoder = rerun.encoder
    several = getattr(encoder, "multi_vector", None)
    kind = "several" if several is not None and several.query_field == asks else "regions"
    if kind == "regions":
        plain = (
            isinstance(encoder, Encoder)
            and encoder.heads is not None
            and encoder.similarity == "cosine"
        )
        if grid < 2 or not plain:
            return "", None
        several = MultiVector("regions", asks, grid)
    options = {"batch": rerun.batch, "device": rerun.device, "several": several}
    z = embed_multi_vector(
        encoder, rerun.dataset.select([shown]), rerun.indices[pictures], **options
    )[1]
    lists = []
    with evaluating(encoder):
        for part in in_order(rerun.dataset.select([asks]), rerun.indices[rows], rerun.batch):
            lists.append(several.of_query(encoder, part.to(rerun.device), asks).to("cpu"))
    query = Ragged(
        torch.cat([q.flat.float() for q in lists]), torch.cat([q.lengths for q in lists])
    )
    parts = Ragged(z[shown].values.flat.float(), z[shown].values.lengths)
    cells = max(1, int(query.lengths.max()) * int(parts.lengths.max()))
    step = max(1, MATRIX // (8 * cells))
    blocks = [
        late_interaction(query, parts[torch.arange(start, min(start + step, len(parts)))], tile=8)
        for start in range(0, len(parts), step)
    ]
    return kind, torch.cat(blocks, 1) / query.lengths[:, None]


def ahead(scores_QG: Tensor, right_QG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two (Q,) float64: how many wrong pictures score higher than the best right one, and how many
    score as high."""
    right = torch.from_numpy(right_QG)
    best = scores_QG.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return tuple(
        ((way & ~right).sum(1)).double().numpy() for way in (scores_QG > best, scores_QG == best)
    )


def _bins(values: np.ndarray, edges: Sequence[float], name: str, shown) -> dict[str, np.ndarray]:
    """What lies below the first edge, between each two, and from the last on. Raises AmodalError
    for edges that do not rise."""
    edges = list(edges)
    if not edges or any(b <= a for a, b in zip(edges, edges[1:])):
        raise AmodalError(f"edges of bins rise, and there is at least one; got {edges}")
    bounds = [-np.inf, *edges, np.inf]
    named = [
        f"below {shown(edges[0])}",
        *(f"{shown(a)} to {shown(b)}" for a, b in zip(edges, edges[1:])),
        f"from {shown(edges[-1])}",
    ]
    return {
        name.format(n): (values >= a) & (values < b) for n, a, b in zip(named, bounds, bounds[1:])
    }


def resampled(hits_QM: np.ndarray, picture_Q: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(M, 2) 95 % intervals of means of columns, from drawing pictures with all their queries
    rerun."""
    _, at = np.unique(picture_Q, return_inverse=True)
    many = at.max() + 1
    total = np.stack([np.bincount(at, h, many) for h in hits_QM.T], 1)
    count = np.bincount(at, minlength=many)
    rng, means = np.random.default_rng(seed), []
    for _ in range(draws):
        drawn = np.bincount(rng.integers(many, size=many), minlength=many)
        means.append(drawn @ total / (drawn @ count))
    return (
        np.quantile(np.stack(means), (0.025, 0.975), axis=0).T
        if draws
        else np.full((hits_QM.shape[1], 2), np.nan)
    )


class SmallObjects(Protocol):
    """Small things in pictures, found by words."""

    name = "small_objects"
    default = False
    measure = staticmethod(small_objects)
    headlines = ("recall@1", "recall@1 gained")

    def shortened(self, rows: Sequence[dict]) -> list[dict]:
        """All of them: intervals are not averaged."""
        return list(rows)

    def draw(self, result: Result, path: Path) -> Path:
        from amodal.evaluate.small_objects_picture import small_objects as picture

        return picture(result.rows, path)


PROTOCOL = SmallObjects()
