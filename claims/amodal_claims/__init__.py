"""A claim is a test: what a paper is known for, measured again at small scale against its baseline.

A claim page `claims/amodal_claims/<key>.py` fixes, before its first run,

- CLAIM, in words, and DATA, the name of a set;
- PRIMARY, the comparison that decides, with the smallest effect of interest; SECONDARY, others that
  are reported beside it;
- FLOORS, names of what the control arm has to clear: chance, the untrained encoder, simple features;
- STEPS, lengths of training that the pilot may choose from, the shortest first;
- `floors(seed, dataset) -> {name: value}`; `control(seed, dataset, steps) -> {name: value}`, the
  control arm alone (`PRIMARY.against`, or CONTROL); `measure(seed, dataset, steps) -> {name: value}`,
  all arms. More is better in all of them.

`claim` runs the pilot of the control, prints and stores what it plans (`ledger/plans/<key>.json`),
measures, and writes the record, whatever it says, to `ledger/<key>.json`. A page may have
`picture(dataset, path)`, which draws the mechanism beside it.

Pages that were written before there were pilots have COMPARISONS, SEEDS and `measure(seed, dataset)`:
they are as good as their worst comparison, and nothing says what they could have found.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rich.table import Table

from amodal.core import AmodalError, unknown
from amodal_claims._verdict import (
    VERDICTS,
    Comparison,
    Finding,
    Judgement,
    decide,
    found_by,
    judge,
)

if TYPE_CHECKING:
    from amodal_claims._power import Measurements, Plan
    from amodal_claims._runner import Work

__all__ = [
    "VERDICTS",
    "Comparison",
    "Finding",
    "Judgement",
    "Record",
    "claim",
    "comparisons",
    "decide",
    "found_by",
    "has_pilot",
    "judge",
    "names",
    "recorded",
    "verdict_of_all",
]

LEDGER = Path(__file__).parent / "ledger"
WORST_LAST = ("reproduced", "inconclusive", "not reproduced")
COLUMNS = ("comparison", "metric", "this", "against", "effect", "95 % interval", "verdict")


@dataclass(frozen=True)
class Record:
    """What the ledger keeps: the entry as it is written, and its findings."""

    entry: dict[str, Any]

    @property
    def verdict(self) -> str:
        return str(self.entry["verdict"])

    @property
    def reason(self) -> str:
        """Why the verdict is what it is; "" for a claim without a pilot."""
        return str(self.entry.get("reason", ""))

    def table(self) -> Table:
        table = Table(
            title=f"{self.entry['key']}: {self.verdict}"
            + (f" ({self.reason})" * bool(self.reason)),
            caption=self.entry["claim"],
            caption_justify="left",
        )
        for column in COLUMNS:
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


def has_pilot(fixed: ModuleType) -> bool:
    """Whether a page fixes what decides, and its floors."""
    return hasattr(fixed, "PRIMARY")


def comparisons(fixed: ModuleType) -> tuple[Comparison, ...]:
    """All of a page, the one that decides first if there is one."""
    if has_pilot(fixed):
        return (fixed.PRIMARY, *getattr(fixed, "SECONDARY", ()))
    return tuple(fixed.COMPARISONS)


def recorded(key: str) -> Record | None:
    """The ledger's entry, if the claim has been run."""
    file = LEDGER / f"{key}.json"
    return Record(json.loads(file.read_text())) if file.exists() else None


