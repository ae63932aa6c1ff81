"""Figures of maps against other ways to compute them."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import average_precision_score, roc_auc_score

from amodal.core import AmodalError
from amodal.maps.measure import PixelClusters
from amodal.maps.scores import (
    BINS,
    assembled,
    binned,
    chance_iou,
    chance_of_change,
    change_scores,
    matched,
    pixel_score,
)
from amodal.stats.mask_overlap import f1_and_iou, mean_iou
from amodal.stats.otsu import otsu


def table(guess, truth, layers, classes):
    out = np.zeros((len(guess), layers, classes), int)
    for n, (g, t) in enumerate(zip(guess, truth)):
        np.add.at(out[n], (g, t), 1)
    return out


def test_mean_iou_of_fixed_layers_is_that_of_all_pixels():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (6, 50))
    guess = np.where(rng.random((6, 50)) < 0.6, truth, rng.integers(0, 4, (6, 50)))
    value, draws = pixel_score(table(guess, truth, 4, 4), range(4), [0, 1, 2, 3])
    expected = mean_iou(torch.from_numpy(guess), torch.from_numpy(truth), 4)
    assert value == pytest.approx(expected)
    low, high = np.quantile(draws, (0.025, 0.975))
    assert low < value < high and high - low < 0.2


def test_layers_without_names_are_matched_to_classes():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, (4, 60))
    turned = np.array([2, 0, 1])
    guess = turned[np.where(rng.random((4, 60)) < 0.8, truth, rng.integers(0, 3, (4, 60)))]
    whole = table(guess, truth, 3, 3)
    assert matched(whole.sum(0)) == [2, 0, 1]
    value = pixel_score(whole, range(3), None)[0]
    back = np.argsort(turned)[guess]
    assert value == pytest.approx(mean_iou(torch.from_numpy(back), torch.from_numpy(truth), 3))
    # fewer layers than classes leave a class without one, whose overlap is nothing
    few = table(np.minimum(guess, 1), truth, 2, 3)
    layers = matched(few.sum(0))
    assert layers.count(-1) == 1 and len(set(layers)) == 3
    union = few.sum(0).sum(1)[:, None] + few.sum(0).sum(0) - few.sum(0)
    iou = few.sum(0) / union
    best = iou[linear_sum_assignment(-iou)].sum() / 3
    assert pixel_score(few, range(3), None)[0] == pytest.approx(best)


def test_chance_is_what_random_layers_reach():
    rng = np.random.default_rng(2)
    truth = rng.choice(3, (1, 200_000), p=[0.7, 0.2, 0.1])
    guess = rng.integers(0, 3, truth.shape)
    whole = table(guess, truth, 3, 3)
    drawn = pixel_score(whole, range(3), [0, 1, 2])[0]
    assert chance_iou(whole.sum(0), 3) == pytest.approx(drawn, abs=0.003)


def test_metrics_of_change_are_those_of_the_pixels():
    rng = np.random.default_rng(3)
    truth = (rng.random((5, 400)) < 0.3).astype(int)
    # scores in the middle of bins, so that nothing is lost in them
    score = (rng.integers(0, 300, truth.shape) + 150 * truth + 0.5) / BINS
    counts = np.stack([binned(s, t, 1.0) for s, t in zip(score, truth)])
    assert counts.shape == (5, 2, BINS) and counts.sum() == truth.size
    found = change_scores(counts, 200)
    f1, iou = f1_and_iou(torch.from_numpy(score > 200 / BINS), torch.from_numpy(truth > 0))
    assert found["F1"][0] == pytest.approx(f1) and found["IoU"][0] == pytest.approx(iou)
    flat = truth.ravel(), score.ravel()
    assert found["AUROC"][0] == pytest.approx(roc_auc_score(*flat))
    assert found["average precision"][0] == pytest.approx(average_precision_score(*flat))


def test_chance_of_change_is_that_of_random_marks():
    rng = np.random.default_rng(4)
    truth = rng.random(300_000) < 0.2
    marks = rng.random(300_000) < 0.2
    f1, iou = f1_and_iou(torch.from_numpy(marks), torch.from_numpy(truth))
    chance = chance_of_change(0.2)
    assert chance["F1"] == pytest.approx(f1, abs=0.005)
    assert chance["IoU"] == pytest.approx(iou, abs=0.005)


def test_differences_are_of_the_same_draws():
    rng = np.random.default_rng(5)
    a = np.concatenate([[0.5], 0.5 + 0.1 * rng.normal(size=500)])
    score = assembled("IoU", {"this map": a, "pixels": a - 0.01}, 0.1)
    assert score.values == {"this map": 0.5, "pixels": pytest.approx(0.49), "chance": 0.1}
    low, high = score.differences["pixels"]
    assert low == pytest.approx(0.01) == high
    assert score.intervals["this map"][0] < 0.4 < 0.6 < score.intervals["this map"][1]


def test_clusters_of_pixels_are_their_colours():
    rng = np.random.default_rng(6)
    pictures = [np.where(rng.random((1, 8, 8)) < 0.5, 10, 200).repeat(3, 0) for _ in range(3)]
    clusters = PixelClusters(np.concatenate([x.reshape(3, -1).T for x in pictures]), 2, 0)
    for x in pictures:
        label = clusters(x)
        assert len(np.unique(label[x[0] == 10])) == len(np.unique(label[x[0] == 200])) == 1
        assert label[x[0] == 10][0] != label[x[0] == 200][0]


def test_otsu_is_the_best_of_all_thresholds():
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.normal(0, 1, 900), rng.normal(6, 1, 300)])
    count, edge = np.histogram(x, 64)
    middle = (edge[1:] + edge[:-1]) / 2
    best = []
    for cut in range(1, 64):
        low, high = count[:cut].sum(), count[cut:].sum()
        means = [np.average(middle[s], weights=count[s]) for s in (slice(cut), slice(cut, None))]
        best.append(low * high * (means[1] - means[0]) ** 2 / len(x) ** 2)
    threshold, between = otsu(count, edge)
    # between the groups are empty bins, whose ends are as good
    ties = [edge[1 + i] for i, b in enumerate(best) if b == pytest.approx(max(best))]
    assert threshold in ties and ties[0] <= threshold <= ties[-1]
    spread = np.average((middle - np.average(middle, weights=count)) ** 2, weights=count)
    assert between == pytest.approx(max(best) / spread) and between > 0.8
    flat = otsu(np.ones(100), np.linspace(0, 1, 101))
    assert flat == (pytest.approx(0.5), pytest.approx(0.75, abs=1e-3))
    with pytest.raises(AmodalError, match="all the same"):
        otsu(np.array([0, 5, 0]), np.arange(4.0))
