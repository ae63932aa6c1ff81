"""Which of them is worth training? Candidates on equal terms, short first, the better half longer.

study = Study((Candidate("clip"), Candidate("siglip")), seeds=(0, 1, 2), steps=100, rungs=3)
outcomes = run(study, Trainer({"": Setup(dataset, tasks)}), "out/study.journal")
standings(study, outcomes)

Any number of processes may run one study: the same call, with the same storage.
"""

from __future__ import annotations

from amodal.studies.candidate import Candidate
from amodal.studies.limits import Check, Limits
from amodal.studies.outcome import Measured, Outcome, Outcomes
from amodal.studies.questions import Question
from amodal.studies.study import Cell, Job, Standing, Study, jobs, standings, winner
from amodal.studies.trainer import Setup, Trainer, final
from amodal.studies.worker import run

__all__ = [
    "Candidate",
    "Cell",
    "Check",
    "Job",
    "Limits",
    "Measured",
    "Outcome",
    "Outcomes",
    "Question",
    "Setup",
    "Standing",
    "Study",
    "Trainer",
    "final",
    "jobs",
    "run",
    "standings",
    "winner",
]
