"""Verbs to get started: demo, init, methods, claim, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from amodal.cli.shared import show
from amodal.core import AmodalError


def demo(
    out: Annotated[Path, arg(help="the run folder to write, with figures")] = Path("runs/demo"),
    minutes: Annotated[float, arg(help="approximate training time")] = 3.0,
    seed: int = 0,
) -> None:
    """Pretrain on the bundled Earth, compare with chance and an untrained encoder, draw figures."""
    from amodal.demo import demo as run

    run(out, minutes=minutes, seed=seed)


def init(
    directory: Annotated[
        Positional[str],
        arg(
            metavar="DIR",
            help="a folder of files, a CSV, JSONL or Parquet file, or an address (s3://…)",
        ),
    ],
    force: Annotated[bool, arg(help="overwrite an existing dataset.toml")] = False,
) -> None:
    """Inspect data and write dataset.toml, which you can edit."""
    from amodal.data import init as run

    show(run(directory, force=force))


def methods(
    key: Annotated[
        Positional[str | None], arg(metavar="[KEY]", help="a method, or a row of the catalogue")
    ] = None,
    source: Annotated[bool, arg(help="print the source of the page")] = False,
) -> None:
    """List the methods, or show one: paper, options with defaults, claim and verdict."""
    from amodal.catalog import listing, shown

    show(listing() if key is None else shown(key, source=source))


def claim(
    key: Annotated[
        Positional[str], arg(metavar="KEY", help="a claim; `amodal methods` lists them")
    ],
    seeds: Annotated[
        int | None, arg(help="paired seeds; by default as many as the claim's pilot asks for")
    ] = None,
    data: Annotated[
        str | None, arg(metavar="DIR", help="data to use instead of the claim's")
    ] = None,
    budget: Annotated[
        str | None, arg(metavar="TIME", help="such as 90s or 10m; the same command goes on")
    ] = None,
) -> None:
    """Test the main claim of a paper at small scale, against its baseline."""
    try:
        from amodal_claims import claim as run
    except ModuleNotFoundError:
        raise AmodalError(
            "claims are a distribution of their own, amodal-claims; in a checkout: "
            "pip install ./claims"
        ) from None
    from amodal.studies.compare import seconds_of

    seconds = None if budget is None else seconds_of(budget)
    show(run(key, seeds=seeds, data=data, budget=seconds).table())


def doctor() -> None:
    """Show versions, devices, extras and plug-ins of this environment."""
    from amodal.doctor import report

    show(report())
