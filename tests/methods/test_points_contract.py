"""Methods on two fields of points: each trains, or says what it needs."""

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.train.step import gradients
from tests.methods.bench import CLOUDS, batch, method

SOURCES = tuple(CLOUDS)
REFUSED = {
    "aa_ssl": "no field is called 'facts'",
    "clamr": "the label 'kind' has 3 classes or more",
    "clip_ild": "needs a text field",
    "concept_centric": "needs a table",
    "cuni_mmt": "there is no other field",
    "dreamlip": "needs a text field",
    "duet": "attributes, a table",
    "mil_vl": "needs a text field",
    "mmrl": "a field of text",
    "mmrl_pp": "a field of text",
    "mvpt": "runs in time",
    "scarf": "learns from tables",
    "scot": "no field is called 'facts'",
    "texttopicnet": "needs a text field",
    "ts2vec": "learns from series",
    "uda_cope": "Say which are points",
}
"""Methods that need a field of another kind -> what they say."""
TRAINED = [name for name in methods.names() if name not in REFUSED]


@pytest.mark.parametrize("name", TRAINED)
def test_losses_are_finite_and_reach_the_encoder(name):
    m = method(name, sources=SOURCES)
    terms = gradients(m, batch(m.views, sources=SOURCES))
    assert torch.stack(list(terms.values())).isfinite().all()
    gradient = [p.grad for p in m.encoder.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradient)
    assert sum(float(g.abs().sum()) for g in gradient) > 0


@pytest.mark.parametrize("name", TRAINED)
def test_a_row_gives_the_same_features_wherever_it_stands(name):
    m = method(name, sources=SOURCES).eval()
    whole = batch(m.views, size=8, sources=SOURCES)
    with torch.no_grad():
        all_rows, part = m.features(whole), m.features(whole.between(3, 6))
    for source in part:
        expected = all_rows[source].between(3, 6)
        assert torch.equal(part[source].rows, expected.rows)
        torch.testing.assert_close(part[source].flat, expected.flat, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_method_needs_is_said(name):
    with pytest.raises(AmodalError, match=REFUSED[name]):
        m = method(name, sources=SOURCES)
        gradients(m, batch(m.views, sources=SOURCES))
