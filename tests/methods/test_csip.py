"""CSIP: the loss is the paper's, in one direction or two, from the picture to every other field."""

import pytest
import torch
import torch.nn.functional as F

from amodal.core import AmodalError
from tests.methods.bench import batch, exact, method


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_is_cross_entropy_of_pictures_over_the_others(symmetric):
    m = exact(method("csip", symmetric=symmetric))
    b = exact(batch(m.views, patchy=False))
    z = m.features(b)
    terms = m.losses(z)
    assert list(terms) == [f"info_nce/picture>{s}" for s in ("words", "signal", "facts")]
    for term, value in terms.items():
        a, c = (F.normalize(z[s].values, dim=1) for s in term.split("/")[1].split(">"))
        logits, rows = a @ c.T * torch.tensor(1 / 0.07).log().exp(), torch.arange(8)
        ways = [F.cross_entropy(logits, rows)] + [F.cross_entropy(logits.T, rows)] * symmetric
        torch.testing.assert_close(value, sum(ways) / len(ways) / 3, rtol=1e-6, atol=1e-6)


def test_the_image_is_the_first_picture_or_the_one_that_is_named():
    m = method("csip", image="facts")
    assert all(t.startswith("info_nce/facts>") for t in m.losses(m.features(batch(m.views))))
    m = method("csip", sources=("words", "signal"))
    assert list(m.losses(m.features(batch(m.views, sources=("words", "signal"))))) == [
        "info_nce/words>signal"
    ]
    with pytest.raises(AmodalError, match="Did you mean picture"):
        method("csip", image="pictur")
