"""The result of a comparison: the candidates beside yardsticks, and which of them to take."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from rich.markup import escape
from rich.table import Table

from amodal.console import Printed
from amodal.core import AmodalError
from amodal.core.regular_file import regular
from amodal.core.whole_file import whole_file
from amodal.evaluate.report_table import number
from amodal.evaluate.result import json_values
from amodal.evaluate.verdict import listed
from amodal.stats.interval import half_width
from amodal.studies.outcome import Outcome, Outcomes
from amodal.studies.study import Cell, Study, entrants, standings

QUANTILE = 1.96
ALONE, JOINED = "alone", "with simple features"
RESULT = "comparison.json"
LONGER = "longer"
"""Where `about` has what became of the winner with more steps."""


@dataclass(frozen=True)
class Entry:
    """A line of a comparison.

    Args:
        name: Of the candidate or yardstick.
        kind: candidate, or the yardstick's: chance, untrained, simple or frozen.
        value: Mean over questions and seeds, on the validation part; None where it failed.
        half: Half of its 95 % interval: over seeds where there are several, and over records.
        features: Whether its vectors are taken alone or with simple features beside them.
        protocol: By which it is measured, where that is not the one of the comparison.
        alone: The value of its vectors alone.
        steps: Of training.
        seconds: Of training and measuring one trial.
        megabytes: Peak memory of the process.
        state: done, running, "stopped at N" or "failed: …".
        label_free: Name -> score that needs no labels.
        curve: (step, values) while it was trained.
    """

    name: str
    kind: str = "candidate"
    value: float | None = None
    half: float = math.nan
    features: str = ALONE
    protocol: str = ""
    alone: float | None = None
    steps: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0
    state: str = "done"
    label_free: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[Any] = ()


@dataclass
class Comparison(Printed):
    """The result of `amodal.compare`.

    Args:
        title: What is compared by.
        entries: Yardsticks and candidates, the best first.
        left_out: Candidate -> why it was not compared.
        about: Data, parts, seeds, steps, and the winner's report on the test part once there is
            one.
        out: The folder of the comparison.
    """

    title: str
    entries: list[Entry]
    left_out: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    out: Path | None = None

    @property
    def candidates(self) -> list[Entry]:
        """Without yardsticks, the best first; of one rung before those of the rung below."""
        return [e for e in self.entries if e.kind == "candidate"]

    @property
    def finished(self) -> bool:
        """Whether all trials have ended."""
        return not any(e.state == "running" for e in self.candidates)

    @property
    def best_yardstick(self) -> Entry | None:
        """The best of what needs no training here."""
        scored = [e for e in self.entries if e.kind in ("simple", "frozen") and e.value is not None]
        return max(scored, key=lambda e: e.value or 0.0, default=None)

    @property
    def winner(self) -> Entry | None:
        """The best candidate of the last rung that any has completed."""
        scored = [e for e in self.candidates if e.value is not None and e.state == "done"]
        return (
            scored[0] if scored else next((e for e in self.candidates if e.value is not None), None)
        )

    @property
    def choice(self) -> Entry | None:
        """What to take: the winner, or a yardstick that is better on the validation part."""
        yardstick, winner = self.best_yardstick, self.winner
        if winner is None or winner.value is None:
            return yardstick
        if yardstick is None or yardstick.value is None or self.about.get("label_free"):
            return winner
        return winner if winner.value > yardstick.value else yardstick

    @property
    def sentence(self) -> str:
        """What to do, in one sentence."""
        choice, winner, yardstick = self.choice, self.winner, self.best_yardstick
        if choice is None:
            return (
                "nothing has been measured yet" if not self.finished else "every candidate failed"
            )
        if winner is None or winner.value is None:
            why = (
                "no candidate could be trained"
                if self.candidates
                else "the time pays for no training"
            )
            return f"take {choice.name} ({number(choice.value)}): {why}"
        start = "" if self.finished else "so far: "
        if choice is not winner:
            gap = (choice.value or 0.0) - winner.value
            by = (
                "clearly better than"
                if gap > math.hypot(choice.half, winner.half)
                else "better than"
            )
            by = by if gap > 0 else "as good as"
            return (
                f"{start}take {choice.name} ({number(choice.value)}): it is {by} "
                f"everything that was trained, of which {_described(winner)} is best "
                f"({number(winner.value)})"
            )
        text = f"{start}take {_described(winner)} ({number(winner.value)})"
        if yardstick is not None and yardstick.value is not None and choice is winner:
            gap = winner.value - yardstick.value
            clear = gap > math.hypot(winner.half, yardstick.half)
            against = "above" if clear else "not clearly above"
            text += f": {against} {yardstick.name} ({number(yardstick.value)})"
        near = self._as_good(winner)
        if near:
            verb = "is" if len(near) == 1 else "are"
            text += f"; {listed(near)} {verb} as good within the intervals"
        return text

    @property
    def on_test(self) -> str:
        """What was chosen on the test part, and by how much it is above its rivals; "" before."""
        if "test" not in self.about:
            return ""
        text = f"{number(self.about['test'])} on the test part"
        clauses = []
        for one in self.about.get("against", ()):
            by = f"{one['difference']:+.3f}"
            if one["interval"] is not None:
                by += f" ({one['interval'][0]:.3f} to {one['interval'][1]:.3f})"
            clauses.append(f"{by} against {one['name']} ({number(one['value'])})")
        return f"{text}, {listed(clauses)}" if clauses else text

    @property
    def after_more_steps(self) -> str:
        """What the winner has after more steps, and whether it is taken so; "" where none were."""
        about = self.about.get(LONGER, {})
        if "taken" not in about:
            return ""
        before = about["before"]
        after = max(value for name, value in about["values"].items() if name != "error")
        outcome = "is taken" if about["taken"] else "is no better"
        return (
            f"the winner was trained for {about['steps']:,} steps too, by the time that was left: "
            f"{number(after)} {outcome}; with {before['steps']:,} it has {number(before['value'])}"
        )

    def _as_good(self, winner: Entry) -> list[str]:
        """Other candidates of the last rung within the intervals."""
        assert winner.value is not None
        return [
            e.name
            for e in self.candidates
            if e.name != winner.name
            and e.state == "done"
            and e.value is not None
            and winner.value - e.value <= math.hypot(winner.half, e.half)
        ]

    def table(self) -> Table:
        """A table for a terminal."""
        notes = [f"{name}: left out, {reason}" for name, reason in self.left_out.items()]
        if specs := self.about.get("frozen"):
            read = ", ".join(f"{field} by {spec}" for field, spec in specs.items())
            notes.insert(0, f"frozen encoders: {read}; of other fields simple features are read")
        if longer := self.after_more_steps:
            notes.insert(0, longer)
        shown = Table(
            title=escape(f"{self.about.get('data', '')} · {self.title}\n{self.sentence}."),
            caption=escape("\n".join(notes[:MAX_NOTES] + _more(notes))) or None,
            title_justify="left",
            caption_justify="left",
        )
        free = sorted({name for e in self.entries for name in e.label_free})
        for heading in (
            "",
            "on validation",
            "alone",
            "features",
            "steps",
            "s",
            "MB",
            *free,
            "state",
        ):
            numeric = heading not in ("", "features", "state")
            shown.add_column(heading, justify="right" if numeric else "left")
        best = self.choice
        for e in self.entries:
            value = _with_half(e)
            shown.add_row(
                escape(e.name),
                f"[bold]{value}[/]" if e is best else value,
                number(e.alone) if e.features == JOINED else "",
                e.features if e.kind == "candidate" and e.value is not None else e.kind,
                f"{e.steps:,}" if e.steps else "",
                f"{e.seconds:,.0f}" if e.seconds else "",
                f"{e.megabytes:,.0f}" if e.megabytes else "",
                *(number(e.label_free.get(name)) for name in free),
                escape(e.state if e.kind == "candidate" else ""),
            )
        return shown

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each entry."""
        return [asdict(e) for e in self.entries]

    def frame(self) -> Any:
        """The entries as a pandas DataFrame.

        Raises:
            AmodalError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise AmodalError("a frame needs pandas: pip install pandas; or use rows()") from error
        return pandas.DataFrame([{k: v for k, v in r.items() if k != "curve"} for r in self.rows()])

    def save(self, folder: str | Path) -> Path:
        """Write comparison.json into a folder.

        Raises:
            AmodalError: If it cannot be written.
        """
        path = Path(folder) / RESULT
        written = {
            "title": self.title,
            "sentence": self.sentence,
            "about": self.about,
            "entries": self.rows(),
            "left_out": self.left_out,
        }
        try:
            with whole_file(path) as draft:
                text = json.dumps(json_values(written), indent=1) + "\n"
                draft.write_text(text, encoding="utf-8")
        except OSError as error:
            raise AmodalError(f"could not write {path}: {error}") from error
        return path

    @staticmethod
    def load(folder: str | Path) -> Comparison:
        """Read what `save` wrote.

        Raises:
            AmodalError: If there is none, or it is damaged.
        """
        path = Path(folder) / RESULT
        try:
            read = json.loads(regular(path).read_text(encoding="utf-8"))
            entries = [Entry(**{**e, "half": _nan(e["half"])}) for e in read["entries"]]
            return Comparison(read["title"], entries, read["left_out"], read["about"], Path(folder))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AmodalError(f"{path} is no result of `amodal compare`: {error}") from error


MAX_NOTES = 12
"""Candidates that were left out, named below a table."""


def entries_of(study: Study, outcomes: Outcomes, yardsticks: Sequence[Entry]) -> list[Entry]:
    """The lines of a comparison: yardsticks first if they are better, else by value."""
    order = standings(study, outcomes)
    lines = [_entry(study, standing.candidate, standing.state, outcomes) for standing in order]
    better = [*yardsticks]
    merged: list[Entry] = []
    for entry in lines:
        while better and entry.state == "done" and _value(better[0]) > _value(entry):
            merged.append(better.pop(0))
        merged.append(entry)
    done = sum(e.state == "done" for e in merged)
    return [*merged[:done], *better, *merged[done:]] if better else merged


def _value(entry: Entry) -> float:
    return -math.inf if entry.value is None else entry.value


def _entry(study: Study, name: str, state: str, outcomes: Outcomes) -> Entry:
    """The line of a candidate, by its highest rung that is complete."""
    for rung in reversed(range(study.rungs)):
        names = entrants(study, rung, outcomes)
        if names is None or name not in names:
            continue
        cells = study.cells([name], rung)
        trials = [outcomes[cell] for cell in cells if cell in outcomes]
        if len(trials) < len(cells):
            continue
        if any(outcome.score is None for outcome in trials):
            return Entry(name, state=state, steps=study.steps_of(cells[0]))
        return _complete(name, state, cells, trials)
    return Entry(name, state=state)


def _complete(name: str, state: str, cells: Sequence[Cell], trials: Sequence[Outcome]) -> Entry:
    scores = [o.score for o in trials if o.score is not None]
    alone = [value for value in map(_alone, trials) if value is not None]
    errors = [_error(outcome) for outcome in trials]
    over_seeds = half_width(scores) if len(scores) > 1 else 0.0
    over_records = QUANTILE * mean(errors) if errors else 0.0
    plain = mean(alone) if alone else mean(scores)
    details = [outcome.details for outcome in trials]
    free: dict[str, list[float]] = {}
    for one in details:
        for key, value in one.get("label_free", {}).items():
            free.setdefault(key, []).append(value)
    return Entry(
        name,
        value=mean(scores),
        half=max(over_seeds, over_records),
        features=JOINED if mean(scores) > plain else ALONE,
        alone=plain,
        steps=int(details[0].get("steps", 0)),
        seconds=mean(outcome.seconds for outcome in trials),
        megabytes=max(float(one.get("peak_bytes", 0)) for one in details) / 2**20,
        state=state,
        label_free={key: mean(values) for key, values in free.items()},
        curve=details[0].get("curve", ()),
    )


def _alone(outcome: Outcome) -> float | None:
    values = [task["value"] for task in outcome.details.get("tasks", {}).values()]
    return mean(values) if values else outcome.score


def _error(outcome: Outcome) -> float:
    """The standard error over records of a mean over questions, which share their records."""
    errors = [t["standard_error"] for t in outcome.details.get("tasks", {}).values()]
    return mean(errors) if errors else 0.0


def _described(entry: Entry) -> str:
    name = f"boosted trees on {entry.name}" if entry.protocol == "boosting" else entry.name
    return f"{name} {entry.features}" if entry.features == JOINED else name


def _with_half(entry: Entry) -> str:
    if entry.value is None:
        return ""
    text = number(entry.value)
    return f"{text} ±{entry.half:.3f}" if math.isfinite(entry.half) and entry.half > 0 else text


def _more(notes: Sequence[str]) -> list[str]:
    more = len(notes) - MAX_NOTES
    return [f"and {more} more, see {RESULT}"] if more > 0 else []


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
