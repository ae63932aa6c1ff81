"""A study without training: the objective is a formula, and workers are processes."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
import zlib
from pathlib import Path

from amodal.core import AmodalError
from amodal.studies import Candidate, Measured, Study, run


def study(count=8, **changes):
    candidates = tuple(Candidate("clip", name=f"c{i}") for i in range(count))
    return Study(candidates, **{"seeds": (0, 1, 2), "steps": 10, "rungs": 3} | changes)


def value(job):
    """Good candidates have high numbers; noise is that of the cell, not of the process."""
    noise = zlib.crc32(f"{job.candidate.name} {job.seed} {job.rung}".encode()) / 2**32
    return int(job.candidate.name[1:]) + noise


class Formula:
    """value(job) after `seconds` at most; candidates in `failing` raise.

    Args:
        log: A file that gets a line for each trial that this process works on.
    """

    def __init__(self, log: Path, seconds=0.0, failing=()):
        self.log, self.seconds, self.failing = log, seconds, failing

    def __call__(self, job, check):
        cell = [job.candidate.name, job.data, job.seed, job.rung, job.steps]
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell) + "\n")
        end = time.monotonic() + random.random() * self.seconds
        while time.monotonic() < end:
            check()
            time.sleep(0.005)
        if job.candidate.name in self.failing:
            raise AmodalError(f"{job.candidate.name} does not fit this data")
        return Measured(value(job), {"steps": job.steps})


def worker(one, storage, log, seconds=0.0, patience=60.0):
    """A process that works on a study; forked, since imports would take longer than the work."""
    settings = {"patience": patience, "every": 0.1, "poll": 0.05, "progress": False}
    process = multiprocessing.get_context("fork").Process(
        target=run, args=(one, Formula(log, seconds), storage), kwargs=settings
    )
    process.start()
    return process


def ended(workers, seconds=60):
    """Wait for processes. Returns their exit codes."""
    for process in workers:
        process.join(seconds)
    return [process.exitcode for process in workers]
