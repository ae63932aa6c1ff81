"""`python -m testbeds encoders`: which network a method does best with on small data of a kind.

The kind's own tokenizer with a transformer, and small networks from scratch, on the testbeds that
have fields of that kind; other fields stay as they are. All take the same steps. A method that
follows another (`testbeds.grid.FOLLOWS`) compares tokens with the winner of that one, alone. Writes
the winners to amodal/methods/small_recipes.toml, once all are measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import testbeds
from amodal.methods.recipes import small_encoders
from amodal.modalities import name_of
from amodal.nn.backbones.pretrained import TOKENS
from amodal.studies import Candidate, Outcomes, Study, Trainer, jobs
from testbeds import studies
from testbeds.commands.defaults import FILE, write_table
from testbeds.grid import (
    ENCODER_SEEDS,
    ENCODER_STEPS,
    ENCODERS,
    FOLLOW_SEEDS,
    FOLLOW_STEPS,
    FOLLOWS,
    METHODS,
)
from testbeds.studies import OnTestbeds, Options, Setups, Stored


def main(arguments: Sequence[str]) -> int:
    """Go on with the studies of all methods, and write what is finished."""
    parser = argparse.ArgumentParser("python -m testbeds encoders", description=__doc__)
    studies.add_options(parser, studies.RESULTS / "encoders")
    parser.add_argument("--write", type=Path, default=FILE, help="file of the winners")
    asked = parser.parse_args(arguments)
    usual = sorted({bed for steps in ENCODER_STEPS.values() for bed in steps})
    options = studies.read_options(asked, usual, METHODS)
    setups = Setups(options.beds)
    for method in options.methods:
        chosen: dict[str, str] = {}
        for kind in ENCODERS:
            scores = measured(method, kind, options, setups)
            for name, score in sorted(scores.items(), key=lambda item: -item[1]):
                print(f"{method}, {kind}: {name}: {score:+.3f}")
            best = max(scores, key=lambda name: scores[name], default=TOKENS)
            if best != TOKENS:
                chosen[kind] = best
            if scores:
                write_table(asked.write, method, {"encoders": chosen}, arguments, "encoders")
    return 0


def measured(method: str, kind: str, options: Options, setups: Setups) -> dict[str, float]:
    """Encoder -> its mean score over testbeds and seeds; {} until all are measured."""
    scores: dict[str, list[float]] = {}
    if not networks(method, kind):
        return {}
    for bed, last in (FOLLOW_STEPS if method in FOLLOWS else ENCODER_STEPS)[kind].items():
        if bed not in options.beds or not studies.counted(testbeds.testbed(bed), method):
            continue
        stored = study_of(method, kind, bed, options.steps or last, options.out, setups)
        trainer = OnTestbeds(Trainer(setups))
        outcomes = studies.work(stored, trainer, options.deadline, options.limits)
        if jobs(stored.study, outcomes):
            return {}
        for candidate in stored.study.candidates:
            value = _mean_score(stored.study, candidate.name, outcomes)
            if value is not None:
                scores.setdefault(candidate.name, []).append(value)
    most = max(map(len, scores.values()), default=0)
    return {name: mean(values) for name, values in scores.items() if len(values) == most}


def networks(method: str, kind: str) -> tuple[str, ...]:
    """The networks from scratch that are compared with tokens."""
    if method not in FOLLOWS:
        return ENCODERS[kind]
    best = small_encoders(FOLLOWS[method]).get(kind)
    return () if best is None else (best,)


def study_of(method: str, kind: str, bed: str, steps: int, out: Path, setups: Setups) -> Stored:
    """The study of the encoders of a kind of field, on one testbed."""
    fields = setups[bed].dataset.fields
    named = [field for field in testbeds.testbed(bed).fields if name_of(fields[field]) == kind]
    plain = Candidate(method, name=TOKENS)
    candidates = (
        plain,
        *(
            replace(plain, backbones=dict.fromkeys(named, spec), name=spec)
            for spec in networks(method, kind)
        ),
    )
    name = f"{method}-{kind}-{bed}"
    seeds = FOLLOW_SEEDS if method in FOLLOWS else ENCODER_SEEDS
    study = Study(candidates, seeds, {bed: steps}, rungs=1, eta=2, name=name)
    return Stored(out / f"{name}.json", study)


def _mean_score(study: Study, name: str, outcomes: Outcomes) -> float | None:
    """None if a trial failed."""
    trials = [outcomes[cell] for cell in study.cells([name], 0)]
    scores = [trial.score for trial in trials if trial.score is not None]
    return mean(scores) if len(scores) == len(trials) else None
