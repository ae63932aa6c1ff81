"""What the page of concept_centric does beside the contract: what a table says, the space that is learnt from it, and questions."""

import math

import pytest
import torch

from amodal.core import AmodalError
from amodal.nn.boxes import log_entailment
from tests.methods.bench import batch, method


def test_a_table_says_its_columns_and_one_category_of_each():
    m = method("concept_centric")
    assert m.names == ["colour", "colour=blue", "colour=red"]
    cells = torch.tensor([[0.3, 0.0], [0.1, 1.0], [0.0, math.nan], [1.0, 2.0]])
    said = m.said(cells)
    assert said[:2].tolist() == [[1, 1, 0], [1, 0, 1]] and said[2].isnan().all() and said[3].tolist() == [1, 0, 0]


def test_the_space_is_learnt_from_how_often_concepts_go_together():
    m = method("concept_centric", dims=8, steps=500)
    records = [batch(m.views, 32, seed=s, patchy=False) for s in range(3)]
    m.study(iter(records))
    said = torch.cat([m.said(r["facts"].values) for r in records])
    heads = list(m.encoder.heads.values())
    assert all(torch.equal(h.low, heads[0].low) for h in heads)
    low, side = heads[0].low, heads[0].side
    p = log_entailment(low[:, None], side[:, None], low, side, softness=0.1).exp()
    share = said.mean(0)
    torch.testing.assert_close(p[:, 0], share, atol=0.2, rtol=0)  # of all that is coloured
    assert p[1, 2] < 0.1 and p[2, 1] < 0.1 and p[0, 1] > 0.85 and p[0, 2] > 0.85


def test_a_sense_learns_without_the_others_and_answers_questions():
    torch.manual_seed(0)
    m = method("concept_centric", dims=8, steps=500)
    whole = batch(m.views, 8, patchy=False)
    m.study([whole])
    descent = torch.optim.Adam(m.parameters(), lr=1e-2)
    for _ in range(40):
        descent.zero_grad()
        m.losses(m.features(whole.only("words", "facts")))["entail/words"].backward()
        descent.step()
    truth = whole["facts"].values[:, 1]
    told = m.ask(whole, "colour")
    assert set(told) == {"picture", "words", "signal"}
    assert float((told["words"].values == truth).float().mean()) > 0.8
    with pytest.raises(AmodalError, match="colour"):
        m.ask(whole, "color")


def test_it_needs_a_table_with_categories():
    with pytest.raises(AmodalError, match="table with categories"):
        method("concept_centric", senses=("picture", "words"))
    with pytest.raises(AmodalError, match="facts"):
        method("concept_centric", concepts="fact")
