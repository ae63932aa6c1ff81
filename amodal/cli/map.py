"""The verb that draws where things are: map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from amodal.cli.own_code import NONE, Code
from amodal.cli.shared import Data, Run, show


def map(
    run: Run,
    data: Data,
    out: Annotated[
        Path,
        arg(
            metavar="DIR",
            help="label maps, overlays, values, a table and a sheet; what is in it is not computed "
            "a second time",
        ),
    ],
    queries: Annotated[
        str | None,
        arg(
            metavar="A,B",
            help="texts to look for: 'a cat,a tree', or a .txt file with one a line; 2=a cat says "
            "which class of --label it is, | divides prompts of one query",
        ),
    ] = None,
    template: Annotated[
        tuple[str, ...], arg(metavar="TEXT", help="sentences around a query: 'a photo of {}'")
    ] = (),
    segments: Annotated[
        int | None,
        arg(help="divide pictures into this number of segments, without labels; by default 6"),
    ] = None,
    change: Annotated[
        str | None,
        arg(
            metavar="BEFORE,AFTER",
            help="two fields or columns of a record; or one, with --by and --time",
        ),
    ] = None,
    texts: Annotated[
        str | None,
        arg(
            metavar="align|write",
            help="place the words of each record's text on regions of its picture, or write a text "
            "for each region, by a method that does so (deepvs)",
        ),
    ] = None,
    by: Annotated[
        str | None, arg(metavar="COLUMN", help="the place of a record, for change over time")
    ] = None,
    time: Annotated[
        str | None, arg(metavar="COLUMN", help="by which records of a place are in order")
    ] = None,
    field: Annotated[
        str | None,
        arg(help="of the run, whose network reads the pictures; by default the only one"),
    ] = None,
    text_field: Annotated[str | None, arg(help="of the run, which reads the queries")] = None,
    label: Annotated[
        str | None,
        arg(
            metavar="FIELD",
            help="rasters of class numbers, or masks of change, to measure the maps against",
        ),
    ] = None,
    threshold: Annotated[
        float | None, arg(help="of change, or of a single query; by default Otsu's")
    ] = None,
    part: Annotated[str | None, arg(help="train, valid or test; by default all records")] = None,
    resolution: Annotated[
        int | None,
        arg(
            metavar="PIXELS",
            help="read pictures with so many pixels a side, by windows of the run's own size",
        ),
    ] = None,
    pictures: Annotated[int, arg(help="records that are drawn; all have values and labels")] = 100,
    untrained: Annotated[bool, arg(help="with --label, also measure the untrained encoder")] = True,
    seed: int = 0,
    code: Code = NONE,
) -> None:
    """Draw where things are in pictures: texts, segments, what changed, classes that the method
    has learnt, or texts of regions.

    Beside every figure of quality stands that of pixels alone.
    """
    maps = code.open(run).map(
        data,
        out,
        queries=queries,
        templates=template,
        segments=segments,
        change=change,
        texts=texts,
        by=by,
        time=time,
        field=field,
        text_field=text_field,
        label=label,
        threshold=threshold,
        part=part,
        resolution=resolution,
        pictures=pictures,
        untrained=untrained,
        seed=seed,
    )
    show(maps.table())
    print(f"wrote {maps.path}")
