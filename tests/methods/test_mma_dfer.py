"""MMA-DFER: what of it learns, and what it tells."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from amodal.core import AmodalError, Batch
from amodal.core.column import shared_rows
from tests.methods.bench import FIELDS, batch, method


def learnt(m):
    m.losses(m.features(batch(m.views)))["supervised"].backward()
    return {n for n, p in m.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_prompts_adapters_and_head_learn_and_the_encoder_does_not():
    names = learnt(method("mma_dfer"))
    assert {
        n.split(".")[0] if n.startswith("head") else ".".join(n.split(".")[:2]) for n in names
    } == {
        "head",
        "encoder.block_hook",
    }
    assert any("trunks" in n for n in learnt(method("mma_dfer", frozen=False)))
    assert {n.split(".")[0] for n in learnt(method("mma_dfer", prompts=0, bottleneck=0))} == {
        "head"
    }


def test_fields_meet_between_the_blocks_unless_set_apart():
    whole = batch(("plain",), patchy=False)
    for meet in (True, False):
        m = method("mma_dfer", meet=meet)
        for gate in m.encoder.block_hook.gate.values():
            gate.data.fill_(1.0)
        bags = m.encoder.tokenize(whole)
        alone = {s: m.encoder.encode({s: b})[s] for s, b in bags.items()}
        together = m.encoder.block_hook.together(m.encoder, bags, m.meet)
        same = [torch.allclose(alone[s].x, together[s].x, atol=1e-5) for s in FIELDS]
        assert not any(same) if meet else all(same)


def test_any_fields_are_classified_and_classes_may_be_balanced():
    m = method("mma_dfer", lead="signal")
    whole = batch(("plain",), patchy=False)
    assert m.predict(whole).values.shape == (8, 3)
    for s in FIELDS:
        assert len(m.predict(whole.only(s))) == 8
    even = method("mma_dfer", balanced=True)
    features = even.features(batch(even.views))
    at, of = shared_rows(features.logits, features.label)
    x, y = features.logits.values[at], features.label.values[of]
    expected = torch.stack([cross_entropy(x[y == c], y[y == c]) for c in y.unique()]).mean()
    torch.testing.assert_close(even.losses(features)["supervised"], expected)


def test_a_field_that_no_record_has_is_as_one_that_is_not_there():
    m = method("mma_dfer", lead="signal").eval()
    whole = batch(("plain",), patchy=False)
    empty = whole.columns | {"signal": whole["signal"].at(torch.arange(0))}
    one = m.predict(Batch.of(whole.size, empty, whole.keys))
    other = m.predict(whole.only("picture", "words", "facts"))
    torch.testing.assert_close(one.values, other.values)


def test_a_record_without_any_field_has_no_classes():
    rows = batch(("plain",), absent=("picture", "words", "facts"))
    for lead in ("signal", "words"):
        found = method("mma_dfer", lead=lead).predict(rows)
        assert found.rows.tolist() == rows["signal"].rows.tolist()


def test_without_labels_the_loss_is_nothing():
    m = method("mma_dfer")
    rows = batch(m.views)
    none = replace(rows, labels={"kind": rows.labels["kind"].at(torch.arange(0))})
    loss = m.losses(m.features(none))["supervised"]
    assert loss.item() == 0 and loss.requires_grad


def test_wrong_options_are_errors():
    with pytest.raises(AmodalError, match="Did you mean signal"):
        method("mma_dfer", lead="signl")
    with pytest.raises(AmodalError, match="classes"):
        method("mma_dfer", classes=0)
