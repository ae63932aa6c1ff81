"""CLIP, Radford et al. 2021, arXiv:2103.00020: figure 3, for every two fields of a record."""

import pytest
import torch
from torch import nn

from amodal.core import Column, Embeddings
from amodal.methods.shared.shapes import Towers, field_pairs
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from tests.golden.harness import defaults, golden, unit
from tests.golden.pairs import PairsOfFields
from tests.methods.bench import method


def cross_entropy(logits):
    """Row i's class is i."""
    n = len(logits)
    return sum(logits[i].logsumexp(0) - logits[i, i] for i in range(n)) / n


class Clip(PairsOfFields):
    """Section 2.5: the logits are scaled by at most 100."""

    def loss(self, logits):
        return (cross_entropy(logits) + cross_entropy(logits.T)) / 2


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
def test_two_steps(fields):
    golden("clip", Clip, views=("weak",), fields=fields, width=8)


@pytest.mark.parametrize("temperature", [2.0, 0.3, 0.015])
def test_two_steps_at_another_temperature(temperature):
    reference = type("Clip", (Clip,), {"temperature": temperature})
    golden("clip", reference, views=("weak",), width=8, temperature=temperature)


def test_two_steps_at_the_bound():
    reference = type("Clip", (Clip,), {"max_scale": 5.0})
    golden("clip", reference, views=("weak",), width=8, max_scale=5.0)


def test_one_pair_and_none():
    for rows in (1, 2):
        golden("clip", Clip, views=("weak",), rows=rows, width=8)


def test_defaults():
    """0.07 and 100: section 2.5."""
    assert defaults("clip") == {"width": 128, "temperature": 0.07, "max_scale": 100.0}
    golden("clip", type("Clip", (Clip,), {"width": 128}), views=("weak",))


# What other papers make of the parts that this page has to answer for.


def vectors(*sources, rows=4, width=3):
    g = torch.Generator().manual_seed(0)
    return Embeddings(
        {
            s: Column(
                torch.randn(rows, width, generator=g, dtype=torch.float64), torch.arange(rows)
            )
            for s in sources
        },
        rows,
    )


def test_pairs_of_an_anchor():
    z = vectors("words", "picture:1", "picture:2", "facts")
    assert field_pairs(z, "picture") == [("picture:1", "words"), ("picture:1", "facts")]
    assert len(field_pairs(z)) == 3


def test_one_direction_is_a_classification_of_rows():
    z = vectors("a", "b")
    a, b = (unit(z[s].values) for s in "ab")
    one = info_nce(z["a"].values, z["b"].values, temperature=0.4, symmetric=False)
    assert torch.isclose(one, cross_entropy(a @ b.T / 0.4))


def test_a_scale_stays_within_its_bounds_and_has_no_bias_unless_asked():
    scale = Scale(0.1, least=0.5)
    assert torch.isclose(scale(), torch.tensor(0.5)) and scale.bias is None
    scale().backward()
    assert scale.log.grad > 0


def test_towers_with_heads_and_labels():
    """Heads are used where a field has one; with heads in between, the scale is not of what is
    searched."""
    encoder, scale = method("clip", sources=("picture", "words")).encoder, Scale(10.0)
    head = nn.Linear(encoder.width, 5)
    seen = []
    towers = Towers(
        encoder,
        lambda z: seen.append(z) or {},
        heads={"picture": head},
        learned=scale,
        labels=("kind",),
    )
    features = vectors("picture", "words", width=encoder.width)
    head.double()
    assert towers.losses(features) == {} and seen[0].sources == ("picture",)
    assert torch.equal(seen[0]["picture"].values, head(features["picture"].values))
    assert towers.labels == ("kind",) and towers.logit_scale() is None
    bare = Towers(encoder, lambda z: {}, learned=scale)
    assert bare.logit_scale() is scale and bare.labels == ()
    assert bare.project(features) is features
    assert Towers(encoder, lambda z: {}, learned=head).logit_scale() is None
