"""A claim is a test: what a paper is known for, measured again at small scale against its baseline.

A claim page `claims/amodal_claims/<key>.py` fixes, before its first run, CLAIM (in words), DATA, SEEDS,
COMPARISONS and `measure(seed, dataset) -> {arm or metric: value}`. The runner fetches DATA if it is
a public set that is not here, repeats `measure` over paired seeds, side by side with one thread
each, and writes the record, whatever it says, to `claims/amodal_claims/ledger/<key>.json`. A page may have
`picture(dataset, path)`, which draws the mechanism beside it.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rich.table import Table

from amodal.core import AmodalError, unknown
from amodal_claims._verdict import Comparison, Finding, judge

if TYPE_CHECKING:
    from amodal.data import Dataset

__all__ = ["Comparison", "Finding", "Record", "claim", "names", "recorded"]

LEDGER = Path(__file__).parent / "ledger"
VERDICTS = (
    "reproduced",
    "inconclusive",
    "not reproduced",
)  # best first; a claim is as good as its worst comparison


@dataclass(frozen=True)
class Record:
    """What the ledger keeps: the entry as it is written, and its findings."""

    entry: dict[str, Any]

    @property
    def verdict(self) -> str:
        return str(self.entry["verdict"])

    def table(self) -> Table:
        table = Table(
            title=f"{self.entry['key']}: {self.verdict}",
            caption=self.entry["claim"],
            caption_justify="left",
        )
        for column in (
            "comparison",
            "metric",
            "this",
            "against",
            "effect",
            "95 % interval",
            "verdict",
        ):
            table.add_column(column, overflow="fold")
        for f in self.entry["findings"]:
            low, high = f["interval"]
            table.add_row(
                f["what"],
                f["metric"],
                f"{f['this']:.3f}",
                f"{f['against']:.3f}",
                f"{f['effect']:+.3f}",
                f"{low:+.3f} … {high:+.3f}",
                f["verdict"],
            )
        return table


def names() -> list[str]:
    """The claims, one page each."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def page(key: str) -> ModuleType:
    """The page of a claim. Raises AmodalError, with the nearest names, where there is none."""
    key = key.replace("-", "_")
    if key not in names():
        raise unknown("claim", key, names())
    return importlib.import_module(f"amodal_claims.{key}")


def recorded(key: str) -> Record | None:
    """The ledger's entry, if the claim has been run."""
    file = LEDGER / f"{key}.json"
    return Record(json.loads(file.read_text())) if file.exists() else None


def claim(key: str, *, seeds: int | None = None, data: str | None = None) -> Record:
    """Run a claim and write its record: to the ledger if it ran on its own data and seeds, else to
    the working directory."""
    from amodal.data import sets

    fixed = page(key)
    seeds = fixed.SEEDS if seeds is None else seeds
    if seeds < 2:
        raise AmodalError(f"an interval needs at least 2 seeds, not {seeds}")
    own = data is None and seeds == fixed.SEEDS
    sets.ensure(data or fixed.DATA)
    begun = time.time()
    workers = min(seeds, os.cpu_count() or 1)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=_one_thread
    ) as pool:
        runs = [pool.submit(_measure, key, seed, data or fixed.DATA) for seed in range(seeds)]
        measured = []
        for run in runs:  # in the order of the seeds, whichever ends first
            measured.append(run.result())
            print(
                f"seed {len(measured) - 1}: "
                + ", ".join(f"{k} {v:.3f}" for k, v in measured[-1].items()),
                flush=True,
            )
    findings = [judge(c, measured) for c in fixed.COMPARISONS]
    entry = {
        "key": key,
        "claim": fixed.CLAIM,
        "verdict": max((f.verdict for f in findings), key=VERDICTS.index),
        "findings": [f.as_dict() for f in findings],
        "measured": measured,
        "seeds": seeds,
        "data": _data_of(data or fixed.DATA),
        "seconds": round(time.time() - begun),
        "date": time.strftime("%Y-%m-%d"),
        **_surroundings(),
    }
    LEDGER.mkdir(exist_ok=True)
    file = LEDGER / f"{key}.json" if own else Path(f"{key}.claim.json")
    file.write_text(json.dumps(entry, indent=1) + "\n")
    print(f"wrote {file}")
    if hasattr(fixed, "picture"):
        fixed.picture(_open(data or fixed.DATA), file.with_suffix(".png"))
        print(f"wrote {file.with_suffix('.png')}")
    return Record(entry)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def _measure(key: str, seed: int, data: str) -> dict[str, float]:
    measured: dict[str, float] = page(key).measure(seed, _open(data))
    return measured


def _open(data: str) -> Dataset:
    from amodal.data import open as open_data

    return open_data(data)


def _data_of(data: str) -> dict[str, Any]:
    dataset = _open(data)
    return {"name": dataset.name, "records": len(dataset), "fingerprint": dataset.fingerprint}


def _surroundings() -> dict[str, Any]:
    import platform

    import amodal
    from amodal.train.run_dir import versions

    return {
        "amodal": amodal.__version__,
        "versions": versions(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
    }
