"""What the page of concept_centric does beside the contract: what a table says, the space that is
learnt from it, and questions."""

import math

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.methods.shared.concepts import TableConcepts
from amodal.modalities.table import Table
from amodal.nn.encoder import Encoder
from amodal.nn.heads.boxes import log_entailment, log_volume
from amodal.objectives.entailment import bce_from_log_prob, log1mexp
from tests.methods.bench import batch, fields, method


def test_a_table_says_its_columns_and_one_category_of_each():
    concepts = method("concept_centric").concepts
    assert concepts.names == [
        "colour",
        "colour=blue",
        "colour=red",
    ] and concepts.category_index == {"colour": [1, 2]}
    annotations = concepts.annotations(
        torch.tensor([[0.3, 0.0], [0.1, 1.0], [0.0, math.nan], [1.0, 2.0]])
    )
    assert (
        annotations[:2].tolist() == [[1, 1, 0], [1, 0, 1]]
        and annotations[2].isnan().all()
        and annotations[3].tolist() == [1, 0, 0]
    )


def test_chances_count_only_the_records_in_which_the_other_is_known():
    table = Table(("a", "n", "b"), {"a": ("x", "y"), "b": ("u", "v")})
    cells = [[0, 5, 0], [0, 5, 1], [1, 5, 0], [0, 5, math.nan], [math.nan, 5, 0], [0, 5, 0]]
    concepts = TableConcepts(table)
    assert concepts.names == ["a", "a=x", "a=y", "b", "b=u", "b=v"]
    found = concepts.conditional_probabilities(torch.tensor(cells, dtype=torch.float32).split(4))
    annotations = [{("a", r[0]), ("b", r[2])} for r in cells]
    for i, (c, v) in enumerate([("a", None), ("a", 0), ("a", 1), ("b", None), ("b", 0), ("b", 1)]):
        for j, (d, w) in enumerate(
            [("a", None), ("a", 0), ("a", 1), ("b", None), ("b", 0), ("b", 1)]
        ):

            def has(record, column, value):
                cell = dict(record)[column]
                return not math.isnan(cell) and value in (None, cell)

            those = [r for r in annotations if has(r, d, w) and has(r, c, None)]
            expected = sum(has(r, c, v) for r in those) / len(those) if those else math.nan
            assert float(found[i, j]) == pytest.approx(expected, nan_ok=True)


def test_the_space_is_learnt_from_how_often_concepts_go_together():
    m = method("concept_centric", dims=8, steps=500)
    records = [batch(m.views, 32, seed=s, patchy=False) for s in range(3)]
    m.fit_statistics(iter(records))
    annotations = torch.cat([m.concepts.annotations(r["facts"].values) for r in records])
    heads = list(m.encoder.heads.values())
    assert all(torch.equal(h.low, heads[0].low) for h in heads)
    low, side = heads[0].low, heads[0].side
    p = log_entailment(low[:, None], side[:, None], low, side, softness=0.1).exp()
    share = annotations.mean(0)
    torch.testing.assert_close(p[:, 0], share, atol=0.2, rtol=0)  # of all that is coloured
    assert p[1, 2] < 0.1 and p[2, 1] < 0.1 and p[0, 1] > 0.85 and p[0, 2] > 0.85


def test_a_field_learns_without_the_others_and_predicts_categories():
    torch.manual_seed(0)
    m = method("concept_centric", dims=8, steps=500)
    whole = batch(m.views, 8, patchy=False)
    m.fit_statistics([whole])
    descent = torch.optim.Adam(m.parameters(), lr=1e-2)
    for _ in range(40):
        descent.zero_grad()
        m.losses(m.features(whole.only("words", "facts")))["entail/words"].backward()
        descent.step()
    truth = whole["facts"].values[:, 1]
    predicted = m.predict_category(whole, "colour")
    assert set(predicted) == {"picture", "words", "signal"}
    assert float((predicted["words"].values == truth).float().mean()) > 0.8
    with pytest.raises(AmodalError, match="colour"):
        m.predict_category(whole, "color")


def test_it_needs_a_table_with_categories():
    with pytest.raises(AmodalError, match="table with categories"):
        method("concept_centric", sources=("picture", "words"))
    with pytest.raises(AmodalError, match="facts"):
        method("concept_centric", concepts="fact")


def test_aligned_vectors_are_probabilities_of_concepts():
    m = method("concept_centric", dims=8)
    whole = batch(m.views, 8)
    found, readings = m.encoder(whole), m.features(whole).readings
    for source, z in found.columns.items():
        assert z.values.min() >= 0 and z.values.max() <= 1
        torch.testing.assert_close(z.values, readings[source].values.exp())


def test_one_of_two_tables_holds_the_concepts():
    tables = {n: Table((n,), {n: ("x", "y")}) for n in ("one", "two")}
    numbers = {"numbers": Table(("n",), {})}
    every = numbers | tables | {"words": fields()["words"]}
    for option, expected in (("", "one"), ("two", "two")):
        m = methods.build("concept_centric", Encoder(every, size="nano"), concepts=option)
        assert m.field == expected and m.concepts.names[0] == expected
        assert m.views[expected] == ("plain",) and m.views["words"] == ("weak",)


def test_a_side_far_below_zero_has_a_volume_that_is_a_number():
    assert float(log_volume(torch.tensor([-1e3, -1e3]).double(), 0.01)) == pytest.approx(
        2 * math.log(1e-30)
    )


def test_the_chance_of_the_opposite_keeps_its_digits():
    x = torch.tensor([-1e-12, -1e-6, -0.5, -1.0, -40.0]).double()
    expected = [math.log(-math.expm1(v)) if v > -0.7 else math.log1p(-math.exp(v)) for v in x]
    torch.testing.assert_close(log1mexp(x).tolist(), expected, rtol=1e-9, atol=0)


def test_certainty_has_a_bound_so_that_a_mistake_has_a_finite_loss():
    truth = torch.zeros(1, dtype=torch.float64)
    for log_p, expected in ((-1e-9, 1e-6), (0.0, 1e-6), (-2e-6, 2e-6)):
        found = bce_from_log_prob(torch.tensor([log_p]).double(), truth)
        assert float(found) == pytest.approx(-math.log(-math.expm1(-expected)), rel=1e-6)
