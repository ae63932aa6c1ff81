"""What chance, simple features and peers get on the tasks of a testbed.

On the validation part by default. A peer has its library's documented defaults, and "tuned" the
best of its grid: chosen on the validation part where the test part is measured, and on a fifth of
the training records where the validation part is. Survival with few events is cross-validated over
both parts, as amodal's protocol does, and a fifth of each fold's training records chooses.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, StratifiedKFold

from amodal.core import AmodalError
from amodal.data import Dataset
from amodal.evaluate.labels import NotApplicable
from testbeds.measures import Piece, Score, eligible, outcomes, score
from testbeds.simple import simple
from testbeds.testbed import Fit, Peer, Records, Task, Testbed

RESULTS = Path(__file__).parent / "results" / "yardsticks"
MIN_EVENTS = 20
"""Events of the measured part below which survival is cross-validated."""
FOLDS, REPEATS = 5, 2

Cell = dict[str, Any]
"""One number: task, method, variant, and the score or why there is none."""
Say = Callable[[str], object]
Split = tuple[Records, Records, Records | None]
"""To learn from, to measure, and to choose options on (None: a fifth of the first)."""


def measure(
    bed: Testbed,
    *,
    test: bool = False,
    folder: Path = RESULTS,
    redo: bool = False,
    say: Say = print,
) -> Path:
    """Measure the yardsticks of a testbed, and write them after each number.

    Args:
        bed: the testbed.
        test: measure the test part instead of the validation part.
        folder: of NAME.json. Numbers that are there are not measured a second time.
        redo: measure them all the same.
        say: takes the lines about progress.

    Returns:
        The file.
    """
    data, part = bed.open(), "test" if test else "valid"
    path = folder / f"{bed.name}.json"
    cells = [] if redo else _stored(path, data)
    done = {_identity(cell) for cell in cells}
    for task in bed.tasks:
        for method, variant, work in _works(bed, data, task, part):
            about: Cell = {"task": task.name, "part": part, "method": method, "variant": variant}
            if _identity(about) in done:
                continue
            started = time.perf_counter()
            cell = about | {"metric": task.metric} | _attempted(work)
            cell["seconds"] = round(time.perf_counter() - started, 1)
            cells.append(cell)
            say(f"{bed.name} · {task.name} · {method} {variant}: {shown(cell)}")
            _write(path, bed, data, cells)
    return path


def read(name: str, folder: Path = RESULTS) -> list[Cell]:
    """The numbers of a testbed that have been measured, [] if there are none."""
    path = folder / f"{name}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["cells"]) if path.exists() else []


def shown(cell: Mapping[str, Any]) -> str:
    """A number with its interval, or why there is none."""
    if "value" not in cell:
        return str(cell.get("skipped", ""))
    if cell.get("interval") is None:
        return f"{cell['value']:.3f}"
    low, high = cell["interval"]
    return f"{cell['value']:.3f} [{low:.3f}, {high:.3f}]"


def _works(
    bed: Testbed, data: Dataset, task: Task, part: str
) -> Iterator[tuple[str, str, Callable[[], Cell]]]:
    """(method, variant, what measures it) of a task."""
    splits = _splits(data, task, part)
    yield "chance", "", lambda: _chance(task, splits)
    yield "simple features", "", lambda: _simple(task, splits)
    for peer in bed.peers_of(task):
        yield peer.name, "defaults", partial(_peer, peer, task, splits, tuned=False)
        if peer.grid:
            yield peer.name, "tuned", partial(_peer, peer, task, splits, tuned=True)


def _splits(data: Dataset, task: Task, part: str) -> list[Split]:
    train, measured, valid = (
        eligible(Records(data, data.split(name)), task) for name in ("train", part, "valid")
    )
    if not len(train) or not len(measured):
        raise AmodalError(f"{data.name} has no records for {task.name!r} in train or in {part}")
    if task.protocol != "survival" or outcomes(measured, task)[1].sum() >= MIN_EVENTS:
        return [(train, measured, valid if part == "test" else None)]
    both = Records(data, np.concatenate([train.rows, measured.rows]))
    _, event = outcomes(both, task)
    splits: list[Split] = []
    for seed in range(REPEATS):
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        splits += [(both.at(a), both.at(b), None) for a, b in folds.split(event, event)]
    return splits


def _chance(task: Task, splits: list[Split]) -> Cell:
    """Records in a random order, or the most frequent class, have no interval worth the name."""
    pieces = []
    for train, measured, _ in splits:
        blank = np.zeros((len(measured),) * (2 if task.protocol == "retrieval" else 1))
        if task.label and task.protocol != "survival" and not task.is_number:
            names, counts = np.unique(train.label(task.label).astype(str), return_counts=True)
            blank = np.full(len(measured), names[counts.argmax()], dtype=object)
        pieces.append(Piece(measured, blank))
    scored = score(task, pieces, draws=2)
    value = scored.chance if task.metric != "accuracy" else scored.value
    return {"value": round(value, 4), "interval": None, "n": scored.n, "library": "", "version": ""}


def _simple(task: Task, splits: list[Split]) -> Cell:
    from amodal import __version__

    pieces = [Piece(measured, simple(train, measured, task)) for train, measured, _ in splits]
    return _scored(score(task, pieces), splits) | {"library": "amodal", "version": __version__}


def _peer(peer: Peer, task: Task, splits: list[Split], tuned: bool) -> Cell:
    if peer.version is None:
        raise NotApplicable(f"{peer.library} is not installed")
    pieces, chosen = [], []
    for train, measured, apart in splits:
        options = _best(peer, task, train, apart) if tuned else {}
        chosen.append(options)
        pieces.append(Piece(measured, peer.fit(train, task, **options)(measured)))
    about: Cell = {"library": peer.library, "version": peer.version}
    if tuned:
        about |= {"options": chosen[0] if len(chosen) == 1 else chosen, "tried": len(peer.grid) + 1}
    return _scored(score(task, pieces), splits) | about


def _best(peer: Peer, task: Task, train: Records, apart: Records | None) -> dict[str, Any]:
    """The options of the grid, or none, with the best score on records apart."""
    inner, judged = (train, apart) if apart is not None else _fifth(train, task)
    best, chosen = -np.inf, {}
    for options in ({}, *peer.grid):
        found = _value(peer.fit, task, inner, judged, dict(options))
        if found > best:
            best, chosen = found, dict(options)
    return chosen


def _value(fit: Fit, task: Task, inner: Records, judged: Records, options: dict[str, Any]) -> float:
    try:
        prediction = fit(inner, task, **options)(judged)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):
        return -np.inf  # options that cannot be fitted are not the best ones
    return score(task, [Piece(judged, prediction)], draws=2).value


def _fifth(train: Records, task: Task) -> tuple[Records, Records]:
    """Four fifths and one fifth of records; groups of the split stay whole."""
    data = train.dataset
    by = data.schema.split_by
    groups = [data.reader.cells(by)[i] for i in train.rows] if by else train.keys
    if not by and "subject" in data.labels:  # people who are parts of a split by column
        groups = list(train.label("subject"))
    splitter = GroupShuffleSplit(1, test_size=0.2, random_state=0)
    inner, judged = next(splitter.split(train.rows, groups=[str(group) for group in groups]))
    return train.at(inner), train.at(judged)


def _scored(scored: Score, splits: list[Split]) -> Cell:
    found = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(scored).items()}
    low, high = found.pop("low"), found.pop("high")
    learnt = len(splits[0][0])
    judged = "part" if len(splits) == 1 else f"{FOLDS} folds of both parts, {REPEATS} times"
    return found | {"interval": [low, high], "train": learnt, "judged": judged}


def _attempted(work: Callable[[], Cell]) -> Cell:
    """The number, or why there is none: a peer that fails is a result too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of estimators that did not converge at their defaults
        try:
            return work()
        except NotApplicable as reason:
            return {"skipped": str(reason)}
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            return {"skipped": f"failed: {str(error).splitlines()[0][:200]}"}


def _identity(cell: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(cell[name] for name in ("task", "part", "method", "variant"))


def _stored(path: Path, data: Dataset) -> list[Cell]:
    """What was measured on these records; nothing where they are others now."""
    if not path.exists():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))
    missing = "is not installed"
    return [c for c in stored["cells"] if stored["fingerprint"] == data.fingerprint
            and not str(c.get("skipped", "")).endswith(missing)]  # fmt: skip


def _write(path: Path, bed: Testbed, data: Dataset, cells: list[Cell]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"testbed": bed.name, "data": bed.data, "fingerprint": data.fingerprint}
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(about | {"cells": cells}, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
