"""The rules of selection by name, those without a file of their own, and the ensemble of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.core.references import load_reference
from amodal.core.user_code import user_code
from amodal.curate.filter_ensembles import filter_ensembles, vote
from amodal.data.attributes import Attributes
from amodal.selection.balance import balance
from amodal.selection.chunks import Columns, Rows
from amodal.selection.draws import uniform_of
from amodal.selection.duplicates import duplicates
from amodal.selection.pairs import clip_score, learnability, pair_rules
from amodal.selection.pool import Pool, Scores
from amodal.selection.texts import in_domain

Rule = Callable[[Pool], Scores]


def random(pool: Pool) -> Scores:
    """A number drawn by the hash of the key: the choice that any other must be better than."""
    keys = [pool.dataset.keys[i] for i in pool.rows.tolist()]
    score = uniform_of(keys, pool.settings.seed)
    return Scores(score=score, meaning="a random number")


def ensemble(pool: Pool) -> Scores:
    """The probability of being good, from the votes of three rules or more that are weighed by how
    they agree (Huang et al. 2023, arXiv:2401.12225). Between equal ones the mean rank decides.

    Raises:
        AmodalError: For fewer than three rules, and what `filter_ensembles` raises.
    """
    names = tuple(dict.fromkeys(pool.settings.rules))
    if len(names) < 3 or "ensemble" in names:
        raise AmodalError(
            "an ensemble weighs three rules or more against each other: --rules "
            f"clip_score,pair_rules,random, for one; got {', '.join(names) or 'none'}"
        )
    scores = {name: rule(name)(pool) for name in names}
    votes = {name: _votes(one, pool.settings.share) for name, one in scores.items()}
    fitted = filter_ensembles(votes)
    voted = np.any([v != 0 for v in votes.values()], 0)
    accuracy = ", ".join(f"{name} {value:.0%}" for name, value in fitted.accuracy.items())
    return Scores(
        score=np.where(voted, fitted.posterior, np.nan),
        meaning=f"probability of being good by the votes of {', '.join(names)}",
        lacking="a vote of any rule",
        threshold=0.5,
        columns={name: one.score for name, one in scores.items()},
        tie=np.mean([_ranks(one.score) for one in scores.values()], 0),
        notes=[
            f"estimated accuracy of the rules, without a label: {accuracy}",
            *_reversed(fitted.accuracy),
        ],
    )


def _reversed(accuracy: Mapping[str, float]) -> list[str]:
    """What is to be said of rules whose votes count the other way round."""
    below = [name for name, value in accuracy.items() if value < 0.5]
    if not below:
        return []
    votes, them, right = (
        ("its votes count", "it", "it is")
        if len(below) == 1
        else ("their votes count", "them", "they are")
    )
    return [
        f"the others contradict {' and '.join(below)}, so {votes} the other way round; if {right} "
        f"right and the others are not, leave {them} out of --rules, or take --by {below[0]} alone"
    ]


def _votes(one: Scores, share: float) -> np.ndarray:
    """A rule with a threshold of its own votes by it, and others for a share of the records."""
    if one.threshold is not None:
        return vote(one.score.tolist(), least=one.threshold)
    return vote(one.score.tolist(), share=share)


def _ranks(score: np.ndarray) -> np.ndarray:
    """(N,) from 0 to 1; .5 without a score."""
    rank, have = np.full(len(score), 0.5), ~np.isnan(score)
    if have.any():
        _, place, count = np.unique(score[have], return_inverse=True, return_counts=True)
        rank[have] = (np.cumsum(count) - (count + 1) / 2)[place] / have.sum()
    return rank


RULES: Mapping[str, Rule] = {
    f.__name__: f
    for f in (
        *(clip_score, learnability, pair_rules, in_domain, balance, duplicates, ensemble),
        random,
    )
}


def rule(name: str) -> Rule:
    """A rule by its name: one of `RULES`, an attribute of the records (`caption.length`, a column,
    a label that is a number), or a function of one's own, `file.py:NAME` or `package.module:NAME`:
    (dataset, rows) -> (N,) scores, NaN where it cannot say."""
    if name in RULES:
        return RULES[name]
    if ":" in name:
        return lambda pool: _user_rule(name, pool)
    return lambda pool: _attribute(name, pool)


def _user_rule(name: str, pool: Pool) -> Scores:
    function = load_reference(name)
    if not callable(function):
        raise AmodalError(f"{name} is no function (dataset, rows) -> scores")

    def make(rows: Rows) -> Columns:
        with user_code(f"the rule {name}", function):
            score = np.asarray(function(pool.dataset, rows), dtype=np.float64)
        if score.shape != rows.shape:
            raise AmodalError(
                f"{name} gave scores of shape {score.shape} for {len(rows)} records; one for each "
                "is needed, NaN where it cannot say"
            )
        return {"score": score}

    score = pool.chunks.each(name, pool.rows, make)["score"]
    return Scores(score=score, meaning=f"the score of {name}")


def _attribute(name: str, pool: Pool) -> Scores:
    attributes, labels = Attributes(pool.dataset), pool.dataset.labels
    numbers = [n for n, kind in attributes.names.items() if kind == "number"]
    numbers += [n for n, label in labels.items() if label.kind == "number"]
    if name not in numbers:
        raise unknown(
            "rule of selection",
            name,
            [*RULES, *numbers],
            "A rule of your own is FILE.py:NAME.",
        )
    if name in labels:
        return Scores(score=pool.dataset.label(name)[pool.rows].copy(), meaning=name, lacking=name)

    def make(rows: Rows) -> Columns:
        return {"score": attributes.values(name, [pool.dataset.keys[i] for i in rows.tolist()])}

    score = pool.chunks.each(name, pool.rows, make)["score"]
    return Scores(score=score, meaning=name, lacking=name)
