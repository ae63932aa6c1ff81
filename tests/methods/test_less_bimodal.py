"""Less bimodal supervision: stages, what is swapped, rates, and any number of fields."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from amodal.core import AmodalError, Ragged
from amodal.methods.shared import matching as m
from amodal.nn.heads.supervised import Target
from amodal.objectives.matching import swap_partners
from amodal.train.optim import adamw
from tests.methods.bench import batch, exact, method

KIND = (Target("kind", "classes", ("a", "b", "c")),)


def test_a_share_of_rows_is_exchanged_for_any_other_and_wherever_they_stand():
    seeds = torch.from_numpy(np.random.default_rng(0).integers(0, 2**60, 4000))
    shown, own = swap_partners(seeds, 0.5), torch.arange(4000)
    assert abs(float((shown != own).double().mean()) - 0.5) < 0.03
    small = torch.stack([swap_partners(seeds[i : i + 4], 1.0) for i in range(0, 4000, 4)])
    assert (small != torch.arange(4)).all()
    counts = torch.bincount(small[:, 0], minlength=4)[1:]
    assert counts.min() > 280 and counts.sum() == 1000  # a third each of the three others
    order = torch.randperm(40)
    assert torch.equal(
        swap_partners(seeds[:40], 0.5)[order], order[swap_partners(seeds[:40][order], 0.5)]
    )
    assert swap_partners(seeds[:1], 1.0).tolist() == [0] and torch.equal(
        swap_partners(seeds, 0.0), own
    )


@torch.no_grad()
def test_matching_is_the_cross_entropy_of_true_and_exchanged_pairs():
    one = exact(
        method("less_bimodal", pairs=1.0, targets=(), sources=("picture", "words"), swap=0.5)
    )
    z = one.features(exact(batch(one.views, size=24, sources=("picture", "words"))))
    words, seen = (
        dict(zip(c.rows.tolist(), c.values.split()))
        for c in (z.tokens["words"], z.tokens["picture"])
    )
    rows = sorted(words.keys() & seen.keys())
    seeds = m.hash_bits(z.seed.values[rows], m.name_code("swap picture"))
    shown = swap_partners(seeds, 0.5).tolist()
    losses = []
    for i, row in enumerate(rows):
        pair = {"words": Ragged.of([words[row]]), "picture": Ragged.of([seen[rows[shown[i]]]])}
        same = torch.tensor(float(shown[i] == i), dtype=torch.float64)
        losses.append(
            binary_cross_entropy_with_logits(one.match(one.co.means(pair)).squeeze(), same)
        )
    torch.testing.assert_close(
        one.losses(z)["itm/picture"].double(), torch.stack(losses).mean(), atol=1e-6, rtol=1e-6
    )
    assert 0 < sum(s != i for i, s in enumerate(shown)) < len(rows)


def test_pairs_come_first_and_then_the_label():
    two = method("less_bimodal", label="kind", targets=KIND, pairs=0.5)
    assert two.stages == (0.5, 1.0)
    assert {n.partition("/")[0] for n in two.losses(two.features(batch(two.views)))} == {
        "mlm",
        "itm",
    }
    assert not any(p.requires_grad for p in two.head.parameters())
    two.on_stage_start(1)
    assert list(two.losses(two.features(batch(two.views)))) == ["predict/kind"]
    assert (
        all(p.requires_grad for p in two.head.parameters()) and not two.match.weight.requires_grad
    )
    predicted = two.head.predictions(two.predict(batch(two.views)))["kind"]
    torch.testing.assert_close(predicted.sum(1), torch.ones(len(predicted)))
    none = method("less_bimodal", label="kind", targets=KIND, pairs=0.0)
    assert none.stages == (1.0,) and none.masked is None
    assert list(none.losses(none.features(batch(none.views)))) == ["predict/kind"]
    alone = method("less_bimodal", pairs=1.0, targets=())
    assert alone.stages == (1.0,) and alone.on_pairs and alone.labels == ()
    with pytest.raises(AmodalError, match="pairs = 1"):
        method("less_bimodal", pairs=1.1)


def test_each_answer_rests_on_the_words_and_on_every_other_field():
    one = method("less_bimodal", label="kind", targets=KIND, pairs=0.0).eval()
    whole = batch(("plain",), patchy=False)
    before = one.head.predictions(one.predict(whole))["kind"]
    for field in ("picture", "words", "signal"):
        other = batch(("plain",), patchy=False, seed=1)
        changed = whole.columns | {field: other[field]}
        after = one.head.predictions(
            one.predict(type(whole)(whole.size, changed, whole.keys, whole.seeds, whole.labels))
        )["kind"]
        assert not torch.allclose(before, after, atol=1e-5)


def test_parts_learn_at_rates_of_their_own():
    one = method("less_bimodal", pairs=1.0, targets=())
    groups = adamw(one, lr=1e-3, lr_multipliers=one.lr_multipliers).param_groups
    rate = {id(p): (g["lr"], g["lr_multiplier"]) for g in groups for p in g["params"]}
    assert rate[id(one.co.norms["words"].weight)] == (5e-3, 5.0)
    assert rate[id(one.match.weight)] == (5e-3, 5.0)
    assert {rate[id(p)] for p in one.encoder.trunks.parameters()} == {(1e-3, 1.0)}
    assert len(rate) == sum(p.requires_grad for p in one.parameters())
    assert {g["lr_multiplier"] for g in adamw(one, lr=1e-3).param_groups} == {1.0}


def test_options_say_what_is_masked_and_when_the_label_comes():
    one = method("less_bimodal", pairs=0.25, targets=KIND, text_field="picture", view="strong")
    assert one.text_field == "picture" and one.stages == (0.25, 1.0)
    assert one.views["picture"] == ("plain",) and one.views["words"] == ("strong",)
    with pytest.raises(AmodalError, match="nothing to predict"):
        method("less_bimodal", pairs=0.5, targets=())
