"""What predicts a label best on this data: a fine-tuned network, or a head on frozen features.

Logistic regression (ridge for amounts, Cox's for times until an event) and boosted trees, on
the encoder's features, on simple features and on both, are fitted to the training records and
compared on the validation part, beside a fine-tuned network. What needs more has to be clearly
better.

OUT/                   the run of what was chosen
OUT/adaptation.json    what was compared, and the scores
OUT/fine_tuned/        the run of the fine-tuned network, where it was not chosen
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from amodal.core import AmodalError, Column
from amodal.core.whole_file import whole_file
from amodal.nn.heads.supervised import Target
from amodal.stats.survival import concordance
from amodal.studies.frozen_heads import Records
from amodal.train.run_dir import difference

FILE = "adaptation.json"
FINE_TUNED = "fine_tuned"
MIN_VALID = 2
"""Validation records with the label, without which nothing can be chosen."""


class Predicts(Protocol):
    """A head, or a whole method."""

    @property
    def targets(self) -> tuple[Target, ...]: ...
    def predictions(self, outputs: Column) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Score:
    """How well one candidate predicts the validation records.

    Attributes:
        value: The mean over labels of balanced accuracy, R2 or concordance.
        error: Its standard error over records.
        loss: Log loss, squared error in variances, or -concordance; decides between equal values.
        seconds: It took to fit.
    """

    value: float
    error: float
    loss: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Choice:
    """What was compared, and what was chosen.

    Attributes:
        chosen: The name of a candidate.
        metric: What the scores are.
        scores: Candidate -> its score.
        records: Validation records that were scored.
        summary: A sentence for people.
        asked: Name -> what the user asked for, which a run that is resumed must be asked for too.
    """

    chosen: str
    metric: str
    scores: Mapping[str, Score]
    records: int
    summary: str
    asked: Mapping[str, Any] = field(default_factory=dict)

    def check(self, asked: Mapping[str, Any], out: Path) -> None:
        """Check that it was made for the same request.

        Raises:
            AmodalError: For the first entry that differs.
        """
        # through JSON, so that tuples compare equal to lists
        now = json.loads(json.dumps(asked, default=str))
        for name, then in self.asked.items():
            if now.get(name) != then:
                what, before, new = difference(then, now.get(name), name)
                raise AmodalError(
                    f"the run in {out} was adapted otherwise: {what} was {before}, and is {new} "
                    "now; choose another --out"
                )

    def save(self, folder: Path) -> None:
        """Write adaptation.json into a run folder."""
        with whole_file(folder / FILE) as draft:
            content = json.dumps(asdict(self), indent=1, default=str)
            draft.write_text(content + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Choice | None:
        """What an earlier call chose, None before it had."""
        file = folder / FILE
        if not file.exists():
            return None
        values = json.loads(file.read_text(encoding="utf-8"))
        scores = {name: Score(**score) for name, score in values["scores"].items()}
        return Choice(**values | {"scores": scores})


def score_of(head: Predicts, outputs: Column, valid: Records) -> Score:
    """How well a head predicts validation records.

    Args:
        head: Its targets are scored.
        outputs: What it gives for them. A record without any counts as a wrong class, or as the
            mean of the training records' amounts; it has no part in a concordance.
        valid: The records.
    """
    scored = []
    for target in head.targets:
        at = outputs.rows.numpy()
        usable = valid.known(target)[at]
        truth = tuple(values[at][usable] for values in valid.truth(target))
        predicted = head.predictions(outputs)[target.name].double().numpy()[usable]
        known = valid.known(target)
        every = valid.truth(target)[0][known]
        if target.kind == "classes":
            scored.append(_of_classes(predicted, truth[0], every))
        elif target.kind == "amount":
            whole = np.full(len(known), target.mean)
            whole[at[usable]] = predicted
            scored.append(_of_numbers(target, whole[known], (every,)))
        else:
            scored.append(_of_numbers(target, predicted, truth))
    values, errors, losses = zip(*scored)
    error = math.sqrt(sum(e * e for e in errors)) / len(errors)
    return Score(float(np.mean(values)), error, float(np.mean(losses)))


Triple = tuple[float, float, float]
"""Value, standard error and loss of one target."""


def _of_classes(predicted: np.ndarray, truth: np.ndarray, every: np.ndarray) -> Triple:
    """Balanced accuracy; records of a class that have no output count as wrong, or else a head that
    skips hard ones would win."""
    if not len(predicted):
        return 0.0, 0.0, math.inf
    right = predicted.argmax(1) == truth
    recalls, variances = [], []
    for number in np.unique(every):
        n = int((every == number).sum())
        recall = right[truth == number].sum() / n
        recalls.append(recall)
        variances.append(recall * (1 - recall) / n)
    p = predicted[np.arange(len(predicted)), truth].clip(1e-7)
    error = math.sqrt(sum(variances)) / len(recalls)
    return float(np.mean(recalls)), error, float(-np.log(p).mean())


def _of_numbers(target: Target, predicted: np.ndarray, truth: tuple[np.ndarray, ...]) -> Triple:
    """R2 of amounts, concordance of times until an event."""
    if not len(predicted):
        return 0.0, 0.0, math.inf
    if target.kind == "amount":
        variance = float(truth[0].var()) or 1.0
        errors = np.square(predicted - truth[0]) / variance
        error = float(errors.std() / math.sqrt(len(errors)))
        return 1 - float(errors.mean()), error, float(errors.mean())
    came = truth[1] == target.event
    value = concordance(predicted, truth[0], came)
    # of a share of comparable pairs, which are about as many as records with an event are worth
    error = math.sqrt(max(value * (1 - value), 0.0) / max(int(came.sum()), 1))
    return value, error, -value


METRICS = {"classes": "balanced accuracy", "amount": "R2", "survival": "concordance"}


def metric_of(targets: Sequence[Target]) -> str:
    """What a score is called."""
    names = list(dict.fromkeys(METRICS[target.kind] for target in targets))
    return names[0] if len(names) == 1 else f"mean of {' and '.join(names)}"


def choose(scores: Mapping[str, Score], ladder: Sequence[Collection[str]]) -> str:
    """The candidate that is kept.

    What needs more has to be better by more than a standard error: few validation records would
    else prefer by chance what is worse. So simple features are the first step, then what reads the
    encoder, then a fine-tuned network.

    Args:
        scores: Candidate -> its score.
        ladder: Candidates of each step; of a step the best one counts, by its loss where several
            are equal.
    """

    def order(name: str) -> tuple[float, float]:
        return scores[name].value, -scores[name].loss

    chosen = ""
    for step in ladder:
        names = [name for name in step if name in scores]
        if not names:
            continue
        best = max(names, key=order)
        if not chosen or scores[best].value - scores[chosen].value > scores[best].error:
            chosen = best
    return chosen


def sentence(scores: Mapping[str, Score], chosen: str, metric: str, records: int) -> str:
    """What was chosen, beside the best of the others."""
    first = (
        f"chose {chosen}: {metric} {scores[chosen].value:.3f} ±{1.96 * scores[chosen].error:.3f} "
        f"on {records} validation records"
    )
    others = {name: score.value for name, score in scores.items() if name != chosen}
    if not others:
        return first
    lines = [f"{name} {value:.3f}" for name, value in sorted(others.items(), key=lambda i: -i[1])]
    return f"{first}; {', '.join(lines)}"


def check_records(valid: Records, targets: Sequence[Target]) -> None:
    """Check that there is something to choose by.

    Raises:
        AmodalError: If hardly a validation record has the label.
    """
    for target in targets:
        count = int(valid.known(target).sum())
        if count < MIN_VALID:
            raise AmodalError(
                f"{count} record{'s' * (count != 1)} of the validation part "
                f"ha{'ve' if count != 1 else 's'} the label {target.name!r}, and at least "
                f"{MIN_VALID} are needed to choose what predicts it best; choose yourself, such as "
                "--tuning lora"
            )
