"""Every method with two scans of a person, of which either may be missing: it learns from them, or
says in a sentence what it needs."""

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.train.step import gradients
from tests.methods.bench import SCANS, batch, exact, method

OTHER_KINDS = frozenset(
    "aa_ssl clamr clip_ild concept_centric cuni_mmt dreamlip duet mil_vl mmrl mmrl_pp mvpt scarf "
    "scot texttopicnet ts2vec uda_cope".split()
)
"""Pages that need text, tables, series or named fields."""
SOURCES = tuple(SCANS)


@pytest.mark.parametrize("name", methods.names())
def test_a_method_learns_from_scans_or_says_what_it_needs(name):
    if name in OTHER_KINDS:
        with pytest.raises(AmodalError, match="(?s).{30}"):
            m = method(name, sources=SOURCES)
            gradients(m, batch(m.views, sources=SOURCES))
        return
    m = method(name, sources=SOURCES)
    for absent in ((), SOURCES[:1]):
        terms = gradients(m, batch(m.views, sources=SOURCES, absent=absent))
        assert torch.stack([*terms.values()]).isfinite().all()
    trained = [p.grad for p in m.parameters() if p.grad is not None]
    assert trained and all(g.isfinite().all() for g in trained)


@pytest.mark.parametrize("name", ["mae", "data2vec", "simclr", "dino", "ibot", "i_jepa", "clip"])
def test_a_row_has_the_same_features_wherever_it_stands(name):
    m = exact(method(name, sources=SOURCES)).eval()
    whole = exact(batch(m.views, size=8, sources=SOURCES))
    with torch.no_grad():
        all_rows, part = m.features(whole), m.features(whole.between(3, 6))
    for source in part:
        expected = all_rows[source].between(3, 6)
        torch.testing.assert_close(part[source].flat, expected.flat, rtol=1e-5, atol=1e-5)
