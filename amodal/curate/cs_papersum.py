"""Structured summaries of a collection of papers: labelled fields from each paper's text, checked,
one record a paper.

Row 35 of the catalogue, CS-PaperSum: papers -> text -> a fixed question to a language model ->
labelled fields -> a table. Its names of fields and its prompt are reconstructed. Beside a language
model, which may be any function of a text, there is a summariser that only takes sentences out of
the text. What summaries are worth is measured by `amodal.evaluate.papers`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.curate.shared.cells import cells, known
from amodal.curate.shared.sentences import Rank, best, centroid, keyterms, lead, sentences, textrank
from amodal.curate.shared.summary_fields import PARTS, Part, Summary, answered, checked, question
from amodal.data import Dataset
from amodal.data import open as open_data
from amodal.progress import Bar

__all__ = [
    "PARTS",
    "Asked",
    "Extractive",
    "Part",
    "Summaries",
    "cells",
    "centroid",
    "checked",
    "cs_papersum",
    "lead",
    "textrank",
]


@dataclass(frozen=True)
class Extractive:
    """(title, text) -> a summary of sentences of the text, without any network.

    count: sentences of a field without cues, the highest in `rank`; a field with cues has the best
    sentence that shows one of them, and is left out where there is none; keywords: words for a
    field of many.
    """

    count: int = 3
    rank: Rank = textrank
    keywords: int = 8
    parts: Sequence[Part] = PARTS

    @property
    def about(self) -> str:
        return f"extractive {self.rank.__qualname__} {self.count} {self.keywords}"

    def __call__(self, title: str, text: str) -> Summary:
        said = sentences(text)
        if not said:
            raise AmodalError("there is no text to take sentences from")
        found = {}
        for part in self.parts:
            if part.many:
                found[part.name] = tuple(keyterms(text, self.keywords))
                continue
            fit = [s for s in said if not part.cues or _shows(s, part.cues)]
            chosen = best(
                fit,
                self.rank if len(fit) == len(said) else _within(said, fit, self.rank),
                1 if part.cues else self.count,
            )
            found[part.name] = " ".join(" ".join(chosen).split()[: part.most])
        return checked(found, self.parts)


@dataclass(frozen=True)
class Asked:
    """(title, text) -> what `ask`, any function from a prompt to an answer, makes of it: the prompt
    is always the same one, and an answer that cannot be read is asked for anew with the reason,
    `tries` times in all. Then AmodalError; what `ask` raises goes through."""

    ask: Callable[[str], str]
    tries: int = 3
    parts: Sequence[Part] = PARTS

    @property
    def about(self) -> str:
        return f"asked {getattr(self.ask, '__qualname__', type(self.ask).__qualname__)}"

    def __call__(self, title: str, text: str) -> Summary:
        prompt = first = question(title, text, self.parts)
        for _ in range(self.tries):
            answer = self.ask(prompt)
            if not isinstance(answer, str):
                raise AmodalError(
                    f"ask must return the answer's text, it returned {type(answer).__name__}"
                )
            try:
                return answered(answer, self.parts)
            except AmodalError as error:
                fault = str(error)
                prompt = f"{first}\nYour last answer was not accepted: {fault} Answer again.\n\nAnswer:\n"
        raise AmodalError(f"none of {self.tries} answers could be read; the last one: {fault}")


@dataclass(frozen=True)
class Summaries(Mapping):
    """key of a paper -> its summary. failed: key -> why there is none."""

    made: dict[str, Summary]
    failed: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.made)

    def __iter__(self) -> Iterator[str]:
        return iter(self.made)

    def __getitem__(self, key: str) -> Summary:
        return self.made[key]


def cs_papersum(
    papers,
    summarise: Callable[[str, str], Mapping[str, object]] | None = None,
    *,
    title: str = "title",
    text: str = "abstract",
    out: str | Path | None = None,
    parts: Sequence[Part] = PARTS,
    progress: bool = True,
) -> Summaries:
    """A summary of each paper that has a text.

    papers: a Dataset, or what `amodal.open` takes; title, text: its fields, the title may be
    absent. summarise: (title, text) -> fields, `Extractive()` unless given, `Asked(ask)` for a
    language model; it raises AmodalError for a paper that it cannot do, which is then kept in
    `failed` and does not end the run. out: a file of lines (JSON) that grows by each summary; those
    that are in it, of the same text by the same summariser, are not made again, so that an
    interrupted run goes on where it was. Raises AmodalError for unknown fields, and where not one
    summary could be made.
    """
    dataset = papers if isinstance(papers, Dataset) else open_data(papers)
    texts = cells(dataset, text)
    titles = (
        cells(dataset, title)
        if title in known(dataset) or title != "title"
        else [None] * len(dataset)
    )
    summarise = Extractive(parts=parts) if summarise is None else summarise
    by = getattr(
        summarise, "about", getattr(summarise, "__qualname__", type(summarise).__qualname__)
    )
    kept, made, failed = _kept(out), {}, {}
    with Bar("summarise", len(dataset), shown=progress) as bar:
        for key, head, body in zip(dataset.keys, titles, texts):
            bar.step(f"{len(failed)} failed" if failed else "papers")
            head, body = str(head or ""), str(body or "")
            stamp = hashlib.blake2b(
                "\0".join((by, head, body, *(p.name for p in parts))).encode(), digest_size=8
            ).hexdigest()
            try:
                if not body.strip():
                    raise AmodalError(f"the field {text!r} is empty")
                if kept.get(key, {}).get("stamp") == stamp:
                    made[key] = checked(kept[key]["summary"], parts)
                    continue
                made[key] = checked(summarise(head, body), parts)
            except AmodalError as error:
                failed[key] = str(error)
                continue
            if out is not None:
                _append(out, {"key": key, "by": by, "stamp": stamp, "summary": made[key]})
    if not made:
        raise AmodalError(
            f"no summary could be made of {len(dataset)} papers; {next(iter(failed.values()), 'there are none')}"
        )
    return Summaries(made, failed)


def _shows(sentence: str, cues: Sequence[str]) -> bool:
    """Whether a word begins with a cue; signs may stand anywhere."""
    low = f" {sentence.lower()}"
    return any(
        (f" {cue}" in low or f"({cue}" in low) if cue[0].isalpha() else cue in low for cue in cues
    )


def _within(said: Sequence[str], fit: Sequence[str], rank: Rank) -> Rank:
    """The rank of some sentences among all."""
    score = dict(zip(said, rank(said).tolist()))
    return lambda some: np.array([score[s] for s in some])


def _kept(out: str | Path | None) -> dict[str, dict]:
    """The lines of `out` that are whole; a line that an interruption cut off is taken away."""
    if out is None or not Path(out).exists():
        return {}
    content = Path(out).read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with open(out, "r+b") as stream:
            stream.truncate(len(whole))
    try:
        entries = [json.loads(line) for line in whole.decode("utf-8").splitlines() if line.strip()]
        return {e["key"]: e for e in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise AmodalError(
            f"{out} holds no summaries ({error}): give another file, or delete this one"
        ) from None


def _append(out: str | Path, entry: dict) -> None:
    with open(out, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
