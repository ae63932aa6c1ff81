"""CLIP for interstitial lung disease: what goes on learning, and intervals of AUROC."""

import numpy as np
import pytest
import torch

from amodal.core import AmodalError
from amodal.stats.auroc import auroc, bootstrap
from tests.methods.bench import batch, method


@pytest.mark.parametrize("learn", ["both", "seen", "text"])
def test_the_other_side_keeps_its_tower(learn):
    m = method("clip_ild", learn=learn)
    sum(m.losses(m.features(batch(m.views))).values()).backward()
    reached = {
        n.split(".")[1]
        for n, p in m.encoder.named_parameters()
        if "trunks" in n and p.grad is not None
    }
    seen = {"picture", "signal", "facts"}
    assert reached == {"both": seen | {"words"}, "seen": seen, "text": {"words"}}[learn]
    assert m.encoder.heads["words"].weight.grad is not None


def test_it_is_the_contrast_of_clip():
    batches = batch(("weak",))
    pair = [
        sum(m.losses(m.features(batches)).values()) for m in (method("clip_ild"), method("clip"))
    ]
    torch.testing.assert_close(*pair)


def test_wrong_options_and_no_text_are_reported():
    with pytest.raises(AmodalError, match="Did you mean text"):
        method("clip_ild", learn="texts")
    with pytest.raises(AmodalError, match="text field"):
        method("clip_ild", sources=("picture", "signal"))


def test_bootstrap_interval_of_auroc():
    rng = np.random.default_rng(0)
    wanted = rng.random(200) < 0.4
    score = rng.normal(size=200) + wanted
    low, high = bootstrap(score, wanted, draws=400)
    assert low < auroc(score, wanted) < high
    # the standard error of Hanley and McNeil (1982)
    a, n, m = auroc(score, wanted), wanted.sum(), (~wanted).sum()
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + (n - 1) * (q1 - a * a) + (m - 1) * (q2 - a * a)) / (n * m))
    assert abs((high - low) / (2 * 1.96 * error) - 1) < 0.2
    assert bootstrap([1, 2, 3, 4], [False, False, True, True]) == (1.0, 1.0)
    with pytest.raises(AmodalError, match="AUROC"):
        bootstrap([1, 2], [True, True])
