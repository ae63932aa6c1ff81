"""The sections of a report, and its sentences about something: regular expressions, for reports
that are written under headings.

What row 55 of the catalogue takes from radiology reports to pair with pictures; sections by heading
as in MIMIC-CXR (Johnson et al. 2019, arXiv:1901.07042).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

HEADINGS = (
    "examination", "exam", "indication", "clinical history", "history", "technique", "comparison", "findings", "impression",
    "conclusion", "recommendation", "lungs", "lungs and airways", "pleura", "heart", "mediastinum", "bones", "abdomen",
)  # fmt: skip
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])|\n+")


def report_sections(report: str, *, headings: Sequence[str] = HEADINGS) -> dict[str, str]:
    """heading in lower case -> its text, in the order of the report; "" -> what stands before the
    first. A heading begins a line and ends with a colon, in any case; one that occurs twice has
    both texts, a line each."""
    longest = sorted(headings, key=len, reverse=True)
    heading = re.compile(
        rf"^[ \t]*({'|'.join(map(re.escape, longest))})[ \t]*:", re.IGNORECASE | re.MULTILINE
    )
    marks = list(heading.finditer(report))
    found = {"": report[: marks[0].start() if marks else len(report)]}
    for mark, end in zip(marks, [m.start() for m in marks[1:]] + [len(report)]):
        name = mark[1].lower()
        found[name] = "\n".join(
            filter(None, [found.get(name, ""), report[mark.end() : end].strip()])
        )
    return {name: text.strip() for name, text in found.items() if text.strip()}


def sentences_about(text: str, words: Iterable[str]) -> list[str]:
    """The sentences in which one of `words` (which may be several words, "ground-glass opacity")
    stands as a whole, in any case."""
    wanted = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})(?:s|es)?\b", re.IGNORECASE)
    return [s.strip() for s in SENTENCE.split(text) if wanted.search(s)]
