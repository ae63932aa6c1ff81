"""The verb that links records of the same thing: link."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from amodal.cli.options import numbers
from amodal.cli.own_code import NONE, Code
from amodal.cli.shared import Data, Run, show


def link(
    run: Run,
    data: Data,
    to: Annotated[
        str | None,
        arg(
            metavar="DIR",
            help="data to link the records to; by default they are linked to each other",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        arg(metavar="FILE", help="a .csv or .parquet file: key, other, score, …, linked, group"),
    ] = None,
    field: Annotated[
        str | None, arg(help="whose vectors are compared; by default all fields together")
    ] = None,
    to_field: Annotated[
        str | None, arg(metavar="FIELD", help="of the records of --to, if it is another one")
    ] = None,
    weight: Annotated[
        tuple[str, ...], arg(metavar="FIELD=NUMBER", help="of fields that are compared together")
    ] = (),
    threshold: Annotated[
        float | None,
        arg(help="the least cosine of a link; by default links are mutual nearest neighbours"),
    ] = None,
    many_to_one: Annotated[
        bool, arg(help="with --to: more than one record may be linked to an exemplar")
    ] = False,
    linkage: Annotated[
        Literal["single", "average", "complete"], arg(help="of groups, without --to")
    ] = "single",
    label: Annotated[
        str | None,
        arg(
            metavar="FIELD",
            help="equal for records of one thing: chooses the threshold on the validation part, "
            "and measures links on the rest",
        ),
    ] = None,
    part: Annotated[str | None, arg(help="train, valid or test; by default all records")] = None,
    picture: Annotated[Path | None, arg(metavar="FILE.png", help="draw pairs")] = None,
    code: Code = NONE,
) -> None:
    """Link records that show the same thing, in two data sets or within one (deduplication).

    Says what simple features and edit distance take for the nearest.
    """
    from amodal.linkage import link as link_records
    from amodal.linkage.result import check_picture, check_suffix

    # embedding takes a while
    if out is not None:
        check_suffix(out)
    if picture is not None:
        check_picture(picture)
    links = link_records(
        code.open(run),
        data,
        to=to,
        field=field,
        to_field=to_field,
        weights=numbers(weight),
        threshold=threshold,
        many_to_one=many_to_one,
        linkage=linkage,
        label=label,
        part=part,
    )
    show(links.table())
    if out is not None:
        print(f"wrote {links.save(out)}")
    if picture is not None:
        print(f"wrote {links.save_picture(picture)}")
