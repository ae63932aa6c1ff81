"""Structured summaries: their fields, validation, the prompt for one, and the parser of an answer.

After CS-PaperSum (row 35 of the catalogue), whose own names of fields and prompt are not known for
certain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amodal.core import AmodalError
from amodal.errors import nearest

Summary = dict[str, "str | tuple[str, ...]"]


@dataclass(frozen=True)
class Part:
    """One field of a summary.

    Attributes:
        name: an identifier.
        about: what belongs there, for people and for a language model.
        needed: every summary has it.
        many: a tuple of short texts, such as keywords.
        most: words of each text, at most.
        cues: beginnings of words by which an extractive summariser recognises its sentences.
    """

    name: str
    about: str
    needed: bool = False
    many: bool = False
    most: int = 150
    cues: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name as a heading."""
        return self.name.replace("_", " ").capitalize()


PARTS = (
    Part("key_takeaways", "what a reader should take away, in one to three sentences", needed=True),
    Part(
        "importance", "why the problem matters",
        cues=("important", "challeng", "critical", "essential", "crucial", "difficult", "lack"),
    ),
    Part(
        "method", "what is proposed and how it works",
        cues=("propose", "present", "introduc", "approach", "method", "we develop", "novel"),
    ),
    Part(
        "performance", "how it was evaluated and the figures",
        cues=("result", "accura", "outperform", "evaluat", "experiment", "percent", "%"),
    ),
    Part(
        "effectiveness", "what follows from the results",
        cues=("effective", "improve", "demonstrat", "conclu", "significant", "show that"),
    ),
    Part(
        "future_work", "what is left to do",
        cues=("future", "plan to", "remain", "limitation", "further work", "open question"),
    ),
    Part("keywords", "three to ten terms of the field", needed=True, many=True, most=6),
)  # fmt: skip


def validate_summary(summary: Mapping[str, object], parts: Sequence[Part] = PARTS) -> Summary:
    """The summary with white space normalised and its fields in the order of `parts`.

    Empty fields that are not needed are left out.

    Args:
        summary: field -> text or list of texts.
        parts: the fields.

    Raises:
        AmodalError: names every error: unknown fields (with the nearest), missing, too long, of
            another type, or duplicates in a list.
    """
    known, errors, valid = {p.name: p for p in parts}, [], {}
    for name in summary:
        if name not in known:
            close = nearest(str(name), known)
            errors.append(
                f"there is no field {name!r}"
                + (f"; did you mean {' or '.join(close)}?" if close else "")
            )
    for name, part in known.items():
        value = summary.get(name)
        try:
            texts = _texts(value, part)
        except AmodalError as error:
            errors.append(str(error))
            continue
        if texts:
            valid[name] = tuple(texts) if part.many else texts[0]
        elif part.needed:
            close = [n for n in nearest(name, map(str, summary)) if n not in known]
            errors.append(
                f"the field {name!r} is missing" + (f" ({close[0]!r} is there)" if close else "")
            )
    if errors:
        raise AmodalError(
            f"{'; '.join(errors)}. The fields are {', '.join(_describe(p) for p in parts)}."
        )
    return valid


def build_prompt(title: str, text: str, parts: Sequence[Part] = PARTS) -> str:
    """The prompt for a language model, the same for every paper but for its title and text."""
    lines = "\n".join(f"{p.label}: <{p.about}{_constraints(p)}>" for p in parts)
    return (
        "Summarise the paper below. Use only what it says. Answer with exactly these labelled "
        "lines, in this order and nothing else; where "
        "the paper says nothing about one that is optional, leave that line "
        f"out.\n\n{lines}\n\nTitle: {title}\n\nText: {text}\n\nAnswer:\n"
    )


def parse_answer(answer: str, parts: Sequence[Part] = PARTS) -> Summary:
    """The summary in an answer of labelled lines.

    "Future work: …", also "**Future work:** …" or "- future_work: …". Lines without a label
    continue the one before.

    Args:
        answer: of the language model.
        parts: the fields.

    Raises:
        AmodalError: as in `validate_summary`, and for words before the first label, labels of no
            field and labels that occur twice.
    """
    names = {re.sub(r"[\W_]+", " ", p.name): p for p in parts}
    lines_of: dict[str, list[str]] = {}
    errors, current = [], None
    for line in answer.splitlines():
        if not line.strip():
            continue
        mark = LABEL.match(line)
        name = re.sub(r"[\W_]+", " ", mark[1]).strip().lower() if mark else ""
        if mark and name in names:
            current = names[name].name
            if current in lines_of:
                errors.append(f"the label {mark[1].strip()!r} stands twice")
            lines_of.setdefault(current, []).append(mark[2])
        elif mark and (mark[1][:1].isupper() or "_" in mark[1]) and len(name.split()) <= 3:
            close = [names[n].label for n in nearest(name, names)]
            errors.append(
                f"no field is called {mark[1].strip()!r}"
                + (f"; did you mean {' or '.join(close)}?" if close else "")
            )
            current = ""
        elif current is None:
            errors.append(f"there are words before the first label: {line.strip()[:60]!r}")
            current = ""
        elif current:
            lines_of[current].append(line)
    if errors:
        raise AmodalError(
            f"{'; '.join(errors)}. The labels are {', '.join(p.label for p in parts)}."
        )
    many = {p.name for p in parts if p.many}
    return validate_summary(
        {n: _split(lines) if n in many else " ".join(lines) for n, lines in lines_of.items()}, parts
    )


LABEL = re.compile(
    r"\s*(?:[-*•#>]+\s+)?(?:\*\*|__)?\s*([^\W\d_][\w /-]{1,40}?)"
    r"\s*(?:\*\*|__)?\s*:(?:\*\*|__)?\s*(.*)$"
)


def _split(lines: Sequence[str]) -> list[str]:
    pieces = (
        re.sub(r"^[-*•\s]+|[.\s]+$", "", piece)
        for line in lines
        for piece in re.split(r"[,;]", line)
    )
    return [p for p in pieces if p]


def _texts(value: object, part: Part) -> list[str]:
    if value is None:
        return []
    if part.many and isinstance(value, str):
        raise AmodalError(f"{part.name!r} is a list of texts, not one text")
    values: list[object] = list(value) if part.many and isinstance(value, Sequence) else [value]
    if wrong := [type(v).__name__ for v in values if not isinstance(v, str)]:
        raise AmodalError(
            f"{part.name!r} is {'a list of texts' if part.many else 'a text'}, not {wrong[0]}"
        )
    texts = [t for t in (" ".join(v.split()) for v in values if isinstance(v, str)) if t]
    if len({t.lower() for t in texts}) < len(texts):
        raise AmodalError(f"{part.name!r} says the same twice")
    if long := next((t for t in texts if len(t.split()) > part.most), None):
        raise AmodalError(
            f"{part.name!r} has {len(long.split())} words where {part.most} are the most: "
            f"{long[:40]!r} …"
        )
    return texts


def _constraints(part: Part) -> str:
    length = "separated by commas" if part.many else f"at most {part.most} words"
    return f"; {length}" + ("" if part.needed else "; optional")


def _describe(part: Part) -> str:
    return part.name + (" (needed)" if part.needed else "")
