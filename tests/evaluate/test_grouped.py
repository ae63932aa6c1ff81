"""Cross-validation with whole groups, and its probe, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from amodal.core import AmodalError
from amodal.evaluate.grouped_cv import folds, grouped, probe, side_by_side
from amodal.stats.auroc import auroc


def records(n=240, seed=0):
    rng = np.random.default_rng(seed)
    group = rng.integers(12, size=n)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    label = x[:, 0] + 0.5 * x[:, 1] + rng.normal(size=n) > 0.8
    return torch.from_numpy(x), label, group


def test_groups_stay_whole_and_classes_are_spread_as_evenly_as_by_a_peer():
    _, label, group = records()
    peers = StratifiedGroupKFold(4, shuffle=True, random_state=0).split(label, label, group)
    theirs = [label[test].mean() for _, test in peers]
    place = folds(label, group, 4)
    assert sorted(set(place)) == [0, 1, 2, 3]
    assert all(len(set(place[group == g])) == 1 for g in set(group))
    ours = [label[place == k].mean() for k in range(4)]
    assert np.std(ours) <= np.std(theirs) + 0.03
    assert max(np.bincount(place)) < 2 * min(np.bincount(place))
    assert not np.array_equal(place, folds(label, group, 4, seed=1))
    with pytest.raises(AmodalError, match="as many groups"):
        folds(label, np.zeros(len(label)), 2)


def test_the_linear_probe_is_a_class_weighted_logistic_regression():
    x, label, _ = records()
    z = (x - x.mean(0)) / x.std(0)
    weight = np.where(label, (~label).sum() / label.sum(), 1.0)
    # the mean loss with decay / 2 |w|^2 is C = 1 / (N decay) of the sum
    peer = LogisticRegression(C=1 / (len(x) * 0.01), tol=1e-8, max_iter=1000).fit(
        z.numpy(), label, sample_weight=weight
    )
    score = probe()(x, torch.from_numpy(label))(x)
    np.testing.assert_allclose(score.numpy(), peer.decision_function(z.numpy()), atol=2e-2)


def test_principal_components_and_a_hidden_layer():
    x, label, _ = records()
    wanted = torch.from_numpy(label)
    z = ((x - x.mean(0)) / x.std(0)).numpy()
    reduced = torch.from_numpy(PCA(2).fit_transform(z)).float()
    torch.testing.assert_close(
        probe(components=2)(x, wanted)(x), probe()(reduced, wanted)(reduced), rtol=1e-2, atol=1e-2
    )
    either = torch.from_numpy((x[:, 0] * x[:, 1] > 0).numpy())
    assert (
        auroc(probe(hidden=16)(x, either)(x), either)
        > 0.9
        > 0.7
        > auroc(probe()(x, either)(x), either)
    )


def test_every_record_is_judged_by_a_probe_that_saw_nothing_of_its_group():
    x, label, group = records()
    seen = []

    def fit(a, y):
        mine = {tuple(r) for r in a.tolist()}
        seen.append(mine)
        return lambda b: torch.tensor([float(tuple(r) in mine) for r in b.tolist()])

    found = grouped(x, label, group, fit=fit, parts=4, repeats=2)
    assert found.values == (0.5,) * 8 and found.mean == 0.5 and found.std == 0 and len(seen) == 8
    real = grouped(x, label, group, fit=probe(), parts=4, repeats=3)
    assert (
        len(real.repeats) == 3
        and real.mean > 0.7
        and real.interval[0] <= np.mean(real.repeats) <= real.interval[1]
    )
    with pytest.raises(AmodalError, match="both kinds"):
        grouped(x, np.ones(len(x), dtype=bool), group, fit=probe())


def test_sources_side_by_side_weigh_the_same():
    both = side_by_side([torch.randn(50, 4) * 9 + 3, torch.randn(50, 16)])
    assert both.shape == (50, 20)
    torch.testing.assert_close(
        both[:, :4].square().sum(), both[:, 4:].square().sum(), rtol=1e-4, atol=1e-4
    )
