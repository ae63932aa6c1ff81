"""margin_softmax against the softmax written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.margin_softmax import margin_softmax


def reference(z, w, classes, scale, margin):
    terms = []
    for x, own in zip(z, classes.tolist()):
        cosine = [F.cosine_similarity(x, c, dim=0) for c in w]
        logits = [scale * (c - margin * (k == own)) for k, c in enumerate(cosine)]
        terms.append(-(logits[own] - torch.stack(logits).logsumexp(0)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("scale, margin", [(64.0, 0.35), (5.0, 0.0)])
def test_it_is_the_published_formula(pair, same, scale, margin):
    (z, _), (w, _) = pair(7, 4), pair(3, 4)
    classes = torch.tensor([0, 2, 2, 1, 0, 1, 2])
    same(
        lambda x, y: margin_softmax(x, y, classes, scale=scale, margin=margin),
        lambda x, y: reference(x, y, classes, scale, margin),
        [z, w],
    )


def test_a_margin_costs_what_it_takes_from_the_own_cosine():
    z, w = torch.eye(2), torch.eye(2)
    loss = margin_softmax(z, w, torch.arange(2), scale=10.0, margin=0.4)
    assert float(loss) == pytest.approx(math.log1p(math.exp(-6)), rel=1e-3)


def test_nobody_and_bad_shapes():
    w = torch.randn(3, 4, requires_grad=True)
    loss = margin_softmax(torch.zeros(0, 4), w, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0 and w.grad.abs().sum() == 0
    with pytest.raises(ValueError, match="classes"):
        margin_softmax(torch.zeros(2, 4), w, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="scale"):
        margin_softmax(torch.zeros(2, 4), w, torch.zeros(2, dtype=torch.int64), scale=0.0)
