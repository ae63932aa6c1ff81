"""The verb that estimates the mean of a label: estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from amodal.cli.options import listed
from amodal.cli.shared import DATA_HELP, show


def estimate(
    data: Annotated[Positional[str], arg(metavar="DATA", help=DATA_HELP)],
    value: Annotated[
        str,
        arg(metavar="LABEL|LABEL=CLASS", help="whose mean, or the share of a class, is estimated"),
    ],
    by: Annotated[
        str, arg(metavar="A,B", help="two labels whose shares in the population are known")
    ],
    population: Annotated[
        str | None,
        arg(metavar="DATA", help="has the shares; by default all records, with --value or not"),
    ] = None,
    steps: Annotated[int, arg(help="of balancing: 0 the plain mean, 1 by A alone")] = 2,
    bins: Annotated[int, arg(help="quantiles that a number among A,B is divided into")] = 4,
    records: Annotated[
        int | None,
        arg(help="as if only so many records had it: measures the error against all of them"),
    ] = None,
    draws: Annotated[int, arg(help="of --records")] = 200,
    out: Annotated[
        Path | None, arg(metavar="FILE.csv", help="write the weight of each record: key, weight")
    ] = None,
    json: Annotated[Path | None, arg(help="write all numbers to this file")] = None,
    seed: int = 0,
) -> None:
    """Estimate the mean of a label that few records have, by weights under which two others have
    their known shares: with its standard error, and what each step of balancing gains."""
    from amodal import data as records_of
    from amodal.diagnose.estimate import estimate as run

    found = run(
        records_of.open(data),
        value,
        listed(by) or (),
        population=None if population is None else records_of.open(population),
        steps=steps,
        bins=bins,
        records=records,
        draws=draws,
        seed=seed,
    )
    show(found.table())
    if out is not None:
        print(f"wrote {found.save_weights(out)}")
    if json is not None:
        print(f"wrote {found.save(json)}")
