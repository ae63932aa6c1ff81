"""balance: no class, cluster or keyword with many more records than others."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from amodal.core import AmodalError
from amodal.selection.draws import uniform_of
from amodal.selection.pool import Pool, Scores

WORD = re.compile(r"\w+")


def balance(pool: Pool) -> Scores:
    """How likely a record is to be drawn if each entry may have t records at most, whatever t
    (MetaCLIP, Xu et al. 2024, arXiv:2309.16671). An entry of n records keeps each of them with
    probability min(1, t / n), and a record with many entries stays if one of them keeps it. The
    score is the least such t, negative. Records without an entry are the last to stay.

    Raises:
        AmodalError: Without anything to balance.
    """
    entries, what = _entries(pool)
    counts = Counter(entry for of in entries for entry in of)
    keys = [pool.dataset.keys[i] for i in pool.rows.tolist()]
    names = {entry: number for number, entry in enumerate(sorted(counts))}
    score = np.full(len(entries), -np.inf)
    for i, of in enumerate(entries):
        for entry in of:
            # a draw of its own for each entry of each record
            u = uniform_of([keys[i]], pool.settings.seed, names[entry])[0]
            score[i] = max(score[i], -u * counts[entry])
    none = sum(not of for of in entries)
    largest = ", ".join(f"{entry} ({count:,})" for entry, count in counts.most_common(3))
    return Scores(
        score=score,
        meaning=f"minus the number of records of one {what} from which on this one is drawn",
        columns={what: np.array(["; ".join(of) for of in entries], dtype=object)},
        notes=[
            f"{len(counts):,} different {what} entries, the largest are {largest}",
            *([f"{none:,} records have none"] if none else []),
        ],
    )


def _entries(pool: Pool) -> tuple[list[list[str]], str]:
    """The entries of each record, and what they are."""
    over, words = pool.settings.over, pool.settings.words
    if bool(over) == bool(words):
        raise AmodalError(
            "balance needs either what is to be balanced, --over LABEL or --over FILE.csv as "
            "`amodal cluster` writes it, or keywords, --words FILE.txt with one a line"
        )
    if words:
        return _keywords(pool, words), "keyword"
    if Path(over).suffix in (".csv", ".parquet"):
        cluster = _clusters(Path(over))
        keys = [pool.dataset.keys[i] for i in pool.rows.tolist()]
        if not any(key in cluster for key in keys):
            raise AmodalError(f"{over} has clusters of none of these records; are they other data?")
        return [[cluster[k]] if k in cluster else [] for k in keys], "cluster"
    values = pool.dataset.label(over, required=True)[pool.rows]
    if values.dtype.kind == "f":
        raise AmodalError(f"the label {over!r} is a number, and classes are balanced")
    return [[] if v is None else [str(v)] for v in values], over


def _keywords(pool: Pool, words: Sequence[str]) -> list[list[str]]:
    """The keywords in each text, whole words, as MetaCLIP pads them with blanks."""
    field = pool.text_field("balance")
    wanted = {tuple(WORD.findall(w.lower())): w for w in words if WORD.search(w)}
    longest = max(map(len, wanted), default=0)
    if not longest:
        raise AmodalError("there is no keyword: --words has no line with a letter in it")
    entries = []
    for text in pool.texts(field, pool.rows):
        parts = WORD.findall((text or "").lower())
        runs = {
            tuple(parts[i : i + n])
            for n in range(1, longest + 1)
            for i in range(len(parts) - n + 1)
        }
        entries.append(sorted(wanted[run] for run in runs & wanted.keys()))
    return entries


def _clusters(file: Path) -> dict[str, str]:
    """Key -> cluster, of a file of `amodal cluster`."""
    try:
        if file.suffix == ".csv":
            with file.open(newline="", encoding="utf-8") as opened:
                rows = list(csv.DictReader(opened))
        else:
            rows = pq.read_table(file).to_pylist()
    except (OSError, ValueError) as error:
        raise AmodalError(f"{file} cannot be read: {error}") from error
    if not rows or not {"key", "cluster"} <= set(rows[0]):
        raise AmodalError(f"{file} has no columns key and cluster; `amodal cluster --out` has")
    return {str(r["key"]): str(r["cluster"]) for r in rows if r["cluster"] not in (None, "")}
