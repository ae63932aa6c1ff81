"""`python -m testbeds defaults`: which recipe is the best for a method on small data.

Writes the winner of each method to amodal/methods/small_recipes.toml, once its study is finished.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import tomlkit

import amodal.methods
import testbeds
from amodal.stats.interval import half_width
from amodal.studies import Candidate, Outcomes, Study, Trainer, jobs, standings, winner
from testbeds import studies
from testbeds.grid import ETA, RUNGS, SEEDS, STEPS, recipes
from testbeds.studies import OnTestbeds, Options, Setups, Stored

FILE = Path(amodal.methods.__file__).parent / "small_recipes.toml"
MIN_BEDS = 3
"""Testbeds of a kind, below which it gets no recipe of its own."""


def main(arguments: Sequence[str]) -> int:
    """Go on with the studies of all methods, and write what is finished."""
    parser = argparse.ArgumentParser("python -m testbeds defaults", description=__doc__)
    studies.add_options(parser, studies.RESULTS / "defaults")
    parser.add_argument("--write", type=Path, default=FILE, help="file of the winners")
    asked = parser.parse_args(arguments)
    options = studies.read_options(asked, tuple(STEPS))
    setups = Setups(options.beds)
    for method in options.methods:
        stored = study_of(method, options, setups)
        if stored is None:
            print(f"{method} fits none of {', '.join(options.beds)}")
            continue
        trainer = OnTestbeds(Trainer(setups))
        outcomes = studies.work(stored, trainer, options.deadline, options.limits)
        left = len(jobs(stored.study, outcomes))
        for standing in standings(stored.study, outcomes):
            score = "" if standing.score is None else f"{standing.score:+.3f}  "
            print(f"{method}: {standing.candidate}: {score}{standing.state}")
        if not left:
            write(asked.write, method, stored, outcomes, arguments)
    return 0


def study_of(method: str, options: Options, setups: Setups) -> Stored | None:
    """The study of a method on the testbeds that it fits, None if there are none."""
    path = options.out / f"{method}.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    reasons, kinds = dict(about.get("unfit", {})), dict(about.get("kinds", {}))
    for name in options.beds:
        if name not in reasons and name not in kinds:
            if reason := studies.unfit(method, setups[name]):
                reasons[name] = reason
            else:
                kinds[name] = studies.kind(testbeds.testbed(name), setups[name])
    fitting = [
        name
        for name in options.beds
        if name in kinds and studies.counted(testbeds.testbed(name), method)
    ]
    if not fitting:
        return None
    steps = {name: STEPS.get(name, testbeds.testbed(name).steps) for name in fitting}
    first = {name: options.first_steps(n) for name, n in steps.items()}
    candidates = tuple(
        Candidate(method, recipe=recipe, name=name) for name, recipe in recipes(method).items()
    )
    study = Study(candidates, SEEDS, first, RUNGS, ETA, name=method)
    return Stored(path, study, {"unfit": reasons, "kinds": kinds})


def write(
    file: Path, method: str, stored: Stored, outcomes: Outcomes, arguments: Sequence[str]
) -> None:
    """Write the winner of a finished study, beside those of other methods that are in the file."""
    study, best = stored.study, winner(stored.study, outcomes)
    if best is None:
        return
    table: dict[str, Any] = {"recipe": study.candidate(best).written()["recipe"]}
    own = {
        kind: study.candidate(name).written()["recipe"]
        for kind, name in by_kind(stored, outcomes, best).items()
    }
    table["kinds"] = own
    write_table(file, method, table, arguments, "defaults")
    print(f"wrote {best!r} for {method} to {file}")


def write_table(
    file: Path, method: str, table: Mapping[str, Any], arguments: Sequence[str], command: str
) -> None:
    """Replace entries of a method's table, and leave its others and other methods as they are.

    Args:
        file: Of the winners.
        method: Its name.
        table: Name -> new value; an empty one is left out.
        arguments: Of the command.
        command: Of `python -m testbeds`.
    """
    before = tomlkit.parse(file.read_text(encoding="utf-8")).unwrap() if file.exists() else {}
    entries = {n: v for n, v in {**before.get(method, {}), **table}.items() if v or n == "recipe"}
    document = tomlkit.document()
    for line in (
        "Recipes and encoders for small data: changes of the plain recipe, and networks from scratch",
        "for fields of a kind. Chosen on the validation parts of the testbeds by scripts, of which the",
        "last was the one below. Never edit it by hand.",
        shlex.join(["python", "-m", "testbeds", command, *arguments]),
        f"{datetime.date.today().isoformat()}, commit {studies.commit()}",
    ):
        document.add(tomlkit.comment(line))
    for name, value in sorted({**before, method: entries}.items()):
        if value:
            document[name] = value
    file.write_text(tomlkit.dumps(document), encoding="utf-8")


def by_kind(stored: Stored, outcomes: Outcomes, best: str) -> dict[str, str]:
    """Kind of data -> the recipe that is clearly better on its testbeds than the overall winner.

    Clearly: on the highest rung that both were on, the interval of the mean paired difference over
    at least `MIN_BEDS` testbeds of that kind is above 0.
    """
    study, kinds = stored.study, stored.about["kinds"]
    gains: dict[str, dict[str, float]] = defaultdict(dict)
    for candidate in study.candidates:
        for kind in sorted(set(kinds.values())):
            beds = [name for name in study.first_steps if kinds[name] == kind]
            paired = differences(study, outcomes, candidate.name, best, beds)
            if len(beds) >= MIN_BEDS and paired and mean(paired) > half_width(paired):
                gains[kind][candidate.name] = mean(paired)
    return {kind: max(found, key=lambda n: (found[n], n)) for kind, found in gains.items()}


def differences(
    study: Study, outcomes: Outcomes, name: str, other: str, beds: Sequence[str]
) -> list[float]:
    """Paired differences of the scores of two candidates, on the highest rung of both."""
    for rung in reversed(range(study.rungs)):
        pairs = [
            (outcomes.get(a), outcomes.get(b))
            for a, b in zip(study.cells([name], rung), study.cells([other], rung))
            if a.data in beds
        ]
        values = [
            a.score - b.score
            for a, b in pairs
            if a is not None and b is not None and a.score is not None and b.score is not None
        ]
        if values and len(values) == len(pairs):
            return values
    return []
