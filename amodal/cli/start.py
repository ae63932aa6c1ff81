"""Verbs to get started: demo, init, data, methods, claim, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from amodal.cli.shared import DATA_HELP, command, show
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


def data(
    name: Annotated[
        Positional[str | None],
        arg(
            metavar="[NAME]",
            help="a public data set; without it all are listed. Or `check DATA` for faults of "
            "data, or `zarr DATA --out DIR` to write rasters as .zarr.zip",
        ),
    ] = None,
    source: Annotated[Positional[str | None], arg(metavar="[DATA]", help=DATA_HELP)] = None,
    out: Annotated[
        Path | None, arg(metavar="DIR", help="the folder to write; by default in the cache")
    ] = None,
    any_version: Annotated[
        bool, arg(help="accept packages of another version or checksum")
    ] = False,
    records: Annotated[
        int, arg(help="of check: whose pixels are read; copies and places are looked for in all")
    ] = 100,
    json: Annotated[
        Path | None, arg(metavar="FILE", help="of check: write all numbers to this file")
    ] = None,
    seed: Annotated[int, arg(help="of check: of the intervals")] = 0,
) -> None:
    """List public data sets, or download one and write it as a folder of records.

    check: shifts between rasters of one place, missing pixels, bands and grids that differ, and
    records of one part of the split in another. It ends with 1 where there is a fault. zarr: shards
    in the layout of SSL4EO-S12 v1.1.
    """
    if name == "check":
        if source is None or out is not None:
            raise AmodalError("write `amodal data check DATA`; --json FILE takes the numbers")
        _check(source, records, json, seed)
        return
    if json is not None:
        raise AmodalError(f"--json {json} stands behind `amodal data check DATA`")
    if name == "zarr":
        if source is None or out is None:
            raise AmodalError("write `amodal data zarr DATA --out DIR`")
        _zarr(source, out)
        return
    if source is not None:
        raise AmodalError(
            f"what is to be done with {source}? `amodal data check DATA`, `amodal data zarr DATA "
            "--out DIR`; a set has a name alone: `amodal data NAME`"
        )
    from amodal.data import sets

    if name is None:
        show(sets.listing())
        return
    folder = sets.fetch(name, out=out, any_version=any_version)
    method = first_method(folder)
    named = name if out is None else folder
    print(f"Next: {command('pretrain', method, '--data', named, '--out', 'RUN')}")


def _check(data: str, records: int, json: Path | None, seed: int) -> None:
    """The verb `data check`. Raises SystemExit where there is a fault."""
    from amodal.data.checks import check

    found = check(data, records=records, seed=seed)
    show(found.table())
    if json is not None:
        print(f"wrote {found.save(json)}")
    if found.faults:
        raise SystemExit(1)


def _zarr(data: str, out: Path) -> None:
    """The verb `data zarr`."""
    from amodal.data import write_zarr

    files = write_zarr(data, out)
    print(f"wrote {len(files)} files in {out}")


def first_method(folder: Path) -> str:
    """A method to begin with on a data set, which its fields allow.

    Args:
        folder: Where the set is.
    """
    from amodal import data as records

    dataset = records.open(folder)
    train = dataset.split("train")
    together = sum(dataset.present(field)[train].astype(int) for field in dataset.fields)
    # fields are aligned where records have two of them; views of a field are there for any
    pairs = len(dataset.fields) > 1 and (together > 1).sum() > len(train) / 2
    return "clip" if pairs else "simclr"


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
