"""Verbs for a first look: data, sets, what this machine can do, the methods there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from amodal.cli.shared import show
from amodal.core import AmodalError


def demo(
    out: Annotated[Path, arg(help="where the run and its pictures go")] = Path("runs/demo"),
    minutes: Annotated[float, arg(help="about how long to train")] = 3.0,
    seed: int = 0,
) -> None:
    """Pretrain on the bundled Earth, compare with chance and with an untrained encoder, draw what
    was learnt.
    """
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
    force: Annotated[bool, arg(help="overwrite a dataset.toml that is there")] = False,
) -> None:
    """Look at data, say what is in it, and write dataset.toml, which you can edit."""
    from amodal.data import init as run

    show(run(directory, force=force))


def data(
    name: Annotated[
        Positional[str | None],
        arg(metavar="[NAME]", help="a public set; all are listed unless given"),
    ] = None,
    out: Annotated[
        Path | None, arg(metavar="DIR", help="the folder to build; a cache unless given")
    ] = None,
    any_version: Annotated[
        bool, arg(help="take packages of another version, or with another checksum")
    ] = False,
) -> None:
    """List public sets, or fetch the packages that hold one and make it a folder of records."""
    from amodal.data import sets

    if name is None:
        show(sets.listing())
        return
    folder = sets.fetch(name, out=out, any_version=any_version)
    print(f"Next: amodal pretrain clip --data {name if out is None else folder} --out RUN")


def methods(
    key: Annotated[
        Positional[str | None], arg(metavar="[KEY]", help="one method or row of the catalogue")
    ] = None,
    source: Annotated[bool, arg(help="print the page itself")] = False,
) -> None:
    """List the methods, or show one: its paper, options with defaults, claim and verdict."""
    from amodal.catalog import listing, shown

    show(listing() if key is None else shown(key, source=source))


def claim(
    key: Annotated[
        Positional[str], arg(metavar="KEY", help="a claim; `amodal methods` says which there are")
    ],
    seeds: Annotated[
        int | None, arg(help="paired seeds; what the claim fixed unless given")
    ] = None,
    data: Annotated[str | None, arg(metavar="DIR", help="other data than the claim's own")] = None,
) -> None:
    """Re-test what a paper is known for, at small scale, against its baseline."""
    try:
        from amodal_claims import claim as run
    except ModuleNotFoundError:
        raise AmodalError(
            "claims are a distribution of their own, amodal-claims; in a checkout: pip install ./claims"
        ) from None
    show(run(key, seeds=seeds, data=data).table())


def doctor() -> None:
    """Say what this machine and environment can do."""
    from amodal.doctor import report

    show(report())
