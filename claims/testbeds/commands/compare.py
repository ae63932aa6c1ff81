"""`python -m testbeds compare`: what `amodal compare` chooses on each testbed, beside yardsticks and
peers.

As users get it, with one budget for all: it chooses on the validation part, and what was chosen is
measured once on the test part. Simple features and the best peer stand beside it there
(`python -m testbeds yardsticks --test` measures these). Writes docs/choices.md from what is stored.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import amodal
import testbeds
from amodal.core import AmodalError
from amodal.core.whole_file import whole_file
from amodal.studies.compare import compare as run
from amodal.studies.compare import seconds_of
from amodal.studies.comparison import Comparison, Entry
from amodal.studies.final_test import RUN
from amodal.studies.task import RECALL
from testbeds import studies
from testbeds.studies import Yardsticks
from testbeds.testbed import Task, Testbed

PAGE = studies.ROOT / "docs" / "choices.md"
FROM_SCRATCH = ("openmoji",)
"""Testbeds that are about training from scratch; their data with frozen encoders is another one."""
METRICS = {f"R@{RECALL}": f"recall@{RECALL}"}
"""Of testbeds -> as `compare` calls them."""


def main(arguments: Sequence[str]) -> int:
    """Compare on the testbeds that are not stored, and write the page."""
    parser = argparse.ArgumentParser("python -m testbeds compare", description=__doc__)
    parser.add_argument("names", nargs="*", help="testbeds; by default all")
    parser.add_argument("--budget", default="6m", help="of each comparison, such as 6m")
    parser.add_argument("--out", type=Path, default=studies.RESULTS / "compare")
    parser.add_argument("--page", type=Path, default=PAGE, help="file of the table")
    parser.add_argument("--show", action="store_true", help="write the page, train nothing")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in [] if asked.show else asked.names or testbeds.names():
        bed, file = testbeds.testbed(name), asked.out / f"{name}.json"
        if file.exists():
            continue
        result = measured(bed, seconds_of(asked.budget))
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as draft:
            draft.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {result['sentence']}; {shown(result)} on the test part")
    results = [
        json.loads(file.read_text(encoding="utf-8"))
        for name in testbeds.names()
        if (file := asked.out / f"{name}.json").exists()
    ]
    asked.page.write_text(page(results), encoding="utf-8")
    print(f"wrote {asked.page}")
    return 0


def measured(bed: Testbed, budget: float) -> dict[str, Any]:
    """What `compare` chooses, and has on the test part."""
    task, began = bed.primary, time.perf_counter()
    dataset = bed.open().select(task.fields or bed.fields)
    retrieval = task.protocol == "retrieval"
    with tempfile.TemporaryDirectory() as folder:
        found = None
        # where other work took the processor its time may be up: the same call goes on
        while found is None or not is_over(found):
            found = run(
                dataset,
                None if retrieval else task.label,
                out=Path(folder) / "out",
                task="retrieval" if retrieval else "auto",
                metric="auto" if retrieval else task.row_metric,
                budget=budget,
                frozen="none" if bed.name in FROM_SCRATCH else dict(bed.backbones) or "auto",
                progress=False,
            )
    choice = found.choice
    if choice is None or "test" not in found.about:
        raise AmodalError(f"nothing could be chosen or tested on {bed.name}: {found.sentence}")
    parts = found.about["parts"]
    return {
        "testbed": bed.name,
        "title": found.title,
        "sentence": found.sentence,
        "choice": choice.name,
        "kind": kind_of(choice),
        "protocol": choice.protocol,
        "features": choice.features,
        "validation": choice.value,
        "test": found.about["test"],
        "against": found.about.get("against", []),
        "half": choice.half * math.sqrt(parts["valid"] / max(parts["test"], 1)),
        "frozen": found.about.get("frozen", {}),
        "entries": entries_of(found),
        "budget_seconds": budget,
        "seconds": round(time.perf_counter() - began, 1),
        "versions": {"amodal": amodal.__version__, "torch": torch.__version__},
        "commit": studies.commit(),
    }


def is_over(comparison: Comparison) -> bool:
    """Whether another call would add nothing: its winner is tested, or there will be none."""
    nothing = comparison.finished and comparison.winner is None
    return not comparison.candidates or nothing or RUN in comparison.about


def kind_of(entry: Entry) -> str:
    """ "simple", "frozen" or "learnt". A closed form between frozen encoders learns no weights by
    steps, and is what "frozen" means between fields."""
    if entry.kind != "candidate":
        return entry.kind
    return "frozen" if entry.name.startswith("closed form") else "learnt"


def entries_of(comparison: Comparison) -> list[dict[str, Any]]:
    """The lines of a comparison, without curves."""
    names = ("name", "kind", "value", "half", "features", "alone", "steps", "state")
    return [{name: row[name] for name in names} for row in comparison.rows()]


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The page, the counts first."""
    lines, level, learnt, counted = [], 0, 0, 0
    for result in results:
        bed = testbeds.testbed(result["testbed"])
        simple, peer = yardsticks_of(bed, result)
        best = max(
            [value for value in (simple, peer and peer[1]) if value is not None], default=None
        )
        if best is not None:
            counted += 1
            level += result["test"] + result["half"] >= best
        learnt += is_clear(result)
        best_learnt = next((e for e in result["entries"] if e["kind"] == "candidate"), None)
        gaps = [
            f"{one['difference']:+.3f} ({one['interval'][0]:+.3f} to {one['interval'][1]:+.3f})"
            for one in result.get("against", ())
            if one["interval"] is not None
        ]
        cells = [
            f"`{bed.name}`",
            result["title"],
            by_trees(result)
            + result["choice"]
            + (f", {result['features']}" if result["features"] != "alone" else ""),
            shown(result),
            ", ".join(gaps),
            "" if simple is None else f"{simple:.3f}",
            "" if peer is None else f"{peer[1]:.3f} ({peer[0].strip()})",
            "" if best_learnt is None else f"{best_learnt['name']} {number(best_learnt['value'])}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    minutes = sorted({result["budget_seconds"] / 60 for result in results}) or [0.0]
    budgets = " to ".join(f"{n:g}" for n in dict.fromkeys((minutes[0], minutes[-1])))
    head = HEAD.format(
        level=level, counted=counted, learnt=learnt, beds=len(results), budgets=budgets
    )
    rest = [name for name in testbeds.names() if name not in {r["testbed"] for r in results}]
    tail = f"\nNot measured yet: {', '.join(f'`{name}`' for name in rest)}.\n" if rest else ""
    return head + "\n".join(lines) + "\n" + tail


HEAD = """# What `compare` chooses

On {level} of {counted} testbeds what `amodal compare` chose is level with or above the better of
simple features and the best peer, within its interval. On {learnt} of {beds} the choice is something
that was learnt, and clearly above simple features and frozen encoders.

Each had {budgets} minutes on one core of a busy machine, chose on the validation part, and was measured
once on the test part. Intervals are 95 %, over records. Peers are estimators with documented defaults
and tuned; see [cards](testbeds-cards.md). "Best trained" is on the validation part, alone or beside
simple features, whether it was chosen or not. The testbeds ask their simple features by estimators
of their own, so the same choice may have another value there. Where nothing is the best trained,
the time paid for no training. "Above its rivals": what was chosen less the best simple features and
less the best of frozen encoders that `compare` measured, each with the paired 95 % interval.

Written by `python -m testbeds compare` from `claims/testbeds/results/compare`.

| testbed | asked | choice | on the test part | above its rivals | simple features | best peer | best trained |
|---|---|---|---|---|---|---|---|
"""


def by_trees(result: Mapping[str, Any]) -> str:
    """What to put before a choice that was learnt and is read by trees."""
    learnt = result["kind"] == "learnt"
    return "boosted trees on " if learnt and result.get("protocol") == "boosting" else ""


def yardsticks_of(
    bed: Testbed, result: Mapping[str, Any]
) -> tuple[float | None, tuple[str, float] | None]:
    """Simple features and the best peer on the test part, by what `compare` asked; None where they
    were measured by something else, or not yet."""
    tasks = same_tasks(bed)
    metric, title = METRICS.get(bed.primary.metric, bed.primary.metric), result["title"]
    if f"({metric}, " not in title and not title.startswith(f"{metric} "):
        return None, None
    yardsticks = Yardsticks(bed.name, "test")
    try:
        simple = [yardsticks.of(task.name, "simple features") for task in tasks]
        peers = [yardsticks.best_peer(task.name) for task in tasks]
    except AmodalError:
        return None, None
    value = mean(v for v in simple if v is not None) if None not in simple else None
    here = [peer for peer in peers if peer is not None]
    if len(here) < len(peers):
        return value, None
    return value, (" / ".join(dict.fromkeys(p[0].strip() for p in here)), mean(p[1] for p in here))


def same_tasks(bed: Testbed) -> list[Task]:
    """The primary task, and for retrieval the other direction too, as `compare` asks for both."""
    first = bed.primary
    if first.protocol != "retrieval":
        return [first]
    return [task for task in bed.tasks if {*task.fields} == {*first.fields} and task.label is None]


def is_clear(result: Mapping[str, Any]) -> bool:
    """Whether what was chosen is learnt, and clearly above simple features and frozen encoders: by
    the paired intervals on the test part; by the intervals on the validation part in results that
    are older than these."""
    if result["kind"] != "learnt":
        return False
    if rivals := result.get("against"):
        return all(one["interval"] is not None and one["interval"][0] > 0 for one in rivals)
    entries = result["entries"]
    chosen = next(e for e in entries if e["name"] == result["choice"])
    others = [
        e
        for e in entries
        if e["value"] is not None
        and (e["kind"] in ("simple", "frozen") or e["name"].startswith("closed form"))
    ]
    return all(
        chosen["value"] - other["value"] > math.hypot(chosen["half"], other["half"] or 0.0)
        for other in others
    )


def shown(result: Mapping[str, Any]) -> str:
    """The value on the test part."""
    return f"{result['test']:.3f} ±{result['half']:.3f}"


def number(value: float | None) -> str:
    """With three digits."""
    return "failed" if value is None else f"{value:.3f}"
