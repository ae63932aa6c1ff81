"""Where trials are stored: an Optuna storage, which processes and machines can share.

A trial is one (candidate, data, seed, rung). Its state is Optuna's: WAITING, RUNNING, COMPLETE with
its score, or FAIL. A trial that failed with a sentence in the attribute `failed` is a result; any
other FAIL (a killed worker, a duplicate) leaves its cell open.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from amodal.core import AmodalError
from amodal.studies.outcome import Outcome, Outcomes
from amodal.studies.study import Cell, Study

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

MAX_LOST = 3
"""A cell whose worker was killed this often has failed. Most likely it needs too much memory."""
TRIES = 5
"""Of a write that the database refuses for the moment."""

P = ParamSpec("P")
R = TypeVar("R")


def open_storage(where: str | Path) -> BaseStorage:
    """Open a storage, made if it does not exist.

    Args:
        where: The path of a journal file, or the URL of a database, such as sqlite:///study.db.

    Raises:
        AmodalError: If Optuna is not installed, or the storage cannot be opened.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise AmodalError(
            "comparing needs Optuna, which is not installed: pip install optuna"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "://" in str(where):
        return _database(str(where))
    path = Path(where)
    try:
        from amodal.studies.journal import KernelLock
    except ImportError:  # no flock on this system: Optuna's lock, which a kill can leave behind
        lock = None
    else:
        lock = KernelLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise AmodalError(f"{path} cannot be written: {error.strerror or error}") from error
    except ValueError as error:
        raise AmodalError(f"{path} is no journal of a study, or is damaged: {error}") from error


def _database(url: str) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

    sqlite = url.startswith("sqlite")
    options = {"connect_args": {"timeout": 60}} if sqlite else {}
    for last in (*[False] * (TRIES - 1), True):
        try:
            storage = RDBStorage(url, engine_kwargs=options)
            break
        except (ArgumentError, ImportError) as error:
            raise AmodalError(f"{url} is no database that can be opened: {error}") from error
        except SQLAlchemyError as error:  # another process may be making the tables right now
            if last:
                reason = error.orig if isinstance(error, OperationalError) else error
                raise AmodalError(f"{url} cannot be opened: {reason}") from error
            time.sleep(0.2)
    if sqlite:
        _exclusive(storage.engine)
    return storage


def _exclusive(engine: Any) -> None:
    """Let transactions of SQLite lock from their first read on.

    Python's driver begins them with their first write, so that two processes could both read that a
    trial waits, and both take it.
    """
    from sqlalchemy import event

    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begin)
    engine.dispose()  # connections of before this


