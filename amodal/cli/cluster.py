"""The verb that divides records into clusters: cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from amodal.cli.own_code import NONE, Code
from amodal.cli.shared import Data, Run, show
from amodal.core import unknown


def cluster(
    run: Run,
    data: Data,
    out: Annotated[
        Path | None,
        arg(metavar="FILE", help="a .csv or .parquet file: key, cluster, name, margin"),
    ] = None,
    field: Annotated[
        str | None, arg(help="whose vectors are clustered; by default all fields together")
    ] = None,
    by: Annotated[
        Literal["auto", "kmeans", "spectral", "membership"],
        arg(help="auto is the membership that a run of cpp has learnt, and kmeans for others"),
    ] = "auto",
    number: Annotated[int | None, arg(help="of clusters; by default chosen")] = None,
    most_clusters: Annotated[int, arg(help="the largest number that is tried")] = 20,
    names: Annotated[
        str,
        arg(
            metavar="A,B|FILE",
            help="candidates for names, for a run with a text field in the same space: with commas "
            "between, or a .txt, .csv, .toml or .json file, with descriptions as for predict",
        ),
    ] = "",
    templates: Annotated[
        tuple[str, ...],
        arg(
            metavar="TEXT", help='sentences around names, such as "a photo of a {}", as for predict'
        ),
    ] = (),
    names_by: Annotated[
        Path | None,
        arg(metavar="RUN", help="name them in the space of texts of this run of the same fields"),
    ] = None,
    label: Annotated[
        str | None,
        arg(metavar="FIELD", help="compare the clusters, which do not depend on it, with this"),
    ] = None,
    part: Annotated[str | None, arg(help="train, valid or test; by default all records")] = None,
    picture: Annotated[
        Path | None, arg(metavar="FILE.png", help="draw typical records of each cluster")
    ] = None,
    show_field: Annotated[
        str | None, arg(metavar="FIELD", help="what the picture shows; by default --field")
    ] = None,
    seed: int = 0,
    code: Code = NONE,
) -> None:
    """Divide records into clusters without any label: which, how many, and what sets each apart.

    Says how much of them comes back on the other half of the records, beside clusters of simple
    features.
    """
    from amodal.cluster.result import check_picture, check_suffix
    from amodal.model import load

    # clustering takes a while
    if out is not None:
        check_suffix(out)
    if picture is not None:
        check_picture(picture)
    model = code.open(run)
    if show_field is not None and show_field not in model.fields:
        raise unknown("field of this run", show_field, model.fields)
    found = model.cluster(
        data,
        field=field,
        by=by,
        number=number,
        most_clusters=most_clusters,
        words=names,
        templates=templates or ("name",),
        names_by=None if names_by is None else load(names_by),
        label=label,
        part=part,
        seed=seed,
    )
    show(found.table())
    if out is not None:
        print(f"wrote {found.save(out)}")
    if picture is not None:
        print(f"wrote {found.save_picture(picture, show_field)}")
