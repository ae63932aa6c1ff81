"""What a structured summary consists of: labelled fields, a check of one, the question that asks
for one, and how an answer is read.

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
    """One field of a summary. name: an identifier; about: what belongs there, for people and for a
    language model; needed: every summary has it; many: a tuple of short texts, such as keywords;
    most: words at most, of each text; cues: beginnings of words by which a sentence shows that it
    belongs here, where nobody is asked but the text."""

    name: str
    about: str
    needed: bool = False
    many: bool = False
    most: int = 150
    cues: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").capitalize()


PARTS = (
    Part("key_takeaways", "what a reader should remember, in one to three sentences", needed=True),
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


def checked(summary: Mapping[str, object], parts: Sequence[Part] = PARTS) -> Summary:
    """The summary with white space made single, its fields in the order of `parts`, empty ones that
    are not needed left out. Raises AmodalError that names every fault: fields that are unknown
    (with the nearest), that are needed and not there, too long, of another type, or said twice in a
    list."""
    known, faults, kept = {p.name: p for p in parts}, [], {}
    for name in summary:
        if name not in known:
            close = nearest(str(name), known)
            faults.append(
                f"there is no field {name!r}"
                + (f"; did you mean {' or '.join(close)}?" if close else "")
            )
    for name, part in known.items():
        value = summary.get(name)
        try:
            texts = _texts(value, part)
        except AmodalError as fault:
            faults.append(str(fault))
            continue
        if texts:
            kept[name] = tuple(texts) if part.many else texts[0]
        elif part.needed:
            close = [n for n in nearest(name, map(str, summary)) if n not in known]
            faults.append(
                f"the field {name!r} is missing" + (f" ({close[0]!r} is there)" if close else "")
            )
    if faults:
        raise AmodalError(
            f"{'; '.join(faults)}. The fields are {', '.join(_told(p) for p in parts)}."
        )
    return kept


def question(title: str, text: str, parts: Sequence[Part] = PARTS) -> str:
    """What a language model is asked, the same for every paper but for its title and text."""
    lines = "\n".join(f"{p.label}: <{p.about}{_limits(p)}>" for p in parts)
    return (
        "Summarise the paper below. Use only what it says. Answer with exactly these labelled lines, in this order and nothing else; where "
        f"the paper says nothing about one that is optional, leave that line out.\n\n{lines}\n\nTitle: {title}\n\nText: {text}\n\nAnswer:\n"
    )


def answered(answer: str, parts: Sequence[Part] = PARTS) -> Summary:
    """The summary in an answer of labelled lines ("Future work: …", also "**Future work:** …" or "-
    future_work: …"); what stands under a label without one of its own goes on with it. Raises
    AmodalError as `checked` does, and for words before the first label, for labels of no field and
    for labels that stand twice."""
    names = {re.sub(r"[\W_]+", " ", p.name): p for p in parts}
    found: dict[str, list[str]] = {}
    faults, current = [], None
    for line in answer.splitlines():
        if not line.strip():
            continue
        mark = LABEL.match(line)
        name = re.sub(r"[\W_]+", " ", mark[1]).strip().lower() if mark else ""
        if name in names:
            current = names[name].name
            if current in found:
                faults.append(f"the label {mark[1].strip()!r} stands twice")
            found.setdefault(current, []).append(mark[2])
        elif mark and (mark[1][:1].isupper() or "_" in mark[1]) and len(name.split()) <= 3:
            close = [names[n].label for n in nearest(name, names)]
            faults.append(
                f"no field is called {mark[1].strip()!r}"
                + (f"; did you mean {' or '.join(close)}?" if close else "")
            )
            current = ""
        elif current is None:
            faults.append(f"there are words before the first label: {line.strip()[:60]!r}")
            current = ""
        elif current:
            found[current].append(line)
    if faults:
        raise AmodalError(
            f"{'; '.join(faults)}. The labels are {', '.join(p.label for p in parts)}."
        )
    many = {p.name for p in parts if p.many}
    return checked(
        {n: _split(lines) if n in many else " ".join(lines) for n, lines in found.items()}, parts
    )


LABEL = re.compile(
    r"\s*(?:[-*•#>]+\s+)?(?:\*\*|__)?\s*([^\W\d_][\w /-]{1,40}?)\s*(?:\*\*|__)?\s*:(?:\*\*|__)?\s*(.*)$"
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
    given = list(value) if part.many and isinstance(value, Sequence) else [value]
    if wrong := [type(v).__name__ for v in given if not isinstance(v, str)]:
        raise AmodalError(
            f"{part.name!r} is {'a list of texts' if part.many else 'a text'}, not {wrong[0]}"
        )
    texts = [t for t in (" ".join(v.split()) for v in given) if t]
    if len({t.lower() for t in texts}) < len(texts):
        raise AmodalError(f"{part.name!r} says the same twice")
    if long := next((t for t in texts if len(t.split()) > part.most), None):
        raise AmodalError(
            f"{part.name!r} has {len(long.split())} words where {part.most} are the most: {long[:40]!r} …"
        )
    return texts


def _limits(part: Part) -> str:
    return f"; {'separated by commas' if part.many else f'at most {part.most} words'}{'' if part.needed else '; optional'}"


def _told(part: Part) -> str:
    return part.name + (" (needed)" if part.needed else "")
