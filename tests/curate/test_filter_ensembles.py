"""The label model over rules, against worlds in which every probability is known."""

import itertools

import numpy as np
import pytest

from amodal.curate.filter_ensembles import (
    detection_scores,
    filter_ensembles,
    majority,
    triplets,
    vote,
)

GOOD = 0.25
RIGHT = [
    (0.75, 0.75),
    (0.5, 1.0),
    (1.0, 0.5),
    (0.25, 0.5),
]  # about bad, about good records; the last is worse than chance


def world(good=GOOD, class_accuracy=RIGHT, grain=4):
    """Every pattern of answers as often as it should be, and the truth: rates are multiples of 1 /
    grain."""
    votes, truth = [], []
    for y in (-1, 1):
        for pattern in itertools.product((-1, 1), repeat=len(class_accuracy)):
            chance = good if y > 0 else 1 - good
            for (bad, fine), v in zip(class_accuracy, pattern):
                correct = fine if y > 0 else bad
                chance *= correct if v == y else 1 - correct
            count = round(chance * grain ** (len(class_accuracy) + 1))
            votes += [pattern] * count
            truth += [y] * count
    return {f"rule {k}": np.array(v) for k, v in enumerate(np.array(votes).T)}, np.array(truth)


def by_bayes(pattern, good, class_accuracy):
    """P(good | votes), written out."""
    joint = {}
    for y, prior in ((1, good), (-1, 1 - good)):
        for (bad, fine), v in zip(class_accuracy, pattern):
            correct = fine if y > 0 else bad
            prior *= 1.0 if v == 0 else correct if v == y else 1 - correct
        joint[y] = prior
    return joint[1] / (joint[1] + joint[-1])


@pytest.mark.parametrize("prior", [GOOD, 0.0])
def test_rules_and_posterior_are_found_from_agreement_alone(prior):
    votes, truth = world()
    found = filter_ensembles(votes, good=prior)
    assert found.good == pytest.approx(GOOD)
    class_accuracy = np.array(RIGHT).clip(1e-3, 1 - 1e-3)
    np.testing.assert_allclose(found.class_accuracy, class_accuracy, atol=1e-9)
    expected = [by_bayes(p, GOOD, class_accuracy) for p in zip(*votes.values())]
    np.testing.assert_allclose(found.posterior, expected, atol=1e-9)
    assert np.array_equal(found.selected, found.posterior > 0.5) and list(found.accuracy) == list(
        votes
    )


@pytest.mark.parametrize("prior", [0.75, 0.0])
def test_the_symmetric_model_is_the_weighted_vote_of_the_paper(prior):
    class_accuracy = [(0.75, 0.75), (1.0, 1.0), (0.25, 0.25), (0.75, 0.75)]
    votes, _ = world(0.75, class_accuracy)
    found = filter_ensembles(votes, good=prior, symmetric=True)
    assert found.good == pytest.approx(0.75)
    a = np.array([0.5, 1.0, -0.5, 0.5]).clip(-0.998, 0.998)
    np.testing.assert_allclose(found.class_accuracy, np.stack([(1 + a) / 2] * 2, 1), atol=1e-9)
    weights = np.log((1 + a) / (1 - a))
    odds = np.log(0.75 / 0.25) + sum(w * v for w, v in zip(weights, votes.values()))
    np.testing.assert_allclose(found.posterior, 1 / (1 + np.exp(-odds)), atol=1e-9)


def test_abstaining_says_nothing():
    votes, _ = world()
    silent = np.random.default_rng(0).random((len(votes["rule 0"]), 4)) < 0.3
    some = {name: np.where(silent[:, k], 0, v) for k, (name, v) in enumerate(votes.items())}
    found = filter_ensembles(some, good=GOOD)
    expected = [by_bayes(p, GOOD, found.class_accuracy) for p in zip(*some.values())]
    np.testing.assert_allclose(found.posterior, expected, atol=1e-9)
    np.testing.assert_allclose(found.class_accuracy, RIGHT, atol=0.2)


