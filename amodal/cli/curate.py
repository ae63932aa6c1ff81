"""The verb that chooses the records to pretrain on: curate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from amodal.cli.options import listed, numbers
from amodal.cli.own_code import NONE, Code
from amodal.cli.shared import DATA_HELP, command, show


def curate(
    data: Annotated[Positional[str], arg(metavar="DATA", help=DATA_HELP)],
    by: Annotated[
        str,
        arg(
            metavar="RULE",
            help="clip_score, learnability, pair_rules, in_domain, balance, duplicates, ensemble, "
            "random; a number such as caption.length; FILE.py:NAME",
        ),
    ],
    out: Annotated[
        Path, arg(metavar="DIR", help="a folder that --data takes; an interrupted choice goes on")
    ],
    keep: Annotated[
        float | None, arg(metavar="SHARE", help="of the records, those of the highest scores")
    ] = None,
    threshold: Annotated[
        float | None,
        arg(help="scores from this on; pair_rules, duplicates and ensemble have one of their own"),
    ] = None,
    lowest: Annotated[bool, arg(help="low scores are the good ones")] = False,
    unscored: Annotated[
        Literal["keep", "drop"], arg(help="records that lack what the rule reads")
    ] = "keep",
    part: Annotated[
        str, arg(help="of the split, to choose from; others stay whole; all for all records")
    ] = "train",
    run: Annotated[
        Path | None, arg(metavar="RUN", help="the run that clip_score, learnability, … score by")
    ] = None,
    reference: Annotated[
        Path | None, arg(metavar="RUN", help="of learnability: a run on clean data")
    ] = None,
    field: Annotated[str | None, arg(help="that a rule of one field reads")] = None,
    fields: Annotated[
        str, arg(metavar="A,B", help="that a rule of pairs compares; by default all of the run")
    ] = "",
    like: Annotated[
        str | None, arg(metavar="FILE.txt|DATA", help="of in_domain: examples of the domain")
    ] = None,
    over: Annotated[
        str,
        arg(metavar="LABEL|FILE.csv", help="of balance: classes, or clusters of `amodal cluster`"),
    ] = "",
    words: Annotated[
        Path | None, arg(metavar="FILE.txt", help="of balance: keywords, one a line")
    ] = None,
    rules: Annotated[
        str, arg(metavar="A,B,C", help="of ensemble: three rules or more, weighed without labels")
    ] = "",
    limit: Annotated[
        tuple[str, ...],
        arg(metavar="NAME=NUMBER", help="of pair_rules: short_side, least_words, …"),
    ] = (),
    label: Annotated[
        str | None,
        arg(metavar="FIELD", help="by which to say what was dropped; by default what differs most"),
    ] = None,
    copy: Annotated[bool, arg(help="also copy the records that stay into DIR/packed")] = False,
    show_field: Annotated[
        str | None, arg(metavar="FIELD", help="what the picture of examples shows")
    ] = None,
    seed: int = 0,
    code: Code = NONE,
) -> None:
    """Choose the records to pretrain on: by a score of each, with a picture of what is dropped.

    Writes a list of keys, not a copy of the data.
    """
    from amodal.errors import AmodalError
    from amodal.selection import curate as choose

    if reference is not None and by != "learnability" and "learnability" not in rules:
        raise AmodalError(f"--reference is of learnability, and {by} reads none")
    if limit and by != "pair_rules" and "pair_rules" not in rules:
        raise AmodalError(f"--limit is of pair_rules, and {by} has none")
    chosen = choose(
        data,
        by=by,
        keep=keep,
        threshold=threshold,
        lowest=lowest,
        unscored=unscored,
        part=part,
        model=None if run is None else code.open(run),
        reference=None if reference is None else code.open(reference),
        field=field,
        fields=listed(fields) or (),
        like=like,
        over=over,
        words=() if words is None else words.read_text(encoding="utf-8").splitlines(),
        rules=listed(rules) or (),
        limits=numbers(limit),
        label=label,
        seed=seed,
        out=out,
    )
    show(chosen.table())
    for path in chosen.save(out, copy=copy, field=show_field):
        print(f"wrote {path}")
    print(f"Next: {command('pretrain', 'METHOD', '--data', out, '--out', 'RUN')}")
