"""`python -m testbeds race`: what `pretrain` does by default beside what a user of another library
runs, after equal CPU time.

Each side trains for so many CPU seconds, data and augmentation included, with a schedule of that
length, and is measured by the same probes on the validation part. Chance, simple features and the
best of the usual estimators stand beside. Writes docs/race.md from what is stored.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import testbeds
from amodal.core import AmodalError
from amodal.stats.interval import half_width
from amodal.studies import Candidate, Cell, Check, Job, Measured, Outcomes, Study, Trainer, jobs
from amodal.studies.questions import answer
from testbeds import studies
from testbeds.commands.table import candidate_of, read
from testbeds.peers import pretraining
from testbeds.studies import Options, Setups, Stored, Yardsticks
from testbeds.testbed import Testbed

SEEDS = (0, 1, 2)
OURS = "amodal"
SECONDS = 300
"""Of a training, on one core."""
RACES = {
    "byol": ("fashion_mnist", "lightly"),
    "clip": ("tuxpaint", "open_clip"),
    "dino": ("fashion_mnist", "lightly"),
    "mae": ("fashion_mnist", "lightly"),
    "simclr": ("fashion_mnist", "lightly"),
}
"""Method -> testbed, and the library whose users are raced."""
FIELDS = {"fashion_mnist": ("image",), "tuxpaint": ("image", "caption")}
"""That are trained on."""
PAGE = studies.ROOT / "docs" / "race.md"
WARMING = 4
"""Steps before those that are timed."""


def main(arguments: Sequence[str]) -> int:
    """Go on with all races, and write the page."""
    parser = argparse.ArgumentParser("python -m testbeds race", description=__doc__)
    studies.add_options(parser, studies.RESULTS / "race")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="CPU time of a training")
    parser.add_argument("--page", type=Path, default=PAGE, help="file of the table")
    parser.add_argument("--show", action="store_true", help="write the page, train nothing")
    asked = parser.parse_args(arguments)
    options = studies.read_options(asked, list(FIELDS), tuple(RACES))
    if not asked.show:
        for method in options.methods:
            bed = bed_of(method)
            if bed.name in options.beds:
                stored = Stored(options.out / f"{method}.json", study_of(method, asked.seconds))
                studies.work(stored, Race(method), options.deadline, options.limits)
    write(asked.page, options)
    print(f"wrote {asked.page}")
    return 0


def bed_of(method: str) -> Testbed:
    """The testbed of a race, with the fields and tasks that it needs."""
    bed = testbeds.testbed(RACES[method][0])
    fields = FIELDS[bed.name]
    tasks = tuple(task for task in bed.tasks if {*task.fields} <= {*fields})
    return replace(bed, fields=fields, tasks=tasks, peers=())


def study_of(method: str, seconds: int) -> Study:
    """Both sides with paired seeds; what a study counts in steps are seconds here."""
    sides = tuple(Candidate(method, name=side) for side in (OURS, RACES[method][1]))
    return Study(sides, SEEDS, {RACES[method][0]: seconds}, rungs=1, name=f"race of {method}")


@dataclass(frozen=True)
class Race:
    """The objective of a race.

    Args:
        method: Of RACES.
    """

    method: str

    def __call__(self, job: Job, check: Check) -> Measured:
        """Train one side for `job.steps` CPU seconds, and measure it."""
        bed = bed_of(self.method)
        setup = Setups([bed.name], small_recipes=True)[bed.name]
        dataset = setup.dataset.select(bed.fields)
        setup = replace(setup, dataset=dataset, questions=bed.tasks)
        side = job.candidate.name
        if side == OURS:
            setups = {bed.name: setup}
            candidate = replace(candidate_of(self.method, bed, setups), name=OURS)
            one = replace(job, candidate=candidate)
            steps = max(1, round(job.steps / pace_of(setups, one, check)))
            measured = Trainer(setups)(replace(one, steps=steps), check)
            tasks = measured.details["tasks"]
        else:
            data = pretraining.Data(dataset, *bed.fields)
            recipe, steps = pretraining.pretrained(
                self.method,
                data,
                batch_size=bed.batch_size,
                seed=job.seed,
                seconds=job.steps,
                check=check,
            )
            pair = pretraining.embedded(recipe, data, "valid")
            tasks = {t.name: answer(t, None, dataset, pair, job.seed) for t in bed.tasks}
        return Measured(tasks[bed.primary.name]["value"], {"steps": steps, "tasks": tasks})


class _Timed(Exception):
    """Enough steps were timed."""


def pace_of(setups: Any, job: Job, check: Check, timed: int = pretraining.TIMED) -> float:
    """CPU seconds of a step of ours."""
    times: list[float] = []

    def count() -> None:
        check()
        times.append(time.process_time())
        if len(times) > timed + WARMING:
            raise _Timed

    try:
        Trainer(setups)(replace(job, steps=10 * timed), count)
    except _Timed:
        pass
    else:
        raise AmodalError(f"{job.candidate.method} took fewer than {timed} steps")
    return mean(b - a for a, b in zip(times[WARMING:], times[WARMING + 1 :]))


def write(page: Path, options: Options) -> None:
    """Write the page from stored results."""
    parts, missing = [HEAD], []
    for method in RACES:
        path = options.out / f"{method}.json"
        if not path.exists():
            missing.append(method)
            continue
        study, outcomes = read(path)
        parts.append(section(method, study, outcomes))
        if jobs(study, outcomes):
            missing.append(method)
    if missing:
        parts.append(f"Not finished: {', '.join(f'`{name}`' for name in missing)}.\n")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts), encoding="utf-8")


HEAD = """# Races

