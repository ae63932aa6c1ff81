"""Quality of the summaries of a collection of papers, and what the collection is about.

After CS-PaperSum (row 35 of the catalogue): similarity of each paper and its summary by vectors and
by keywords, against shuffled pairs, in all and by venue and year; topics over the years; near
duplicates; search in one field of the summaries.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from amodal.console import Printed
from amodal.core import AmodalError, unknown
from amodal.curate.shared.cells import cell_names, cells
from amodal.curate.shared.near import near_duplicates
from amodal.data import Dataset
from amodal.data import open as open_data
from amodal.diagnose.trends import Trend
from amodal.evaluate.paper_topics import by_venue, courses_of, plain, topics_of
from amodal.evaluate.row import Row
from amodal.evaluate.summaries import (
    Matched,
    TfIdf,
    compare_likeness,
    derangement,
    jaccard,
    keywords,
    mean_interval,
    unit,
)

Embed = Callable[[Sequence[str]], np.ndarray]
"""N texts -> (N, D) vectors."""
MIN_PAPERS = 20
"""Papers of a year below which a table does not show its shares."""


@dataclass(frozen=True)
class Papers(Printed):
    """The report.

    Args:
        keys: Of the N papers that have a summary.
        rows: One for all papers and one for each group with at least `least`: group, value, papers
            and, for `alignment` and `overlap`, the mean, its interval, the mean of shuffled pairs,
            the AUROC and its interval.
        alignment: Similarity of each paper and its summary by vectors.
        overlap: The same by keywords.
        trends: topic -> its trend over the years.
        years: year -> papers.
        shares: topic -> venue -> share of the venue's papers.
        duplicates: (key, key, Jaccard index) of papers that are nearly the same.
        without: Keys of papers without a summary or a text.
        texts: key -> field -> text of the summary, and `text` of the paper.
        embed: What made the vectors.
    """

    keys: list[str]
    rows: list[Row]
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
        """Papers whose summary may be another paper's.

        Args:
            share: By vectors, p is above this: a shuffled pair may well be as similar.

        Returns:
            Their keys, the worst first.
        """
        p = self.alignment.p
        return [self.keys[i] for i in np.argsort(-p, kind="stable") if p[i] > share]

    def find(self, words: str, part: str, k: int = 5) -> list[tuple[str, float, str]]:
        """Search in one field of the summaries.

        Args:
            words: The query.
            part: The field, or "text" for the papers themselves.
            k: How many papers.

        Returns:
            (key, cosine, text), best first.

        Raises:
            AmodalError: For a field that no summary has.
        """
        fields = {name for texts in self.texts.values() for name in texts}
        if part not in fields:
            raise unknown("field of these summaries", part, fields)
        have = [(key, texts[part]) for key, texts in self.texts.items() if texts.get(part)]
        vectors = unit(
            np.asarray(self.embed([words, *(text for _, text in have)]), dtype=np.float32)
        )
        cosine = vectors[1:] @ vectors[0]
        best = np.argsort(-cosine, kind="stable")[:k].tolist()
        return [(have[i][0], float(cosine[i]), have[i][1]) for i in best]

    def table(self, most: int = 10) -> RenderableType:
        """A table of the summaries' quality, and one of the topics.

        Args:
            most: Rows of each kind, the largest groups. `rows` and `trends` have all.
        """
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
        note = (
            f"{len(self.doubtful())} of {len(self.keys)} summaries may be another paper's; "
            f"{len(self.duplicates)} near duplicates"
        )
        note += f"; {len(self.without)} without a summary" if self.without else ""
        return Group(table, note, *([self._trend_table()] if self.trends else []))

    def _trend_table(self) -> Table:
        """The share of each topic in the first and last year with enough papers, and its trend."""
        years = list(self.years)
        enough = [i for i, n in enumerate(self.years.values()) if n >= MIN_PAPERS]
        shown = (enough[0], enough[-1]) if enough else (0, len(years) - 1)
        table = Table(
            "topic",
            *(str(years[i]) for i in shown),
            "a year",
            "q",
            title="share of papers",
            title_justify="left",
        )
        by_certainty = sorted(self.trends.items(), key=lambda t: (t[1].q, -abs(t[1].slope)))
        for name, trend in by_certainty:
            shares = (f"{trend.shares[i]:.2f}" for i in shown)
            table.add_row(name, *shares, f"{trend.slope:+.3f}", f"{trend.q:.3f}")
        return table

    def save(self, path: str | Path) -> None:
        """Write everything but the vectors as JSON, with an entry for each paper."""
        scores = zip(
            self.keys,
            self.alignment.likeness.tolist(),
            self.alignment.p.tolist(),
            self.overlap.likeness.tolist(),
        )
        papers = [
            {"key": k, "alignment": a, "p": p, "overlap": o, "summary": self.texts[k]}
            for k, a, p, o in scores
        ]
        courses = {
            name: asdict(one) | {"shares": one.shares.tolist()} for name, one in self.trends.items()
        }
        about = {"rows": self.rows, "years": self.years, "trends": courses, "shares": self.shares}
        content = about | {"duplicates": self.duplicates, "without": self.without, "papers": papers}
        Path(path).write_text(
            json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )


def papers(
    dataset: Any,
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
    """Make the report of a collection and its summaries.

    Shuffled pairs are drawn once over the whole collection.

    Args:
        dataset: A Dataset or what `amodal.open` takes.
        summaries: key -> fields, or one text, as `cs_papersum` makes them.
        title: Name of the title in the data.
        text: Name of the text.
        by: Names to group by, venue and year unless set.
        year: Name of the year.
        venue: Name of the venue.
        topics: Name -> words of which a paper has one, or how many of the most frequent keywords
            are topics.
        embed: Texts -> vectors, such as `amodal.train.packaged.sentence_encoder()`; TF-IDF of these
            papers and summaries unless set.
        most: Keywords of a text.
        least: Papers below which a group has no row.
        same: Jaccard index of near duplicates.
        draws: Of the bootstrap.
        seed: Of draws and shuffling.

    Raises:
        AmodalError: For unknown names, and for fewer than two papers with a summary.
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
    if unmatched := sorted(set(summaries) - set(dataset.keys)):
        raise unknown(
            "paper of this collection",
            unmatched[0],
            dataset.keys,
            f"{len(unmatched)} summaries are of none.",
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
    short, other = [_prose(summaries[k]) for k in keys], derangement(len(rows), seed)
    embed = TfIdf([*original, *short]) if embed is None else embed
    a, b = (unit(np.asarray(embed(texts), dtype=np.float32)) for texts in (original, short))
    alignment = compare_likeness((a * b).sum(1), (a * b[other]).sum(1), draws=draws, seed=seed)
    words, short_words = keywords(original, most), keywords(short, most)
    likeness, null = (
        [jaccard(x, short_words[j]) for x, j in zip(words, order)]
        for order in (range(len(rows)), other.tolist())
    )
    overlap = compare_likeness(np.array(likeness), np.array(null), draws=draws, seed=seed)
    report_rows = [_row("all", "", np.arange(len(rows)), alignment, overlap, draws, seed)]
    for name in by:
        values = [columns[name][i] for i in rows]
        report_rows += _groups(name, values, least, alignment, overlap, draws, seed)
    whole = [f"{head[i]}\n{body[i]}" for i in rows]
    has = topics_of(whole, words, topics)
    years, courses = courses_of(
        has, [columns[year][i] for i in rows] if year in columns else [], seed
    )
    shares = by_venue(has, [columns[venue][i] for i in rows] if venue in columns else [])
    twice = [(keys[i], keys[j], index) for i, j, index in near_duplicates(whole, same)]
    texts = {k: _fields(summaries[k]) | {"text": t} for k, t in zip(keys, original)}
    without = [k for k in dataset.keys if k not in texts]
    return Papers(
        keys=keys,
        rows=report_rows,
        alignment=alignment,
        overlap=overlap,
        trends=courses,
        years=years,
        shares=shares,
        duplicates=twice,
        without=without,
        texts=texts,
        embed=embed,
    )


def _row(
    group: str,
    value: str,
    members: np.ndarray,
    alignment: Matched,
    overlap: Matched,
    draws: int,
    seed: int,
) -> Row:
    """One row of the report, of the papers in `members`."""
    row: Row = {"group": group, "value": value, "papers": len(members)}
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
    values: Sequence[str | float | None],
    least: int,
    alignment: Matched,
    overlap: Matched,
    draws: int,
    seed: int,
) -> list[Row]:
    """Rows of each value that at least `least` papers have."""
    counts = Counter(v for v in values if v is not None)
    rows = []
    for value in sorted((v for v, n in counts.items() if n >= least), key=plain):
        members = np.array([i for i, v in enumerate(values) if v == value])
        rows.append(_row(name, plain(value), members, alignment, overlap, draws, seed))
    return rows


def _fields(summary: Mapping[str, object] | str) -> dict[str, str]:
    if isinstance(summary, str):
        return {"summary": summary}
    return {
        name: v if isinstance(v, str) else ", ".join(cast(Iterable[str], v))
        for name, v in summary.items()
    }


def _prose(summary: Mapping[str, object] | str) -> str:
    """The fields one after the other, each text once."""
    return " ".join(dict.fromkeys(t.strip() for t in _fields(summary).values() if t.strip()))


def _largest(rows: Sequence[Row], most: int) -> list[Row]:
    """Those of a group that are among its `most` with the most papers, in the order of `rows`."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda r: -r["papers"]):
        groups.setdefault(row["group"], []).append(row)
    return [row for row in rows if any(row is r for r in groups[row["group"]][:most])]


def _score_cells(score: Row) -> tuple[str, str, str, str]:
    low, high = score["auroc_interval"]
    return (
        f"{score['mean']:.3f}",
        f"{score['shuffled']:.3f}",
        f"{score['auroc']:.3f}",
        f"{low:.2f} … {high:.2f}",
    )
