"""The verb that summarises a collection of papers and says what the summaries are worth: papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from amodal.cli.options import listed
from amodal.cli.shared import DATA_HELP, show


def papers(
    data: Annotated[Positional[str], arg(metavar="DATA", help=DATA_HELP)],
    out: Annotated[
        Path,
        arg(
            metavar="DIR",
            help="summaries.jsonl, with which an interrupted run goes on, and report.json",
        ),
    ],
    title: Annotated[str, arg(metavar="COLUMN")] = "title",
    text: Annotated[
        str, arg(metavar="COLUMN", help="abstracts or full texts, also files of text")
    ] = "abstract",
    ask: Annotated[
        str,
        arg(
            metavar="SPEC|FILE.py:NAME",
            help="a language model, transformers:DIR or package:smollm2 (too small to fill in the "
            "fields), or a function from a prompt to an answer; by default sentences are taken "
            "out of the text",
        ),
    ] = "",
    sentences: Annotated[int, arg(help="of a key takeaway, where no model is asked")] = 3,
    summaries: Annotated[
        str,
        arg(
            metavar="A,B|FILE.jsonl",
            help="summaries that are there: columns of DATA, or lines with key and summary",
        ),
    ] = "",
    topics: Annotated[
        str,
        arg(
            metavar="N|FILE.txt",
            help='how many frequent keywords are topics, or lines such as "vision: image, pixel"',
        ),
    ] = "12",
    by: Annotated[
        str, arg(metavar="A,B", help="columns to group by; by default venue and year")
    ] = "",
    year: Annotated[str, arg(metavar="COLUMN")] = "year",
    venue: Annotated[str, arg(metavar="COLUMN")] = "venue",
    encoder: Annotated[
        str,
        arg(
            metavar="SPEC",
            help="of sentences, in place of tf-idf: package:minilm, transformers:DIR",
        ),
    ] = "",
    find: Annotated[str, arg(metavar="TEXT", help="also print the papers that fit this best")] = "",
    find_in: Annotated[
        str, arg(metavar="FIELD", help="of the summaries, that --find reads; text: the paper")
    ] = "text",
    seed: int = 0,
) -> None:
    """Summarise each paper in labelled fields, and say how well the summaries fit their papers
    beside shuffled ones, by venue and year; which topics grow, and near duplicates."""
    from amodal import data as records_of
    from amodal.core.references import load_reference
    from amodal.curate.cs_papersum import (
        ExtractiveSummariser,
        PromptedSummariser,
        cs_papersum,
        read_summaries,
    )
    from amodal.evaluate.paper_topics import read_topics
    from amodal.evaluate.papers import papers as run
    from amodal.inference.language_model import LanguageModel, is_language_model
    from amodal.train.packaged import sentence_encoder

    dataset, chosen = records_of.open(data), read_topics(topics)
    embed = sentence_encoder(encoder) if encoder else None
    out.mkdir(parents=True, exist_ok=True)
    if summaries:
        made = read_summaries(dataset, summaries)
    else:
        summarise: ExtractiveSummariser | PromptedSummariser = ExtractiveSummariser(count=sentences)
        if ask:
            model = LanguageModel(ask) if is_language_model(ask) else load_reference(ask)
            summarise = PromptedSummariser(model)
        file = out / "summaries.jsonl"
        made = cs_papersum(dataset, summarise, title=title, text=text, out=file)
        for key, reason in list(made.failed.items())[:5]:
            print(f"no summary of {key}: {reason}")
        print(f"wrote {file}: {len(made)} summaries, {len(made.failed)} failed")
    report = run(
        dataset,
        made,
        title=title,
        text=text,
        by=listed(by) or None,
        year=year,
        venue=venue,
        topics=chosen,
        embed=embed,
        seed=seed,
    )
    show(report.table())
    report.save(out / "report.json")
    print(f"wrote {out / 'report.json'}")
    for key, cosine, found in report.find(find, find_in) if find else ():
        print(f"{cosine:.3f}  {key}  {found[:120]}")