What `pretrain` does by default beside what a user of another library runs, after equal CPU time on
one core (data and augmentation included), measured by the same probes on the validation part. Seeds
are paired; intervals are 95 %, over seeds.

Written by `python -m testbeds race` from `claims/testbeds/results/race`; what the other side runs
is in `claims/testbeds/peers/pretraining.py`.
"""


def section(method: str, study: Study, outcomes: Outcomes) -> str:
    """A race, the verdict in its first sentence."""
    bed, library = bed_of(method), RACES[method][1]
    seconds = next(iter(study.first_steps.values()))
    rows = {side: _values(bed, side, outcomes) for side in (OURS, library)}
    lines = [f"## {method} on {bed.title.lower()} (`{bed.name}`)\n"]
    lines.append(f"{verdict(bed, rows, library)} {seconds} CPU seconds a training.\n")
    lines.append(
        "| task | chance | simple features | " + f"{OURS} | {library} | {OURS} - {library} |"
    )
    lines.append("|---|---|---|---|---|---|")
    yardstick = Yardsticks(bed.name)
    for task in bed.tasks:
        chance, simple = (yardstick.of(task.name, n) for n in ("chance", "simple features"))
        ours, theirs = (rows[side].get(task.name, {}) for side in (OURS, library))
        both = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        cells = [
            _number(chance),
            _number(simple),
            _cell([*ours.values()]),
            _cell([*theirs.values()]),
        ]
        lines.append(
            f"| {task.name} ({task.metric}) | " + " | ".join([*cells, _cell(both, "+")]) + " |"
        )
    steps = {
        side: [
            o.details["steps"]
            for c, o in outcomes.items()
            if c.candidate == side and o.details.get("steps")
        ]
        for side in rows
    }
    counted = ", ".join(f"{side} {mean(n):,.0f}" for side, n in steps.items() if n)
    lines.append(f"\nSteps of {bed.batch_size} records: {counted}.\n")
    return "\n".join(lines)


def verdict(bed: Testbed, rows: dict[str, dict[str, dict[int, float]]], library: str) -> str:
    """Who is ahead in the first task, and whether simple features are ahead of both."""
    task = bed.primary
    ours, theirs = (rows[side].get(task.name, {}) for side in (OURS, library))
    both = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if len(both) < 2:
        return "**Not finished.**"
    lead, half = mean(both), half_width(both)
    words = "ahead of" if lead > half else "behind" if lead < -half else "not clearly apart from"
    simple = Yardsticks(bed.name).of(task.name, "simple features")
    best = max(mean(ours.values()), mean(theirs.values()))
    beaten = simple is not None and best < simple
    return f"**amodal is {words} {library}{', and simple features beat both' * beaten}.**"


def _values(bed: Testbed, side: str, outcomes: Outcomes) -> dict[str, dict[int, float]]:
    """Task -> seed -> value."""
    ends: dict[Cell, Any] = {
        c: o for c, o in outcomes.items() if c.candidate == side and not o.failed
    }
    return {
        task.name: {c.seed: float(o.details["tasks"][task.name]["value"]) for c, o in ends.items()}
        for task in bed.tasks
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cell(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return ""
    half = f" ± {half_width(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.3f}{half}"