def claim(
    key: str,
    *,
    seeds: int | None = None,
    data: str | None = None,
    budget: float | None = None,
    workers: int | None = None,
) -> Record:
    """Run a claim and write its record: to the ledger if it ran on its own data and seeds, else to
    the working directory.

    Args:
        key: Of the claim.
        seeds: By default those of the plan that follows from the pilot.
        data: Other data with the same fields and labels, by default the claim's.
        budget: Seconds; the same call goes on where they ended. None for as long as it takes.
        workers: Processes, by default one a processor.

    Raises:
        AmodalError: There is no such claim, there are too few seeds, a seed failed, or the time is
            up.
    """
    from amodal.data import sets
    from amodal_claims._runner import Work, opened

    fixed = page(key)
    if seeds is not None and seeds < 2:
        raise AmodalError(f"an interval needs at least 2 seeds, not {seeds}")
    in_ledger = data is None and seeds in (None, getattr(fixed, "SEEDS", None))
    sets.ensure(data or fixed.DATA)
    begun = time.time()
    folder = LEDGER / "journals" if in_ledger else Path()
    work = Work(
        key,
        data or fixed.DATA,
        folder / f"{key}.claim.journal",
        workers or os.cpu_count() or 1,
        None if budget is None else begun + budget,
    )
    entry = _measured(fixed, work, seeds, in_ledger) | {
        "data": _data_of(data or fixed.DATA),
        "seconds": round(time.time() - begun),
        "date": time.strftime("%Y-%m-%d"),
        **_surroundings(),
    }
    file = LEDGER / f"{key}.json" if in_ledger else Path(f"{key}.claim.json")
    _write(file, entry)
    for file_of_processes in work.journal.parent.glob(f"{work.journal.name}*"):
        file_of_processes.unlink(missing_ok=True)
    if hasattr(fixed, "picture"):
        fixed.picture(opened(data or fixed.DATA), file.with_suffix(".png"))
        print(f"wrote {file.with_suffix('.png')}")
    return Record(entry)


def _measured(fixed: ModuleType, work: Work, seeds: int | None, in_ledger: bool) -> dict[str, Any]:
    """What the ledger says of the seeds, without the surroundings."""
    from amodal_claims import _runner

    if not has_pilot(fixed):
        measured = work.measured(_runner.MEASURE, range(seeds or fixed.SEEDS), None)
        findings = [judge(c, measured) for c in comparisons(fixed)]
        return _entry(work.page, fixed, verdict_of_all(findings), findings, measured)
    plan = _runner.planned(work, fixed)
    print(f"{work.page}: {plan}", flush=True)
    plans = LEDGER / "plans" if in_ledger else Path()
    _write(plans / f"{work.page}{'' if in_ledger else '.plan'}.json", plan.as_dict())
    if plan.below:
        return _entry(work.page, fixed, "no power", [], []) | _of_plan(plan, str(plan), None)
    if seeds is None:
        measured = _runner.of_all_seeds(work, fixed, plan)
    else:
        measured = _runner.beside(work, _runner.MEASURE, range(seeds), plan.steps)
    judged = decide(fixed.PRIMARY, _runner.control_of(fixed), fixed.FLOORS, measured)
    findings = [judge(c, measured) for c in comparisons(fixed)]
    entry = _entry(work.page, fixed, judged.verdict, findings, measured)
    return entry | _of_plan(plan, judged.reason, judged.detectable)


def verdict_of_all(findings: list[Finding]) -> str:
    """Of a claim without a pilot: it is as good as its worst comparison."""
    return max((f.verdict for f in findings), key=WORST_LAST.index)


def _entry(
    key: str,
    fixed: ModuleType,
    verdict: str,
    findings: list[Finding],
    measured: Measurements,
) -> dict[str, Any]:
    return {
        "key": key,
        "claim": fixed.CLAIM,
        "verdict": verdict,
        "findings": [f.as_dict() for f in findings],
        "measured": list(measured),
        "seeds": len(measured),
    }


def _of_plan(plan: Plan, reason: str, smallest: float | None) -> dict[str, Any]:
    rounded = None if smallest is None else round(smallest, 5)
    return {"reason": reason, "detectable": rounded, "plan": plan.as_dict()}


def _write(file: Path, entry: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(entry, indent=1) + "\n")
    print(f"wrote {file}", flush=True)


def _data_of(data: str) -> dict[str, Any]:
    from amodal_claims._runner import opened

    dataset = opened(data)
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
