"""Structured summaries of a collection of papers: one record of labelled fields a paper, validated.

Row 35 of the catalogue, CS-PaperSum (arXiv:2502.20582): papers -> text -> a fixed prompt for a
language model -> labelled fields -> a table. Beside a language model, which may be any function of
a text, there is an extractive summariser. `amodal papers DATA --out DIR` makes the summaries and
measures them by `amodal.evaluate.papers`, also those that a table brings (docs/papers.md).

Differs:

- data: the 91,919 records of 31 conferences are not bundled; any table with texts will do, and one
  with summaries is read by `--summaries A,B`. Texts come as columns or files of text, not as PDF.
- names of fields and the prompt are reconstructed. The paper asks ChatGPT; here the model is the
  user's: a function from a prompt to an answer (`--ask FILE.py:NAME`), or one that runs here
  (`--ask transformers:DIR`). An answer that cannot be parsed is asked for once more.
- similarity of paper and summary is measured against shuffled pairs, with an AUROC and intervals;
  the paper shows means and a projection. Vectors are tf-idf unless an encoder is named.
- keywords are those with the highest count times rarity; which tool the paper takes is not known.
- trends have a slope, a permutation test and a correction for their number, which the paper lacks.
  Its forecasts, and the index of how much fields cross over, are left out; `shares` has each topic
  by venue.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amodal.core import AmodalError
from amodal.curate.shared.cells import cell_names, cells
from amodal.curate.shared.sentences import (
    Rank,
    centroid,
    keyterms,
    lead,
    sentences,
    textrank,
    top_sentences,
)
from amodal.curate.shared.summary_fields import (
    PARTS,
    Part,
    Summary,
    build_prompt,
    parse_answer,
    validate_summary,
)
from amodal.data import Dataset
from amodal.data import open as open_data
from amodal.progress import Bar

__all__ = [
    "PARTS",
    "PromptedSummariser",
    "ExtractiveSummariser",
    "Part",
    "Summaries",
    "cells",
    "centroid",
    "cs_papersum",
    "lead",
    "textrank",
    "validate_summary",
]


@dataclass(frozen=True)
class ExtractiveSummariser:
    """(title, text) -> a summary of sentences of the text, without a network.

    A field with cues has the best sentence that contains one, and is left out if none does.

    Attributes:
        count: sentences of a field without cues, the highest in `rank`.
        rank: of sentences.
        keywords: words of a field that holds a list.
        parts: the fields.
    """

    count: int = 3
    rank: Rank = textrank
    keywords: int = 8
    parts: Sequence[Part] = PARTS

    @property
    def about(self) -> str:
        return f"extractive {self.rank.__qualname__} {self.count} {self.keywords}"

    def __call__(self, title: str, text: str) -> Summary:
        sentences_n = sentences(text)
        if not sentences_n:
            raise AmodalError("there is no text to take sentences from")
        fields: dict[str, object] = {}
        for part in self.parts:
            if part.many:
                fields[part.name] = tuple(keyterms(text, self.keywords))
                continue
            candidates = [s for s in sentences_n if not part.cues or _has_cue(s, part.cues)]
            partial = len(candidates) < len(sentences_n)
            rank = _rank_within(sentences_n, self.rank) if partial else self.rank
            chosen = top_sentences(candidates, rank, 1 if part.cues else self.count)
            fields[part.name] = " ".join(" ".join(chosen).split()[: part.most])
        return validate_summary(fields, self.parts)


@dataclass(frozen=True)
class PromptedSummariser:
    """(title, text) -> a summary from the answer of a language model.

    The prompt is always the same. If an answer cannot be parsed, the prompt is repeated with the
    reason. Exceptions of `ask` propagate.

    Attributes:
        ask: prompt -> answer, such as `amodal.inference.language_model.LanguageModel`. Its `about`,
            if it has one, names it in what is saved.
        tries: prompts at most; then AmodalError.
        parts: the fields.
    """

    ask: Callable[[str], str]
    tries: int = 3
    parts: Sequence[Part] = PARTS

    @property
    def about(self) -> str:
        name = getattr(self.ask, "__qualname__", type(self.ask).__qualname__)
        return f"asked {getattr(self.ask, 'about', name)}"

    def __call__(self, title: str, text: str) -> Summary:
        prompt = first = build_prompt(title, text, self.parts)
        for _ in range(self.tries):
            answer = self.ask(prompt)
            if not isinstance(answer, str):
                raise AmodalError(
                    f"ask must return the answer's text, it returned {type(answer).__name__}"
                )
            try:
                return parse_answer(answer, self.parts)
            except AmodalError as error:
                reason = str(error)
                prompt = (
                    f"{first}\nYour last answer was not accepted: {reason} Correct it.\n\nAnswer:\n"
                )
        raise AmodalError(f"none of {self.tries} replies could be read; the last one: {reason}")


@dataclass(frozen=True)
class Summaries(Mapping[str, Summary]):
    """Key of a paper -> its summary.

    Attributes:
        summaries: the same as a dictionary.
        failed: key -> reason why there is no summary.
    """

    summaries: dict[str, Summary]
    failed: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.summaries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.summaries)

    def __getitem__(self, key: str) -> Summary:
        return self.summaries[key]


def cs_papersum(
    papers: Any,
    summarise: Callable[[str, str], Mapping[str, object]] | None = None,
    *,
    title: str = "title",
    text: str = "abstract",
    out: str | Path | None = None,
    parts: Sequence[Part] = PARTS,
    progress: bool = True,
) -> Summaries:
    """Summarise each paper that has a text.

    Args:
        papers: a Dataset, or what `amodal.open` takes.
        summarise: (title, text) -> fields; None for `ExtractiveSummariser()`, or
            `PromptedSummariser(ask)` for a language model. If it raises AmodalError, the paper is
            listed in `failed` and the run continues.
        title, text: fields of the dataset; the title may be absent.
        out: a file of JSON lines that grows with each summary. Those in it, of the same text by
            the same summariser, are reused, so that an interrupted run continues.
        parts: fields of a summary.
        progress: show a progress bar.

    Raises:
        AmodalError: unknown fields, or no summary could be made.
    """
    dataset = papers if isinstance(papers, Dataset) else open_data(papers)
    texts = cells(dataset, text)
    titles = (
        cells(dataset, title)
        if title in cell_names(dataset) or title != "title"
        else [None] * len(dataset)
    )
    summarise = ExtractiveSummariser(parts=parts) if summarise is None else summarise
    summariser_name = getattr(
        summarise, "about", getattr(summarise, "__qualname__", type(summarise).__qualname__)
    )
    finished = _read_finished(out)
    summaries: dict[str, Summary] = {}
    failed: dict[str, str] = {}
    with Bar("summarise", len(dataset), shown=progress) as bar:
        for key, title_text, body_text in zip(dataset.keys, titles, texts):
            bar.step(f"{len(failed)} failed" if failed else "papers")
            title_text, body_text = str(title_text or ""), str(body_text or "")
            stamp = hashlib.blake2b(
                "\0".join(
                    (summariser_name, title_text, body_text, *(p.name for p in parts))
                ).encode(),
                digest_size=8,
            ).hexdigest()
            try:
                if not body_text.strip():
                    raise AmodalError(f"the field {text!r} is empty")
                if finished.get(key, {}).get("stamp") == stamp:
                    summaries[key] = validate_summary(finished[key]["summary"], parts)
                    continue
                summaries[key] = validate_summary(summarise(title_text, body_text), parts)
            except AmodalError as error:
                failed[key] = str(error)
                continue
            if out is not None:
                _append(
                    out,
                    {"key": key, "by": summariser_name, "stamp": stamp, "summary": summaries[key]},
                )
    if not summaries:
        raise AmodalError(
            f"no summary could be made of {len(dataset)} papers; "
            f"{next(iter(failed.values()), 'there are none')}"
        )
    return Summaries(summaries, failed)


def read_summaries(dataset: Dataset, source: str) -> Summaries:
    """Summaries that somebody else made.

    Args:
        dataset: of the papers.
        source: columns of the dataset, with commas between, or a file of JSON lines with `key` and
            `summary` (a text, or fields).

    Raises:
        AmodalError: unknown columns, a file that holds no summaries, or no summary at all.
    """
    if source.endswith((".jsonl", ".json")):
        if not Path(source).is_file():
            raise AmodalError(f"there is no file {source} with summaries")
        lines = _lines_by_key(Path(source).read_bytes(), source)
        made = {k: _as_fields(line.get("summary"), k, source) for k, line in lines.items()}
    else:
        columns = {name.strip(): cells(dataset, name.strip()) for name in source.split(",")}
        rows: list[Summary] = [
            {name: str(values[i]) for name, values in columns.items() if values[i] is not None}
            for i in range(len(dataset))
        ]
        made = dict(zip(dataset.keys, rows))
    made = {key: summary for key, summary in made.items() if summary}
    if not made:
        raise AmodalError(f"{source} holds no summary of these papers")
    return Summaries(made)


def _as_fields(summary: object, key: str, file: str) -> Summary:
    """A summary as fields, without those that say nothing."""
    fields = {"summary": summary} if isinstance(summary, str) else summary
    if not isinstance(fields, dict) or not all(
        value is None or isinstance(value, str | list) for value in fields.values()
    ):
        raise AmodalError(
            f"the summary of {key!r} in {file} is neither a text nor fields of texts and lists"
        )
    return {
        name: value if isinstance(value, str) else tuple(map(str, value))
        for name, value in fields.items()
        if value
    }


def _has_cue(sentence: str, cues: Sequence[str]) -> bool:
    """Whether a word begins with a cue; punctuation may stand anywhere."""
    low = f" {sentence.lower()}"
    return any(
        (f" {cue}" in low or f"({cue}" in low) if cue[0].isalpha() else cue in low for cue in cues
    )


def _rank_within(sentences_n: Sequence[str], rank: Rank) -> Rank:
    """The rank of some sentences, as scored among all."""
    score = dict(zip(sentences_n, rank(sentences_n).tolist()))
    return lambda subset: np.array([score[s] for s in subset])


def _read_finished(out: str | Path | None) -> dict[str, dict[str, Any]]:
    """Key -> complete line of `out`; a line that an interruption cut off is removed."""
    if out is None or not Path(out).exists():
        return {}
    content = Path(out).read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with open(out, "r+b") as stream:
            stream.truncate(len(whole))
    return _lines_by_key(whole, out)


def _lines_by_key(content: bytes, file: str | Path) -> dict[str, dict[str, Any]]:
    try:
        entries = [
            json.loads(line) for line in content.decode("utf-8").splitlines() if line.strip()
        ]
        return {e["key"]: e for e in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise AmodalError(
            f"{file} holds no summaries ({error}): give another file, or delete this one"
        ) from None


def _append(out: str | Path, entry: dict[str, Any]) -> None:
    with open(out, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
