"""Sections of a report, and its sentences about a topic, by regular expressions.

What row 55 of the catalogue takes from radiology reports to pair with images; sections by heading
as in MIMIC-CXR (Johnson et al. 2019, arXiv:1901.07042).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

HEADINGS = (
    "examination", "exam", "indication", "clinical history", "history", "technique", "comparison",
    "findings", "impression", "conclusion", "recommendation", "lungs", "lungs and airways",
    "pleura", "heart", "mediastinum", "bones", "abdomen",
)  # fmt: skip
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])|\n+")


def report_sections(report: str, *, headings: Sequence[str] = HEADINGS) -> dict[str, str]:
    """Split a report at its headings.

    A heading begins a line and ends with a colon, in any case. One that occurs twice has both
    texts, a line each.

    Args:
        report: text.
        headings: to split at.

    Returns:
        Heading in lower case -> its text, in the order of the report; "" for the text before the
        first heading.
    """
    longest = sorted(headings, key=len, reverse=True)
    heading = re.compile(
        rf"^[ \t]*({'|'.join(map(re.escape, longest))})[ \t]*:", re.IGNORECASE | re.MULTILINE
    )
    marks = list(heading.finditer(report))
    sections = {"": report[: marks[0].start() if marks else len(report)]}
    for mark, end in zip(marks, [m.start() for m in marks[1:]] + [len(report)]):
        name = mark[1].lower()
        sections[name] = "\n".join(
            filter(None, [sections.get(name, ""), report[mark.end() : end].strip()])
        )
    return {name: text.strip() for name, text in sections.items() if text.strip()}


def sentences_about(text: str, words: Iterable[str]) -> list[str]:
    """The sentences that contain one of some words.

    Args:
        text: of the report.
        words: words or phrases ("ground-glass opacity"), as wholes, in any case.
    """
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})(?:s|es)?\b", re.IGNORECASE)
    return [s.strip() for s in SENTENCE.split(text) if pattern.search(s)]
