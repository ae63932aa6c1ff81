"""kill -9 of processes that share one `amodal compare`, which others go on with.

Two processes work on a comparison from its beginning. One of them is killed at a moment drawn
uniformly from what a trial takes, and another is started in its place, until there were as many kills
as asked; then both run to the end. The comparison must come out as one that a single process made:
the same trials with the same values, each worked on once more for a kill at most, and the same
winner.
"""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path
from typing import Any

from amodal.progress import Bar
from benchmarks.faults.kills import start

METHODS = "simclr,mae,vicreg,byol,data2vec,lejepa"
STEPS, SEEDS = 60, 2
OPTIONS = ("--data", "penguins", "--label", "species", "--methods", METHODS, "--budget", "2h")
SPAN = 12.0
"""Seconds within which a process is killed; starting one takes half of it, a trial one to three."""
LIMIT = 1800.0
"""Seconds after which the processes of a comparison count as hanging."""


def run(kills: int, where: Path, *, seed: int = 0, shown: bool = True) -> dict[str, Any]:
    """Kill so many processes of a comparison.

    Args:
        kills: How many.
        where: A folder for the comparisons.
        seed: Of the moments.
        shown: Show a bar.

    Returns:
        kills, those while a trial ran (lost), trials, wrong: sentences about what differs.
    """
    straight, shared = where / "straight", where / "shared"
    log = where / "log.txt"
    begun = time.monotonic()
    if _start(straight, log).wait():
        raise RuntimeError(
            f"the straight comparison failed:\n{log.read_text(encoding='utf-8')[-3000:]}"
        )
    seconds = time.monotonic() - begun
    rng, wrong = random.Random(seed), []
    workers = [_start(shared, log), _start(shared, log)]
    moments = []
    with Bar("kill -9 compare", kills, shown=shown) as bar:
        while len(moments) < kills:
            moment = rng.random() * SPAN
            time.sleep(moment)
            workers[0].kill()
            if workers[0].wait() != -9:  # all was done, so what follows begins anew
                if workers[1].wait():
                    wrong.append(
                        f"a process ended with an error: {log.read_text(encoding='utf-8')[-1500:]}"
                    )
                    break
                wrong += differences(straight, shared, len(moments))
                shared = where / f"shared{len(moments)}"
                workers = [_start(shared, log), _start(shared, log)]
                continue
            moments.append(round(moment, 3))
            bar.step(f"{len(wrong)} wrong")
            workers = [workers[1], _start(shared, log)]
    for worker in workers:
        try:
            if worker.wait(timeout=LIMIT):
                wrong.append(
                    f"a process ended with {worker.returncode}: {log.read_text(encoding='utf-8')[-1500:]}"
                )
        except subprocess.TimeoutExpired:
            worker.kill()
            wrong.append("a process did not end")
    wrong += differences(straight, shared, len(moments))
    return {
        "straight_seconds": round(seconds, 1),
        "kills": len(moments),
        "lost": sum(_lost(folder) for folder in where.glob("shared*")),
        "comparisons": len([*where.glob("shared*")]),
        "trials": len(_outcomes(straight)),
        "wrong": wrong,
        "moments": moments,
    }


def _start(out: Path, log: Path) -> subprocess.Popen:
    options = ("--steps", str(STEPS), "--seeds", str(SEEDS), "--out", str(out))
    return start(["compare", *OPTIONS, *options], log)


def differences(straight: Path, shared: Path, kills: int) -> list[str]:
    """Sentences about what of a shared comparison is not as in the straight one.

    Args:
        straight: Its folder.
        shared: The other one's.
        kills: Processes that were killed.
    """
    from amodal.studies.comparison import Comparison

    first, second = _outcomes(straight), _outcomes(shared)
    wrong = [f"trial {cell} is missing" for cell in sorted(first.keys() - second.keys())]
    wrong += [f"trial {cell} is one too many" for cell in sorted(second.keys() - first.keys())]
    wrong += [
        f"trial {cell}: {first[cell]} and {second[cell]}"
        for cell in sorted(first.keys() & second.keys())
        if first[cell] != second[cell]
    ]
    if _lost(shared) > kills:
        wrong.append(f"{_lost(shared)} trials were lost by {kills} kills")
    one, other = Comparison.load(straight), Comparison.load(shared)
    if one.winner is None or other.winner is None or one.winner.name != other.winner.name:
        wrong.append(f"the winners are {one.winner} and {other.winner}")
    if one.about.get("test") != other.about.get("test"):
        wrong.append(f"on the test part: {one.about.get('test')} and {other.about.get('test')}")
    return wrong


def _snapshot(folder: Path) -> Any:
    from amodal.studies.planning import study_of
    from amodal.studies.storage import Trials

    return Trials(study_of(folder), folder / "study.journal").snapshot()


def _outcomes(folder: Path) -> dict[str, float | None]:
    return {str(tuple(cell)): o.score for cell, o in _snapshot(folder).outcomes.items()}


def _lost(folder: Path) -> int:
    return sum(_snapshot(folder).lost.values())
