"""AstroM3: the loss is the paper's, and every pair of fields has a scale of its own."""

import itertools

import torch
import torch.nn.functional as F

from amodal.nn.scale import Scale
from amodal.train.step import gradients
from tests.methods.bench import FIELDS, batch, exact, method


def test_the_loss_is_the_mean_over_pairs_of_symmetric_cross_entropy():
    m = exact(method("astrom3", temperature=0.1))
    b = exact(batch(m.views, patchy=False))
    terms = m.losses(z := m.features(b))
    unit = {s: F.normalize(z[s].values, dim=1) for s in FIELDS}
    pairs = list(itertools.combinations(FIELDS, 2))
    assert len(terms) == len(pairs)
    for x, y in pairs:
        logits = [[float((u @ v).detach()) / 0.1 for v in unit[y]] for u in unit[x]]
        both = []
        for table in (logits, list(zip(*logits))):
            rows = [
                -row[i] + torch.tensor(row).double().logsumexp(0) for i, row in enumerate(table)
            ]
            both.append(sum(rows) / len(rows))
        torch.testing.assert_close(
            terms[f"info_nce/{x}~{y}"], sum(both) / 2 / len(pairs), rtol=1e-6, atol=1e-6
        )


def test_every_pair_learns_a_scale_of_its_own_between_its_bounds():
    m = method("astrom3")
    assert len(m.learned) == 6 and all(abs(s().item() - 100) < 1e-3 for s in m.learned.values())
    gradients(m, batch(m.views, absent=("facts",)))
    moved = {name for name, s in m.learned.items() if s.log.grad.abs() > 0}
    assert moved == {"picture~words", "picture~signal", "words~signal"}
    low = Scale(0.01, least=1.0, most=100.0)
    low().backward()
    assert abs(low().item() - 1) < 1e-6 and low.log.grad > 0
    assert abs(Scale(0.01)().item() - 0.01) < 1e-6
