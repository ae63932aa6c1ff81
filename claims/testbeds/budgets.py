"""How many steps a control needs on a testbed: measured once, not guessed.

The control is CLIP where a testbed has fields to pair and SimCLR where it has one, with its page's
own recipe, of the testbed's size. Runs of 100, 200, 400, 800 and 1,600 steps, each with a schedule
of its own, are measured on the validation part by the primary task. The budget is the first length
at which the value is above the 95 % interval of the same encoder before training; where none is,
the last one that was tried, and `learns` is false: a difference between methods says little there.
Where the encoder before training may be right on everything, nothing longer is tried.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import amodal
from amodal.inference.embed import embed_records
from amodal.nn.backbones.pretrained import TOKENS
from amodal.nn.encoder import Encoder
from testbeds.measures import Piece, Score, eligible, score
from testbeds.probing import probed
from testbeds.testbed import Records, Testbed

RESULTS = Path(__file__).parent / "results" / "budgets"
LENGTHS = (100, 200, 400, 800, 1600)


def control(bed: Testbed) -> str:
    """The method that a budget is measured with."""
    return "clip" if len(bed.fields) > 1 else "simclr"


def measure(
    bed: Testbed,
    *,
    lengths: Sequence[int] = LENGTHS,
    folder: Path = RESULTS,
    say: Callable[[str], object] = print,
) -> Path:
    """Train the control longer and longer until it has learnt, and write what was measured.

    Args:
        bed: the testbed.
        lengths: in steps, ascending.
        folder: of NAME.json.
        say: takes the lines about progress.

    Returns:
        The file.
    """
    rows: list[dict[str, Any]] = []
    learns = False
    for steps in lengths:
        row = _run(bed, steps)
        rows.append(row)
        learns = row["value"] > row["untrained_interval"][1]
        say(
            f"{bed.name} · {control(bed)} · {steps} steps: {row['value']} (untrained {row['untrained']})"
        )
        if learns or row["untrained_interval"][1] >= 1:
            break
    about = {
        "testbed": bed.name,
        "task": bed.primary.name,
        "metric": bed.primary.metric,
        "control": control(bed),
        "batch_size": bed.batch_size,
        "size": bed.size,
        "steps": rows[-1]["steps"],
        "learns": learns,
        "rows": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{bed.name}.json"
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return path


def read(name: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """What was measured of a testbed, None if nothing was."""
    path = folder / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def reason(bed: Testbed, folder: Path = RESULTS) -> str:
    """Where the budget of a testbed comes from, in words."""
    found = read(bed.name, folder)
    if found is None:
        return "not measured yet, a guess"
    last = found["rows"][-1]
    gain = (
        f"{found['control']} from {last['untrained']:.3f} to {last['value']:.3f} ({found['task']})"
    )
    if found["learns"]:
        return f"measured: the first length at which the control learns, {gain}"
    return f"measured: the control does not learn within it, {gain}"


def _run(bed: Testbed, steps: int) -> dict[str, Any]:
    data, started = bed.open(), time.perf_counter()
    # always with tokens: the budget must not change with the networks that are chosen within it
    settings: dict[str, Any] = {
        "backbones": dict.fromkeys(bed.fields, TOKENS) | dict(bed.backbones)
    }
    settings |= {"cache_features": "mean"} if bed.backbones else {}
    with tempfile.TemporaryDirectory() as folder:
        model = amodal.pretrain(
            control(bed),
            data,
            folder,
            steps=steps,
            batch_size=min(bed.batch_size, len(data.split("train"))),
            size=bed.size,
            seed=0,
            progress=False,
            logger=None,
            **settings,
        )
        seconds = round(time.perf_counter() - started, 1)
        trained, before = (_score(bed, one) for one in (model.encoder, model.untrained().encoder))
    return {
        "steps": steps,
        "value": round(trained.value, 4),
        "interval": [round(trained.low, 4), round(trained.high, 4)],
        "untrained": round(before.value, 4),
        "untrained_interval": [round(before.low, 4), round(before.high, 4)],
        "seconds": seconds,
    }


def _score(bed: Testbed, encoder: Encoder) -> Score:
    """The primary task on the validation part; survival is not cross-validated here."""
    task = bed.primary
    data = bed.open().with_fields(encoder.fields)
    train, valid = (eligible(Records(data, data.split(part)), task) for part in ("train", "valid"))
    pair = (embed_records(encoder, data, train.rows), embed_records(encoder, data, valid.rows))
    return score(task, [Piece(valid, probed(task, pair, train, valid, task.source(bed.fields)))])