def patient(function: Callable[P, R]) -> Callable[P, R]:
    """Try an operation on a storage some more times where a database refuses it for the moment."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        from optuna.exceptions import StorageInternalError

        for attempt in range(TRIES):
            try:
                return function(*args, **kwargs)
            except StorageInternalError as error:
                if attempt + 1 == TRIES:
                    raise AmodalError(f"the storage of the study fails: {error}") from error
                time.sleep(0.2 * 2**attempt)
        raise AssertionError("it returns or raises")

    return call


@dataclass(frozen=True)
class Ticket:
    """A trial that this process works on.

    Args:
        trial: Its id in the storage.
        cell: What it is about.
    """

    trial: int
    cell: Cell


@dataclass
class Snapshot:
    """The trials of a study at one time.

    Args:
        outcomes: Of cells that have ended.
        waiting: Trials that nobody has begun, by number.
        running: Id of each trial that somebody works on -> its counter.
        lost: Cell -> how often its worker was killed.
        lowest: Cell -> id of its valid trial: that with the lowest number that has an outcome,
            runs or waits.
    """

    outcomes: dict[Cell, Outcome] = field(default_factory=dict)
    waiting: list[Ticket] = field(default_factory=list)
    running: dict[int, int | None] = field(default_factory=dict)
    lost: Counter[Cell] = field(default_factory=Counter)
    lowest: dict[Cell, int] = field(default_factory=dict)


class Trials:
    """The trials of one study in a storage.

    Args:
        study: What is compared.
        where: See `open_storage`.

    Raises:
        AmodalError: If the storage has another study of this name.
    """

    def __init__(self, study: Study, where: str | Path) -> None:
        self.study, self.where = study, where
        self.storage = open_storage(where)
        self.id = self._open()

    @patient
    def _open(self) -> int:
        from optuna.exceptions import DuplicatedStudyError
        from optuna.study import StudyDirection

        with contextlib.suppress(DuplicatedStudyError):
            self.storage.create_new_study([StudyDirection.MAXIMIZE], self.study.name)
        number: int = self.storage.get_study_id_from_name(self.study.name)
        written = self.study.written()
        before = self.storage.get_study_user_attrs(number).get("study")
        if before is None:
            self.storage.set_study_user_attr(number, "study", written)
        elif before != written:
            differ = ", ".join(n for n in written if before.get(n) != written[n])
            raise AmodalError(
                f"{self.where} has another study called {self.study.name!r}: its {differ} "
                "differ. Continue it with the arguments that it was started with, or take another "
                "storage or name."
            )
        return number

    @patient
    def snapshot(self) -> Snapshot:
        """All trials as they are now."""
        from optuna.trial import TrialState

        now = Snapshot()
        trials = self.storage.get_all_trials(self.id, deepcopy=False)
        for trial in sorted(trials, key=lambda t: t.number):
            written = trial.user_attrs.get("cell")
            if written is None:  # not one of ours
                continue
            cell = Cell(*written)
            outcome = _outcome(trial)
            if outcome is not None:
                now.outcomes.setdefault(cell, outcome)
            elif trial.state == TrialState.WAITING:
                now.waiting.append(Ticket(trial._trial_id, cell))
            elif trial.state == TrialState.RUNNING:
                now.running[trial._trial_id] = trial.user_attrs.get("counter")
            else:
                ended = {"duplicate", "interrupted"} & trial.user_attrs.keys()
                if not ended:
                    now.lost[cell] += 1
                continue
            now.lowest.setdefault(cell, trial._trial_id)
        for cell, times in now.lost.items():
            if times >= MAX_LOST and cell not in now.lowest:
                reason = f"its process was killed {times} times, perhaps for want of memory"
                now.outcomes[cell] = Outcome(failed=reason)
        return now

    @patient
    def enqueue(self, cells: Iterable[Cell]) -> None:
        """Add a trial for each cell. Another process may do the same at the same time."""
        from optuna.trial import TrialState, create_trial

        for cell in cells:
            attributes = {"cell": [*cell], "steps": self.study.steps_of(cell)}
            template = create_trial(state=TrialState.WAITING, user_attrs=attributes)
            self.storage.create_new_trial(self.id, template_trial=template)

    @patient
    def restore(self, outcomes: Outcomes) -> int:
        """Add outcomes that were found elsewhere, where their cells have none here.

        Args:
            outcomes: Of this study.

        Returns:
            How many were added.
        """
        from optuna.trial import TrialState, create_trial

        here, added = self.snapshot().outcomes, 0
        for cell, outcome in outcomes.items():
            if cell in here:
                continue
            attributes = {"cell": [*cell], "details": dict(outcome.details)}
            if outcome.score is None:
                attributes |= {"failed": outcome.failed}
            template = create_trial(
                state=TrialState.FAIL if outcome.score is None else TrialState.COMPLETE,
                values=None if outcome.score is None else [outcome.score],
                user_attrs=attributes,
            )
            self.storage.create_new_trial(self.id, template_trial=template)
            added += 1
        return added

    @patient
    def claim(self, ticket: Ticket) -> bool:
        """Begin a trial.

        Returns:
            False if another process has it, or if it is a duplicate, which ends here.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            if not self.storage.set_trial_state_values(ticket.trial, TrialState.RUNNING):
                return False
        except UpdateFinishedTrialError:
            return False
        if self.snapshot().lowest.get(ticket.cell) == ticket.trial:
            return True
        self.end(ticket.trial, duplicate=True)
        return False

    @patient
    def count(self, ticket: Ticket, counter: int) -> None:
        """Show other processes that this one is alive."""
        from optuna.exceptions import UpdateFinishedTrialError

        with contextlib.suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(ticket.trial, "counter", counter)

    @patient
    def finish(self, ticket: Ticket, outcome: Outcome) -> bool:
        """Store what a trial found.

        Returns:
            False if another process took this one for dead; then its outcome does not count.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        if outcome.score is None:
            return self.end(ticket.trial, details=dict(outcome.details), failed=outcome.failed)
        try:
            self.storage.set_trial_user_attr(ticket.trial, "details", dict(outcome.details))
            values = [outcome.score]
            self.storage.set_trial_state_values(ticket.trial, TrialState.COMPLETE, values)
        except UpdateFinishedTrialError:
            return False
        return True

    @patient
    def end(self, trial: int, **attributes: Any) -> bool:
        """End a trial as failed.

        Args:
            trial: Its id.
            attributes: Why: `failed`, `lost`, `duplicate` or `interrupted`.

        Returns:
            False if it has ended before.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            for name, value in attributes.items():
                self.storage.set_trial_user_attr(trial, name, value)
            self.storage.set_trial_state_values(trial, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        return True


def _outcome(trial: FrozenTrial) -> Outcome | None:
    """What an ended trial found, None for one that runs, waits or was lost."""
    from optuna.trial import TrialState

    details = trial.user_attrs.get("details", {})
    if trial.state == TrialState.COMPLETE:
        return Outcome(float(trial.values[0]), details=details)
    if trial.state == TrialState.FAIL and trial.user_attrs.get("failed"):
        return Outcome(failed=trial.user_attrs["failed"], details=details)
    return None


@dataclass
class Watch:
    """Finds trials whose worker has died: their counter stands still, by this process's clock.

    Clocks of machines are never compared, and a counter needs no clock.

    Args:
        patience: Seconds that a counter may stand still.
    """

    patience: float
    since: dict[int, tuple[int | None, float]] = field(default_factory=dict)

    def dead(self, running: dict[int, int | None]) -> list[int]:
        """The trials, among those that run, whose worker has died."""
        now, before = time.monotonic(), self.since
        self.since = {
            trial: before[trial] if before.get(trial, (None, 0.0))[0] == counter and trial in before
            else (counter, now)
            for trial, counter in running.items()
        }  # fmt: skip
        return [trial for trial, (_, at) in self.since.items() if now - at > self.patience]
