"""The verb that looks at the vectors of a run: diagnose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from amodal.cli.options import listed
from amodal.cli.own_code import NONE, Code
from amodal.cli.shared import Data, Run, show


def diagnose(
    run: Run,
    data: Data,
    only: Annotated[
        str,
        arg(
            metavar="A,B",
            help="spectrum, dimension, label_free, geometry, neighbours, volume; by default all "
            "these, and where the encoder has experts also experts: which fields go to which. "
            "layers: which layers of two pretrained backbones are most alike",
        ),
    ] = "",
    label: Annotated[
        str | None,
        arg(metavar="FIELD", help="also name records unlike the others of their class"),
    ] = None,
    part: Annotated[str | None, arg(help="train, valid or test; by default all records")] = None,
    records: Annotated[
        int, arg(help="use this number at most, drawn at random; all pairs are compared")
    ] = 5000,
    untrained: Annotated[bool, arg(help="also measure the untrained encoder")] = True,
    json: Annotated[Path | None, arg(help="write all numbers to this file")] = None,
    seed: int = 0,
    code: Code = NONE,
) -> None:
    """Say what the vectors of a run look like, without labels: dimensions in use, how fields lie to
    each other, and records whose fields disagree."""
    diagnosis = code.open(run).diagnose(
        data,
        only=listed(only) or (),
        label=label,
        part=part,
        records=records,
        untrained=untrained,
        seed=seed,
    )
    show(diagnosis.table())
    if json is not None:
        print(f"wrote {diagnosis.save(json)}")
