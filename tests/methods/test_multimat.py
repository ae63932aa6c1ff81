"""The losses that multimat and mv_dhel offer by option: each keeps the contract for any rows."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.methods.contrastive import multimat, mv_dhel
from amodal.train.step import gradients
from tests.methods.bench import FIELDS, batch, exact, method

OPTIONS = [
    *(("multimat", {"loss": loss}) for loss in multimat.LOSSES),
    ("multimat", {"loss": "tensor", "half": True}),
    ("multimat", {"loss": "barlow", "ways": 4}),
    *(("mv_dhel", {"loss": loss}) for loss in mv_dhel.LOSSES),
    ("mv_dhel", {"loss": "mv_dhel", "views": 2}),
]


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name, options", OPTIONS, ids=str)
def test_every_loss_learns_and_survives_patchy_rows_and_none(name, options, count):
    fields = FIELDS[:count]
    if options.get("half") and count < 3:
        with pytest.raises(AmodalError, match="three fields"):
            method(name, sources=fields, **options)
        return
    m = exact(method(name, sources=fields, **options))
    terms = gradients(m, exact(batch(m.views, size=9, sources=fields)))
    assert all(t.isfinite() for t in terms.values())
    m.zero_grad()
    gradients(m, exact(batch(m.views, size=4, sources=fields, patchy=False)))
    assert sum(float(p.grad.abs().sum()) for p in m.encoder.parameters() if p.grad is not None) > 0
    m.zero_grad()
    terms = gradients(m, exact(batch(m.views, absent=fields, sources=fields)))
    assert torch.stack(list(terms.values())).sum() == 0


def test_the_anchor_is_in_every_pair_and_the_first_field_by_default():
    for options, anchor in (({}, "picture"), ({"anchor": "facts"}, "facts")):
        m = method("multimat", **options)
        terms = m.losses(m.features(batch(m.views)))
        assert len(terms) == 3 and all(anchor in t.partition("/")[2].split("~") for t in terms)
    with pytest.raises(ValueError, match="Did you mean tensor"):
        method("multimat", loss="tensr")
    with pytest.raises(ValueError, match="Did you mean facts"):
        method("multimat", anchor="fact")
    for options in ({"loss": "all_pairs"}, {"loss": "tensor", "ways": 4}, {"loss": "barlow"}):
        with pytest.raises(AmodalError, match="three fields"):
            method("multimat", half=True, **options)