def test_the_best_are_selected_and_an_ensemble_beats_the_majority():
    rng = np.random.default_rng(1)
    truth = rng.random(4000) < 0.5
    chances = (0.9, 0.6, 0.6, 0.55, 0.55)
    votes = {
        str(i): np.where((rng.random(4000) < c) == truth, 1, -1) for i, c in enumerate(chances)
    }
    found = filter_ensembles(votes, keep=0.5)
    assert (
        found.selected.sum() == 2000
        and found.posterior[found.selected].min() >= found.posterior[~found.selected].max()
    )
    assert (found.selected == truth).mean() > ((majority(votes) > 0) == truth).mean() + 0.05
    assert max(found.accuracy, key=found.accuracy.get) == "0"


def test_triplets_are_a_median_over_pairs_of_others():
    r = np.array([0.8, 0.5, -0.3, 0.6])
    moments = np.outer(r, r)
    moments[0, 1] = moments[1, 0] = 0.9  # two rules that copy each other
    each = []
    for j, k in ((1, 2), (1, 3), (2, 3)):
        each.append(abs(moments[0, j] * moments[0, k] / moments[j, k]) ** 0.5)
    assert triplets(moments)[0] == pytest.approx(sorted(each)[1])
    assert np.sign(triplets(moments)).tolist() == [1, 1, -1, 1]


def test_votes_and_what_a_detector_found():
    assert vote([0.1, np.nan, 0.5], least=0.5).tolist() == [-1, 0, 1]
    assert vote([1, 2, 3, 4, np.nan], share=0.5).tolist() == [-1, -1, 1, 1, 0]
    boxes = [np.array([[0, 0, 0.5, 0.5], [0, 0, 1, 1]]), np.zeros((0, 4)), np.zeros((0, 4))]
    found = detection_scores(boxes, [[0.9, 0.1], [], []], [2, 1, 0])
    assert found["found"].tolist()[:2] == [0.9, 0.0] and np.isnan(found["found"][2])
    assert found["grounded"].tolist()[:2] == [0.5, 0.0]
    assert found["area"][0] == 0.25 and np.isnan(found["area"][1:]).all()


def test_a_rule_that_never_varies_where_another_votes_is_not_estimated_by_it():
    votes, _ = world(class_accuracy=RIGHT[:3])
    alone = filter_ensembles(votes, good=GOOD)
    every = np.ones_like(votes["rule 0"])
    found = filter_ensembles(
        votes | {"drowsy": np.where(votes["rule 0"] > 0, every, 0), "yes": every}, good=GOOD
    )
    # the fourth speaks only where the first says yes, and always agrees: neither it nor "yes" says
    # anything about the others
    np.testing.assert_allclose(found.class_accuracy[:3], alone.class_accuracy, atol=1e-9)
    assert found.accuracy["drowsy"] == found.accuracy["yes"] == 0.5
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(20000) < 0.5, 1, -1)
    some = {
        k: np.where(rng.random(20000) < a, truth, -truth) for k, a in zip("abc", (0.8, 0.75, 0.7))
    }
    some |= {
        k: np.where(some["c"] > 0, np.where(rng.random(20000) < 0.7, truth, -truth), 0)
        for k in "de"
    }
    assert filter_ensembles(some).accuracy["c"] == pytest.approx(0.7, abs=0.02), (
        "d and e speak only where c says yes"
    )


def test_errors_say_what_is_missing():
    with pytest.raises(ValueError, match="three rules"):
        filter_ensembles({"a": np.ones(3), "b": np.ones(3)})
    with pytest.raises(ValueError, match="'b'"):
        filter_ensembles({"a": np.ones(3), "b": np.array([0.5, 1, 1]), "c": np.ones(3)})
    silent = np.zeros(4)
    with pytest.raises(ValueError, match="no rule can be estimated"):
        filter_ensembles({"a": np.ones(4), "b": silent, "c": silent})
    with pytest.raises(ValueError, match="either"):
        vote([1.0])
