"""Intervals over records: what they cover, and that paired ones are narrower."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import balanced_accuracy_score, f1_score, r2_score, roc_auc_score

from amodal.stats.paired_bootstrap import (
    BalancedAccuracy,
    Bootstrap,
    Determination,
    Drawn,
    MacroF1,
    Mean,
    MeanAuroc,
    RankCorrelation,
    Repeated,
)


def weights(n, draws=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float32)


def test_metrics_of_a_draw_are_those_of_the_records_drawn():
    rng = np.random.default_rng(1)
    n, classes = 600, 3
    who, truth = np.arange(n), rng.integers(0, classes, n)
    p = rng.dirichlet(np.ones(classes), n).round(2)
    guess = p.argmax(1)
    x = rng.normal(size=n)
    y = (x + rng.normal(size=n)).round(1)
    weight = weights(n)
    repeated = [np.repeat(who, w.astype(int)) for w in weight]

    def area(i):
        return np.mean([roc_auc_score(truth[i] == c, p[i, c]) for c in range(classes)])

    expected = {
        Mean(who, x): lambda i: x[i].mean(),
        BalancedAccuracy(who, truth, guess): lambda i: balanced_accuracy_score(truth[i], guess[i]),
        MacroF1(who, truth, guess): lambda i: f1_score(truth[i], guess[i], average="macro"),
        MeanAuroc(who, truth, p, range(classes)): area,
        Determination(who, x, y): lambda i: r2_score(x[i], y[i]),
        RankCorrelation(who, x, y): lambda i: spearmanr(x[i], y[i]).statistic,
    }
    for outcome, metric in expected.items():
        values = [metric(i) for i in repeated]
        assert outcome.statistic(weight) == pytest.approx(values, abs=1e-5), type(outcome)
    rare = np.where(rng.random(n) < 0.1, 1, 0)  # by pairs, where those above went by ranks
    one = MeanAuroc(who, rare, p, [1]).statistic(weight)
    assert one == pytest.approx([roc_auc_score(rare[i], p[i, 1]) for i in repeated], abs=1e-5)


def correlated(rng, n, a, b, shared):
    """Hits of two encoders, of which a share of the records is decided by the same luck."""
    luck = rng.random((2, n))
    luck[1] = np.where(rng.random(n) < shared, luck[0], luck[1])
    return (luck[0] < a).astype(float), (luck[1] < b).astype(float)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    n, simulations, covered = 150, 300, np.zeros(4)
    classes = np.repeat([0, 1, 2], [90, 40, 20])
    recall = np.array([0.9, 0.7, 0.5])
    for number in range(simulations):
        bootstrap = Bootstrap(n, draws=400, seed=number)
        x, y = correlated(rng, n, 0.8, 0.7, 0.8)
        a, b = Mean(np.arange(n), x), Mean(np.arange(n), y)
        guess = np.where(rng.random(n) < recall[classes], classes, 3)
        balanced = BalancedAccuracy(np.arange(n), classes, guess)
        u = rng.normal(size=n)
        v = 0.6 * u + 0.8 * rng.normal(size=n)
        ranks = RankCorrelation(np.arange(n), u, v)
        truth = (0.8, 0.1, recall.mean(), 6 / np.pi * np.arcsin(0.3))
        intervals = [bootstrap.interval(o) for o in (a, balanced, ranks)]
        intervals.insert(1, bootstrap.difference(a, b))
        covered += [low <= t <= high for (low, high), t in zip(intervals, truth)]
    shares = covered / simulations
    assert (shares >= 0.9).all() and (shares <= 0.99).all(), shares


def test_groups_that_share_their_luck_are_drawn_as_wholes():
    rng = np.random.default_rng(0)
    group, covered = np.repeat(np.arange(30), 10), np.zeros(2)
    for number in range(200):
        rate = rng.beta(1, 1, 30)[group]
        hits = Mean(np.arange(300), (rng.random(300) < rate).astype(float))
        for kind, of in enumerate((None, group)):
            low, high = Bootstrap(300, draws=200, seed=number, group=of).interval(hits)
            covered[kind] += low <= 0.5 <= high
    single, whole = covered / 200
    assert single < 0.75 and 0.9 <= whole <= 0.99


def test_a_paired_interval_is_narrower_where_outcomes_go_together():
    rng = np.random.default_rng(0)
    x, y = correlated(rng, 300, 0.8, 0.7, 0.9)
    bootstrap = Bootstrap(300)
    a, b = Mean(np.arange(300), x), Mean(np.arange(300), y)
    low, high = bootstrap.difference(a, b)
    alone = [np.diff(bootstrap.interval(o))[0] for o in (a, b)]
    assert high - low < 0.75 * np.hypot(*alone) and low > 0
    assert bootstrap.difference(a, a) == (0.0, 0.0)
    assert Bootstrap(300).difference(a, b) == (low, high), "seeded"


def test_outcomes_that_are_all_alike_have_no_interval():
    right = Mean(np.arange(50), np.ones(50))
    assert Bootstrap(50).interval(right) is None
    assert Bootstrap(50).interval(BalancedAccuracy(np.arange(50), *[np.zeros(50, int)] * 2)) is None


def test_repetitions_are_drawn_too():
    rng = np.random.default_rng(0)
    who = np.arange(2000)
    parts = [Mean(who, (rng.random(2000) < p).astype(float)) for p in (0.5, 0.6, 0.7, 0.8)]
    bootstrap = Bootstrap(2000)
    low, high = bootstrap.interval(Repeated(who, parts))
    assert high - low > 0.1 > 0.05 > np.diff(bootstrap.interval(parts[0]))[0]
    low, high = bootstrap.difference(Repeated(who, parts), Mean(who, parts[0].value))
    assert low < 0.15 < high


def test_draws_of_a_protocol_are_paired_where_they_are_of_the_same_records():
    base = np.random.default_rng(0).normal(0.7, 0.1, (2, 200))
    a, b = Drawn(np.arange(9), base[0] + 0.05, "x"), Drawn(np.arange(9), base[0] + base[1] / 9, "x")
    bootstrap = Bootstrap(5)
    low, high = bootstrap.difference(a, b)
    assert low < 0.05 - 0.7 / 9 < high and high - low < 0.1
    other = Drawn(np.arange(9), base[0], "y")
    assert bootstrap.difference(a, other) is None
    assert bootstrap.difference(a, Mean(np.arange(5), np.arange(5.0))) is None


def test_many_records_have_fewer_draws():
    assert Bootstrap(50_000).draws == 400 and Bootstrap(10).draws == 1000
