"""The verb about data itself: public sets, faults, shards and places."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from amodal.cli.shared import command, show
from amodal.core import AmodalError

if TYPE_CHECKING:
    import numpy as np


def data(
    name: Annotated[
        Positional[str | None],
        arg(
            metavar="[NAME]",
            help="a public data set; without it all are listed. Or what to do: check DATA, "
            "zarr DATA --out DIR, places CENTRES.csv --count N --out FILE.csv",
        ),
    ] = None,
    source: Annotated[
        Positional[str | None],
        arg(
            metavar="[DATA]",
            help="of check and zarr: data as for --data elsewhere; of places: a table with "
            "latitude and longitude",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        arg(metavar="DIR", help="what to write: the folder of a set (by default in the cache), …"),
    ] = None,
    any_version: Annotated[
        bool, arg(help="accept packages of another version or checksum")
    ] = False,
    records: Annotated[
        int, arg(help="of check: whose pixels are read; copies and places are sought in all")
    ] = 100,
    json: Annotated[
        Path | None, arg(metavar="FILE", help="of check: write all numbers to this file")
    ] = None,
    count: Annotated[int | None, arg(metavar="N", help="of places: how many")] = None,
    deviation: Annotated[
        float, arg(metavar="KM", help="of places: of their distance from a centre, each way")
    ] = 50.0,
    side: Annotated[
        float, arg(metavar="KM", help="of places: of the squares that may not overlap")
    ] = 2.64,
    seed: int = 0,
) -> None:
    """List public data sets, or download one and write it as a folder of records.

    check: shifts between rasters of one place, missing pixels, bands and grids that differ, and
    records of one part of the split in another; it ends with 1 where there is a fault. zarr: shards
    in the layout of SSL4EO-S12 v1.1. places: where to take images, around cities of a table.
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
    if name == "places":
        if source is None or out is None or count is None:
            raise AmodalError("write `amodal data places CENTRES.csv --count N --out FILE.csv`")
        _places(source, out, count, deviation, side, seed)
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


def _places(table: str, out: Path, count: int, deviation: float, side: float, seed: int) -> None:
    """The verb `data places`."""
    from amodal.core.whole_file import whole_file
    from amodal.curate.places import draw_places

    centres, rows = _centres(table)
    places, sources = draw_places(centres, count, deviation=deviation, side=side, seed=seed)
    with whole_file(out) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("latitude", "longitude", "centre"))
        for (latitude, longitude), centre in zip(places.tolist(), sources.tolist()):
            writer.writerow((f"{latitude:.6f}", f"{longitude:.6f}", int(rows[centre])))
    print(f"wrote {count:,} places around {len(centres):,} centres (their rows) to {out}")


def _centres(table: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) latitude and longitude of the rows of a table that have both, and which rows."""
    import numpy as np

    from amodal.data.infer_schema import place_columns
    from amodal.data.readers import Table, exists
    from amodal.data.remote import as_path

    reader = Table([exists(as_path(table))])
    names = place_columns(reader.columns)
    if names is None:
        raise AmodalError(
            f"{table} has no columns of latitude and longitude, such as lat and lng; it has "
            f"{', '.join(reader.columns)}"
        )
    try:
        numbers = np.array(
            [[np.nan if c is None else float(c) for c in reader.cells(n)] for n in names]
        )
    except (TypeError, ValueError) as error:
        raise AmodalError(f"{table}: {' and '.join(names)} are no numbers: {error}") from None
    rows = np.flatnonzero(np.isfinite(numbers).all(0))
    return numbers[:, rows].T, rows


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
