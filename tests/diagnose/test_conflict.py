"""Conflict between the terms of a loss: known where the terms are made to agree or to oppose each
other."""

import torch

from amodal.diagnose.conflict import conflict
from amodal.methods.shared.shapes import Towers
from amodal.objectives.info_nce import info_nce
from tests.methods.bench import batch, exact, method


def test_terms_that_agree_and_terms_that_are_opposed():
    one = exact(batch(("plain",)))
    m = exact(method("clip"))

    def objective(z):
        loss = info_nce(*z.pair("words", "facts"), temperature=0.2)
        other = info_nce(*z.pair("words", "picture"), temperature=0.2)
        return {"one": loss, "twice": 2 * loss, "against": -loss, "other": other}

    m = exact(Towers(m.encoder, objective))
    found = conflict(m, one)
    assert len(found) == 6 and all(p.grad is None for p in m.parameters())
    assert abs(found["one", "twice"] - 1) < 1e-9 and abs(found["one", "against"] + 1) < 1e-9
    assert (
        abs(found["one", "other"] + found["against", "other"]) < 1e-9
        and -1 < found["one", "other"] < 1
    )

    terms = objective(m.features(one))
    shared = [
        p for n, p in m.named_parameters() if "words" in n
    ]  # separate trunks: what both reach is the words' tower
    g, h = (
        torch.cat([x.flatten() for x in torch.autograd.grad(terms[t], shared, retain_graph=True)])
        for t in ("one", "other")
    )
    assert abs(found["one", "other"] - float(torch.cosine_similarity(g, h, dim=0))) < 1e-6
