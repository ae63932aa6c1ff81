"""FOLDOC: entries of the Free On-line Dictionary of Computing, each a term, a text, a category and
the year of its last change.

Written by people since 1985, edited by Denis Howe. Entries with a date, a category and four
sentences or more of prose; `term` is the headword, `text` what stands under it, paragraphs apart,
without those that are nothing but a link. Label `category` is the first of the entry's, `also` the
others; `year` is of the last change, so that a year's entries are what was being written about, not
what was new.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from amodal.data.fetch import Debian
from amodal.data.sets.shared.archives import deb
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Debian(
        "dict-foldoc",
        "20250211-1",
        "136ba51701058a645d9d96a268b4f5646335555649c04b68ac4a17324a54afd3",
        2.4,
    ),
)
LICENCE = "GFDL-1.1 or later"
RECORDS = 3021
LEAST, ITSELF = 4, "introduction"
DIGITS = {
    c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}
CATEGORY, DATE = re.compile(r"<([a-z][^<>@]*)>"), re.compile(r"\((\d{4})-\d\d-\d\d\)\s*$")
REFERENCE = re.compile(
    r"\[.*\]|\{?\(?(?:https?|ftp)://.*|\{[^{}]*\s\((?:https?|ftp)://[^{}]*\}\.?", re.S
)
SENTENCE = re.compile(r"[.!?](?=\s+[A-Z]|$)")


def write(out: Path, archives: list[Path]) -> None:
    files = {
        path.rpartition("/")[2]: content for path, content in deb(archives[0], "usr/share/dictd/")
    }
    by_term: dict[str, Entry] = {}
    for term, body in entries(
        gzip.decompress(files["foldoc.dict.dz"]), files["foldoc.index"].decode("utf-8")
    ):
        if (parsed := entry(body)) is not None and parsed[1] != ITSELF:
            by_term.setdefault(term, parsed)
    names = ("text", "category", "also", "year")
    columns = dict(zip(names, map(list, zip(*by_term.values()))))
    records(out, {"key": list(by_term), "term": list(by_term)} | columns)
    labels = {"category": "category", "also": "category", "year": "number"}
    described = {"title": "FOLDOC: a dictionary of computing", "licence": LICENCE}
    describe(out, {"term": field("text"), "text": field("text")}, labels, **described)


def entries(content: bytes, index: str) -> Iterator[tuple[str, str]]:
    """The entries of a dictionary of dictd, in its order.

    Args:
        content: of the dictionary.
        index: a line for each term: the term, where its entry begins and how long it is, in bytes,
            as digits of base 64. Terms may share an entry.

    Yields:
        (headword, what stands under it).
    """
    places = {
        tuple(map(_number, line.split("\t")[1:3]))
        for line in index.splitlines()
        if line.count("\t") >= 2
    }
    for begin, length in sorted(places):
        head, _, body = content[begin : begin + length].decode("utf-8", "replace").partition("\n")
        yield head.strip(), body


Entry = tuple[str, str, str | None, float]
"""Text, first category, the other ones, year."""


def entry(body: str) -> Entry | None:
    """Parse an entry; None where something is missing or the text is short."""
    category, date = CATEGORY.search(body), DATE.search(body.rstrip())
    if category is None or date is None:
        return None
    paragraphs = [
        " ".join(p.split()) for p in re.split(r"\n\s*\n", body[category.end() : date.start()])
    ]
    prose = [re.sub(r"[{}]", "", p) for p in paragraphs if p and not REFERENCE.fullmatch(p)]
    text = "\n\n".join(prose)
    first, *others = (name.strip() for name in " ".join(category[1].split()).split(","))
    if len(SENTENCE.findall(text)) < LEAST:
        return None
    return text, first, ", ".join(others) or None, float(date[1])


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number * 64 + DIGITS[digit]
    return number
