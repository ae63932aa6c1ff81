"""What the summaries of a collection of papers are worth, and what the collection is about: a
report beside the table of summaries.

After CS-PaperSum (row 35 of the catalogue): likeness of a paper and its summary by vectors and by
keywords, each against shuffled pairs, in all and by venue and year; topics over the years; papers
that stand there twice; search in one field of the summaries.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from amodal.core import AmodalError, unknown
from amodal.curate.shared.cells import cell_names, cells
from amodal.curate.shared.near import near_duplicates
from amodal.data import Dataset
from amodal.data import open as open_data
from amodal.diagnose.trends import Trend
from amodal.evaluate.paper_topics import by_venue, courses_of, plain, topics_of
from amodal.evaluate.summaries import (
    Matched,
    TfIdf,
    jaccard,
    judged,
    keywords,
    mean_interval,
    others,
    unit,
)

Embed = Callable[[Sequence[str]], np.ndarray]
"""N texts -> (N, D) vectors."""
ENOUGH = 20
"""Papers of a year whose share is worth a look."""


@dataclass(frozen=True)
class Papers:
    """keys: of the N papers that have a summary. rows: one for all and one for each group with
    `least` papers: group, value, papers, and for `alignment` and `overlap` the mean, its interval,
    the mean of shuffled pairs, the AUROC and its interval. alignment, overlap: of each paper.
    trends: topic -> its course over the years; years: year -> papers; shares: topic -> venue ->
    share of the venue's papers. duplicates: (key, key, Jaccard's index) of papers that are nearly
    the same. without: papers that have no summary or no text."""

    keys: list[str]
    rows: list[dict]
    alignment: Matched
    overlap: Matched
    trends: dict[str, Trend]
    years: dict[int, int]
    shares: dict[str, dict[str, float]]
    duplicates: list[tuple[str, str, float]]
    without: list[str]
    texts: dict[str, dict[str, str]] = field(repr=False)
    embed: Embed = field(repr=False)

    def doubtful(self, share: float = 0.05) -> list[str]:
        """Keys of papers whose summary is no more alike than a shuffled one may well be (p above
        `share` by vectors), the worst first."""
        p = self.alignment.p
        return [self.keys[i] for i in np.argsort(-p, kind="stable") if p[i] > share]

    def find(self, words: str, part: str, k: int = 5) -> list[tuple[str, float, str]]:
        """(key, cosine, text) of the k papers whose field `part` of the summary (or "text") is most
        like `words`. Raises AmodalError for a field that no summary has."""
        fields = {name for each in self.texts.values() for name in each}
        if part not in fields:
            raise unknown("field of these summaries", part, fields)
        have = [(key, each[part]) for key, each in self.texts.items() if each.get(part)]
        vectors = unit(
            np.asarray(self.embed([words, *(text for _, text in have)]), dtype=np.float32)
        )
        cosine = vectors[1:] @ vectors[0]
        return [
            (*have[i][:1], float(cosine[i]), have[i][1])
            for i in np.argsort(-cosine, kind="stable")[:k]
        ]

    def table(self, most: int = 10) -> RenderableType:
        """The `most` largest groups of each kind, and the topics, those that changed most surely
        first; `rows` and `trends` have all."""
        table = Table(title="summaries against their papers", title_justify="left")
        for column in (
            "",
            "papers",
            "alignment",
            "shuffled",
            "AUROC",
            "95 %",
            "keyword overlap",
            "shuffled",
            "AUROC",
            "95 %",
        ):
            table.add_column(column, justify="right" if column else "left")
        for row in _largest(self.rows, most):
            cells_ = [c for kind in ("alignment", "overlap") for c in _score_cells(row[kind])]
            table.add_row(f"{row['group']} {row['value']}".strip(), str(row["papers"]), *cells_)
        note = f"{len(self.doubtful())} of {len(self.keys)} summaries may be another paper's; {len(self.duplicates)} near duplicates"
        parts: list[RenderableType] = [
            table,
            note + (f"; {len(self.without)} without a summary" if self.without else ""),
        ]
        if self.trends:
            many = [i for i, n in enumerate(self.years.values()) if n >= ENOUGH] or range(
                len(self.years)
            )
            shown = (many[0], many[-1])
            courses = Table(
                "topic",
                *(str([*self.years][i]) for i in shown),
                "a year",
                "q",
                title="share of papers",
                title_justify="left",
            )
            for name, one in sorted(
                self.trends.items(), key=lambda item: (item[1].q, -abs(item[1].slope))
            ):
                courses.add_row(
                    name,
                    *(f"{one.shares[i]:.2f}" for i in shown),
                    f"{one.slope:+.3f}",
                    f"{one.q:.3f}",
                )
            parts.append(courses)
        return Group(*parts)

    def save(self, path: str | Path) -> None:
        """JSON: everything but the vectors; one entry a paper with its likeness, p and texts."""
        judged_ = zip(
            self.keys,
            self.alignment.likeness.tolist(),
            self.alignment.p.tolist(),
            self.overlap.likeness.tolist(),
        )
        each = [
            {"key": k, "alignment": a, "p": p, "overlap": o, "summary": self.texts[k]}
            for k, a, p, o in judged_
        ]
        courses = {
            name: asdict(one) | {"shares": one.shares.tolist()} for name, one in self.trends.items()
        }
        about = {"rows": self.rows, "years": self.years, "trends": courses, "shares": self.shares}
        content = about | {"duplicates": self.duplicates, "without": self.without, "papers": each}
        Path(path).write_text(
            json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )


def papers(
    dataset,
    summaries: Mapping[str, Mapping[str, object] | str],
    *,
    title: str = "title",
    text: str = "abstract",
    by: Sequence[str] | None = None,
    year: str = "year",
    venue: str = "venue",
    topics: Mapping[str, Sequence[str]] | int = 12,
    embed: Embed | None = None,
    most: int = 10,
    least: int = 5,
    same: float = 0.8,
    draws: int = 200,
    seed: int = 0,
) -> Papers:
    """The report of a collection and its summaries.

    dataset: a Dataset or what `amodal.open` takes; summaries: key -> fields or one text, such as
    `cs_papersum` makes. title, text, year, venue: names in the data; by: what to group by, of venue
    and year those that are there unless given. topics: name -> words of which a paper has one, or
    how many of the most frequent keywords are topics. embed: texts -> vectors, such as
    `amodal.train.packaged.sentence_encoder()`; TF-IDF of these papers and summaries unless given.
    most: keywords of a text; least: papers of a group with a row of its own; same: Jaccard's index
    of near duplicates; draws: of the bootstrap. Shuffled pairs are drawn once over the whole
    collection. Raises AmodalError for unknown names, and with fewer than two papers that have a
    summary.
    """
    dataset = dataset if isinstance(dataset, Dataset) else open_data(dataset)
    known_ = cell_names(dataset)
    by = [name for name in (venue, year) if name in known_] if by is None else list(by)
    columns = {name: cells(dataset, name) for name in {*by, *({year, venue} & known_)}}
    body = [str(t or "").strip() for t in cells(dataset, text)]
    head = (
        [str(t or "") for t in cells(dataset, title)]
        if title in known_ or title != "title"
        else [""] * len(body)
    )
    if strange := sorted(set(summaries) - set(dataset.keys)):
        raise unknown(
            "paper of this collection",
            strange[0],
            dataset.keys,
            f"{len(strange)} summaries are of none.",
        )
    rows = [
        i
        for i, key in enumerate(dataset.keys)
        if key in summaries and body[i] and _prose(summaries[key])
    ]
    if len(rows) < 2:
        raise AmodalError(
            f"papers needs two papers with a text and a summary, got {len(rows)} of {len(dataset)}"
        )
    keys, original = [dataset.keys[i] for i in rows], [body[i] for i in rows]
    short, other = [_prose(summaries[k]) for k in keys], others(len(rows), seed)
    embed = TfIdf([*original, *short]) if embed is None else embed
    a, b = (unit(np.asarray(embed(texts), dtype=np.float32)) for texts in (original, short))
    alignment = judged((a * b).sum(1), (a * b[other]).sum(1), draws=draws, seed=seed)
    said, short_words = keywords(original, most), keywords(short, most)
    own, null = (
        [jaccard(x, short_words[j]) for x, j in zip(said, order)]
        for order in (range(len(rows)), other)
    )
    overlap = judged(np.array(own), np.array(null), draws=draws, seed=seed)
    found = [_row("all", "", np.arange(len(rows)), alignment, overlap, draws, seed)]
    for name in by:
        found += _groups(
            name, [columns[name][i] for i in rows], least, alignment, overlap, draws, seed
        )
    whole = [f"{head[i]}\n{body[i]}" for i in rows]
    has = topics_of(whole, said, topics)
    years, courses = courses_of(
        has, [columns[year][i] for i in rows] if year in columns else [], seed
    )
    shares = by_venue(has, [columns[venue][i] for i in rows] if venue in columns else [])
    twice = [(keys[i], keys[j], index) for i, j, index in near_duplicates(whole, same)]
    texts = {k: _fields(summaries[k]) | {"text": t} for k, t in zip(keys, original)}
    without = [k for k in dataset.keys if k not in texts]
    return Papers(
        keys, found, alignment, overlap, courses, years, shares, twice, without, texts, embed
    )


def _row(
    group: str,
    value: str,
    members: np.ndarray,
    alignment: Matched,
    overlap: Matched,
    draws: int,
    seed: int,
) -> dict:
    row: dict = {"group": group, "value": value, "papers": len(members)}
    for name, whole in (("alignment", alignment), ("overlap", overlap)):
        part = whole.of(members, draws=draws, seed=seed)
        row[name] = {
            "mean": float(part.likeness.mean()),
            "interval": mean_interval(part.likeness, draws=draws, seed=seed),
            "shuffled": float(part.null.mean()),
            "auroc": part.auroc,
            "auroc_interval": part.interval,
        }
    return row


def _groups(
    name: str,
    values: Sequence,
    least: int,
    alignment: Matched,
    overlap: Matched,
    draws: int,
    seed: int,
) -> list[dict]:
    often = sorted(
        (v for v, n in Counter(v for v in values if v is not None).items() if n >= least), key=plain
    )
    at = {v: np.array([i for i, each in enumerate(values) if each == v]) for v in often}
    return [_row(name, plain(v), rows, alignment, overlap, draws, seed) for v, rows in at.items()]


def _fields(summary: Mapping[str, object] | str) -> dict[str, str]:
    if isinstance(summary, str):
        return {"summary": summary}
    return {name: v if isinstance(v, str) else ", ".join(v) for name, v in summary.items()}


def _prose(summary: Mapping[str, object] | str) -> str:
    """The fields one after the other, each text once."""
    return " ".join(dict.fromkeys(t.strip() for t in _fields(summary).values() if t.strip()))


def _largest(rows: Sequence[dict], most: int) -> list[dict]:
    """Those of a group that are among its `most` with the most papers, in the order of `rows`."""
    left: dict[str, list[dict]] = {}
    for row in sorted(rows, key=lambda r: -r["papers"]):
        left.setdefault(row["group"], []).append(row)
    return [row for row in rows if any(row is r for r in left[row["group"]][:most])]


def _score_cells(of: dict) -> tuple[str, str, str, str]:
    low, high = of["auroc_interval"]
    return (
        f"{of['mean']:.3f}",
        f"{of['shuffled']:.3f}",
        f"{of['auroc']:.3f}",
        f"{low:.2f} … {high:.2f}",
    )
