"""`python -m testbeds table`: every general method on every testbed, beside its yardsticks.

Trains what is missing and writes docs/testbeds.md from what is stored.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import testbeds
from amodal import methods
from amodal.modalities import name_of
from amodal.stats.interval import half_width
from amodal.studies import (
    Candidate,
    Cell,
    Outcome,
    Outcomes,
    Setup,
    Standing,
    Study,
    Trainer,
    final,
    jobs,
    standings,
    winner,
)
from amodal.train.small_networks import networks_of
from testbeds import studies
from testbeds.grid import ETA, RUNGS, TABLE
from testbeds.studies import Options, Setups, Stored, Yardsticks
from testbeds.testbed import Testbed

SEEDS = (0, 1, 2)
PAGE = studies.ROOT / "docs" / "testbeds.md"
HEAD = """# Testbeds

What each method learns on real sets of a few hundred to some thousand records, from scratch, at a
budget at which a control learns. Methods are compared on the validation part by the first task of a
testbed, alone or beside simple features, whichever is better: all of them at first, the better half
with twice the steps, twice. *Stopped at N*
is what a method had after N steps, when it was not among the better half. The best one is measured
on the test part, once. Intervals are 95 %, over seeds and records. Time is of one core.

Written by `python -m testbeds table` from `claims/testbeds/results/`.
"""


def main(arguments: Sequence[str]) -> int:
    """Go on with the studies of all testbeds, and write the page."""
    parser = argparse.ArgumentParser("python -m testbeds table", description=__doc__)
    studies.add_options(parser, studies.RESULTS / "table")
    parser.add_argument("--page", type=Path, default=PAGE, help="file of the table")
    parser.add_argument("--show", action="store_true", help="write the page, train nothing")
    asked = parser.parse_args(arguments)
    options = studies.read_options(asked, testbeds.names(), TABLE)
    if not asked.show:
        setups = Setups(options.beds, beside=True, small_recipes=True)
        for name in options.beds:
            train(testbeds.testbed(name), options, setups)
    write(asked.page, testbeds.names(), options.out)
    print(f"wrote {asked.page}")
    return 0


def train(bed: Testbed, options: Options, setups: Setups) -> None:
    """Go on with the study of a testbed, and measure its winner once it is finished."""
    stored = stored_of(bed, options, setups)
    first = Score(bed.primary.name)
    trainer = Trainer(setups, first)
    outcomes = studies.work(stored, trainer, options.deadline, options.limits)
    best = winner(stored.study, outcomes)
    if best is None or jobs(stored.study, outcomes):
        return
    last = Stored(options.out / f"{bed.name}.test.json", final(stored.study, best))
    studies.work(last, Trainer(setups, first, "test"), options.deadline, options.limits)


class Score:
    """The value of one task.

    Args:
        task: Its name.
    """

    def __init__(self, task: str) -> None:
        self.task = task

    def __call__(self, data: str, values: Any) -> float:
        return float(values[self.task])


def stored_of(bed: Testbed, options: Options, setups: Setups) -> Stored:
    """All methods that fit a testbed, each as it is trained on such data unless told otherwise."""
    path = options.out / f"{bed.name}.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    reasons, fitting = dict(about.get("unfit", {})), list(about.get("fitting", []))
    for name in options.methods:
        if name not in reasons and name not in fitting:
            if reason := studies.unfit(name, setups[bed.name]):
                reasons[name] = reason
            else:
                fitting.append(name)
    steps = {bed.name: options.first_steps(bed.steps)}
    candidates = tuple(
        candidate_of(name, bed, setups) for name in options.methods if name in fitting
    )
    study = Study(candidates, SEEDS, steps, RUNGS, ETA, name=bed.name)
    return Stored(path, study, {"unfit": reasons, "fitting": fitting})


def candidate_of(method: str, bed: Testbed, setups: Mapping[str, Setup]) -> Candidate:
    """A method with the recipe and the networks that it has for small data."""
    fields = {name: setups[bed.name].dataset.fields[name] for name in bed.fields}
    recipe = methods.small_recipe(method, [name_of(modality) for modality in fields.values()])
    backbones = {**networks_of(method, fields), **bed.backbones}
    return Candidate(method, recipe=recipe or {}, backbones=backbones, name=method)


def write(page: Path, names: Iterable[str], folder: Path) -> None:
    """Write the page from stored results."""
    parts, missing = [HEAD], []
    for name in names:
        path = folder / f"{name}.json"
        if path.exists() and not jobs(*read(path)):
            parts.append(section(testbeds.testbed(name), path))
        else:
            missing.append(f"`{name}`")
    if missing:
        parts.append(f"Not finished: {', '.join(missing)}.\n")
    page.write_text("\n".join(parts), encoding="utf-8")


def section(bed: Testbed, path: Path) -> str:
    """The part of the page about one testbed."""
    study, outcomes = read(path)
    about, task = json.loads(path.read_text(encoding="utf-8")), bed.primary
    rows = [row(study, outcomes, one, bed) for one in standings(study, outcomes)]
    head = ["method", task.name, "beside simple features", *(t.name for t in bed.tasks[1:])]
    head += ["steps", "s", "MiB", ""]
    most = study.steps_of(Cell(study.candidates[0].name, bed.name, 0, study.rungs - 1))
    lines = [
        f"## {bed.title} (`{bed.name}`)",
        "",
        verdict(study, outcomes, bed),
        "",
        f"{most} steps of {bed.batch_size} records. " + yardsticks_line(bed),
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *rows,
    ]
    for name, reason in sorted(about.get("unfit", {}).items()):
        lines += ["", f"`{name}` does not fit: {reason}"]
    test = path.with_name(f"{bed.name}.test.json")
    if test.exists():
        last, measured = read(test)
        values = tasks(measured.values(), task.name)
        if len(values) == len(last.seeds):
            name = last.candidates[0].name
            beside = tasks(measured.values(), task.name, "joined")
            more = f", beside simple features {shown(beside)}" if beside else ""
            lines += [
                "",
                f"On the test part, once: {name} {shown(values)}{more}. "
                + yardsticks_line(bed, "test"),
            ]
    return "\n".join([*lines, ""])


def verdict(study: Study, outcomes: Outcomes, bed: Testbed) -> str:
    """What to take here, in one sentence."""
    yardstick = Yardsticks(bed.name)
    others = {"simple features": yardstick.of(bed.primary.name, "simple features")}
    if (peer := yardstick.best_peer(bed.primary.name)) is not None:
        others[peer[0].strip()] = peer[1]
    known = {name: value for name, value in others.items() if value is not None}
    best = next(iter(standings(study, outcomes)), None)
    if best is None or not known:
        return ""
    ended = [outcomes[c] for c in study.cells([best.candidate], best.rung) if c in outcomes]
    cases = [tasks(ended, bed.primary.name, how) for how in ("value", "joined")]
    scores = max((some for some in cases if some), key=lambda s: mean(v for v, _ in s), default=[])
    if not scores:
        return ""
    value, half = mean(v for v, _ in scores), interval(scores)
    name = max(known, key=lambda one: known[one])
    if value - half > known[name]:
        return (
            f"**{best.candidate} is clearly above {name}** ({value:.3f} against {known[name]:.3f})."
        )
    clearly = "clearly " if value + half < known[name] else ""
    return (
        f"**No method is clearly above {name}** ({known[name]:.3f}; {best.candidate}, the best here, has "
        f"{value:.3f}{', ' + clearly + 'less' if value < known[name] else ''})."
    )


def yardsticks_line(bed: Testbed, part: str = "valid") -> str:
    """Chance, simple features and the best peer on a part, for each task."""
    yardstick, sentences = Yardsticks(bed.name, part), []
    for task in bed.tasks if part == "valid" else bed.tasks[:1]:
        parts = []
        for method in ("chance", "simple features"):
            value = yardstick.of(task.name, method)
            parts += [f"{method} {value:.3f}"] if value is not None else []
        if (peer := yardstick.best_peer(task.name)) is not None:
            parts.append(f"best peer {peer[1]:.3f} ({peer[0]})")
        sentences.append(f"{task.name} ({task.metric}): {', '.join(parts)}.")
    return " ".join(sentences)


def row(study: Study, outcomes: Outcomes, standing: Standing, bed: Testbed) -> str:
    """The line of one method."""
    cells = study.cells([standing.candidate], standing.rung)
    ended = [outcomes[cell] for cell in cells if cell in outcomes]
    seconds = [o.details.get("cpu_seconds", o.seconds) for o in ended]
    peak = max((o.details.get("peak_bytes", 0) for o in ended), default=0) / 2**20
    values = [tasks(ended, bed.primary.name), tasks(ended, bed.primary.name, "joined")]
    values += [tasks(ended, task.name) for task in bed.tasks[1:]]
    written = [
        standing.candidate,
        *(shown(some) if some else "" for some in values),
        str(study.steps_of(cells[0])),
        *((f"{mean(seconds):.0f}", f"{peak:,.0f}") if seconds else ("", "")),
        "" if standing.state == "done" else standing.state.replace("|", "/"),
    ]
    return f"| {' | '.join(written)} |"


def tasks(
    outcomes: Iterable[Outcome], task: str, value: str = "value"
) -> list[tuple[float, float]]:
    """(value, standard error over records) of a task in each trial that has it."""
    found = [o.details.get("tasks", {}).get(task) for o in outcomes]
    return [(one[value], one.get("standard_error", 0.0)) for one in found if one and value in one]


def shown(values: Sequence[tuple[float, float]]) -> str:
    """A mean with its interval, over seeds and records, which vary independently."""
    return f"{mean(value for value, _ in values):.3f} ± {interval(values):.3f}"


def interval(values: Sequence[tuple[float, float]]) -> float:
    """Half of the 95 % interval of a mean, over seeds and records."""
    numbers = [value for value, _ in values]
    over_seeds = half_width(numbers) if len(numbers) > 1 else 0.0
    over_records = 1.96 * mean(error for _, error in values)
    return math.hypot(over_seeds, over_records)


def read(path: Path) -> tuple[Study, Outcomes]:
    """A stored study and its outcomes."""
    written = json.loads(path.read_text(encoding="utf-8"))["study"]
    candidates = tuple(Candidate(**one) for one in written["candidates"])
    study = Study(
        candidates, tuple(written["seeds"]), written["steps"], written["rungs"], written["eta"]
    )
    return study, Stored(path, study).read()
