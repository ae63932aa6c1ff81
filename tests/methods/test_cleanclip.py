"""CleanCLIP's loss, and that it goes on from a trained run."""

import math

import pytest
import torch

from amodal.core import Batch, Column, Embeddings
from tests.methods.bench import batch, method


def softmax_loss(rows, columns, scale):
    """Mean of -log softmax over the columns at each row's own, written out."""
    total = 0.0
    for i, a in enumerate(rows):
        logits = [scale * float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for b in columns]
        total += math.log(sum(math.exp(v) for v in logits)) - logits[i]
    return total / len(rows)


def test_the_loss_is_the_papers():
    m = method("cleanclip", sources=("picture", "words"), cross=0.7, within=3.0, temperature=0.2)
    rng = torch.Generator().manual_seed(0)
    image, image2, text, text2 = (
        torch.randn(5, 4, generator=rng, dtype=torch.float64) for _ in range(4)
    )
    views = {"picture:1": image, "picture:2": image2, "words:1": text, "words:2": text2}
    z = Embeddings({s: Column(v, torch.arange(5)) for s, v in views.items()}, 5)
    cross = (softmax_loss(image, text, 5) + softmax_loss(text, image, 5)) / 2
    within = (softmax_loss(image, image2, 5) + softmax_loss(text, text2, 5)) / 2
    assert float(sum(m.losses(z).values()).detach()) == pytest.approx(
        0.7 * cross + 3 * within, rel=1e-5
    )


def test_a_record_with_one_field_still_teaches_within_it():
    m = method("cleanclip")
    whole = batch(m.views, size=8, patchy=False)
    split = {
        s: c.at((c.rows % 2 == 0) == s.startswith("picture")) for s, c in whole.columns.items()
    }
    terms = m.losses(m.features(Batch.of(8, split, whole.keys)))
    assert all(
        float(v.detach()) == 0 for k, v in terms.items() if k.startswith("info_nce/picture:1~")
    )
    assert float(terms["info_nce/picture:1>picture:2"].detach()) > 0
