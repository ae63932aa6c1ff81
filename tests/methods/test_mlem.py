"""MLEM beyond the contract: its second stage, what is frozen in it, and the paper's baselines."""

import math

import pytest
import torch
import torch.nn.functional as F

from amodal.core import AmodalError, view_of
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, method

FIELDS = ("words", "signal")


def second_stage(**options):
    m = exact(method("mlem", sources=FIELDS, **options))
    with torch.no_grad():
        for p in m.encoder.parameters():  # as if the first stage had moved it
            p.add_(0.1 * torch.randn_like(p))
    trained = {n: p.clone() for n, p in m.encoder.state_dict().items()}
    start = {n: p.clone() for n, p in m.frozen_encoder.state_dict().items()}
    m.refresh(1, None)
    m.on_stage_start(1)
    return m, trained, start


def test_the_contrastive_encoder_is_frozen_and_the_other_starts_anew():
    m, trained, start = second_stage()
    assert all(torch.equal(p, trained[n]) for n, p in m.frozen_encoder.state_dict().items())
    assert all(torch.equal(p, start[n]) for n, p in m.encoder.state_dict().items())
    assert not torch.equal(trained["field_token.words"], start["field_token.words"])
    terms = gradients(m, exact(batch(m.views, sources=FIELDS)))
    assert set(terms) == {f"{term}/{s}:1" for term in ("reconstruct", "align") for s in FIELDS}
    assert all(p.grad is None for p in m.frozen_encoder.parameters())
    for part in (m.encoder.trunks, m.decoder.decoders, m.decoder.predictors, m.logit):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())


@pytest.mark.parametrize("term", ["reconstruct", "align"])
def test_each_term_of_the_second_stage_reaches_the_encoder(term):
    m, *_ = second_stage()
    terms = m.losses(m.features(exact(batch(m.views, sources=FIELDS))))
    for name in (n for n in terms if n.startswith(term)):
        m.zero_grad()
        terms[name].backward(retain_graph=True)
        trunk = m.encoder.trunks[name.split("/")[1][:-2]]
        assert sum(float(p.grad.abs().sum()) for p in trunk.parameters()) > 0


def test_micro_batches_give_the_gradient_of_the_whole_batch_in_the_second_stage():
    (one, *_), (other, *_) = second_stage(), second_stage()
    other.load_state_dict(one.state_dict())
    b = exact(batch(one.views, size=9, sources=FIELDS))
    values, accumulated = gradients(one, b), gradients(other, b, micro=2)
    for name in values:
        torch.testing.assert_close(values[name], accumulated[name], rtol=1e-9, atol=1e-9)
    for p, q in zip(one.parameters(), other.parameters()):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-9)


def test_the_alignment_is_a_sigmoid_over_all_pairs_of_both_encoders():
    m, *_ = second_stage(weight=0.7, scale=5.0, bias=-3.0)
    b = exact(batch(m.views, sources=FIELDS))
    found = m.losses(m.features(b))["align/words:1"] * len(FIELDS)
    g, c = (
        F.normalize(e(b.only("words:1"))["words:1"].values, dim=1)
        for e in (m.encoder, m.frozen_encoder)
    )
    total = 0.0
    for i in range(len(g)):
        for j in range(len(c)):
            y = 1 if i == j else -1
            total += math.log1p(math.exp(-y * (5.0 * float((g[i] @ c[j]).detach()) - 3.0)))
    assert float(found) == pytest.approx(0.7 * total / len(g), rel=1e-6)


def test_slices_of_all_fields_of_a_record_attract_each_other_and_no_others():
    m = exact(method("mlem", sources=FIELDS, hardest=0, margin=0.9, slices=2))
    b = exact(batch(m.views, sources=FIELDS))
    features = m.features(b)
    assert set(features) == {f"aligned/{s}" for s in features.aligned}
    assert all(view_of(s) > 1 for s in features.aligned)
    z, record = zip(
        *(
            (F.normalize(v, dim=0), r)
            for c in features.aligned.values()
            for v, r in zip(c.values, c.rows.tolist())
        )
    )
    total = 0.0
    for i in range(len(z)):
        for j in range(i):
            d = float((z[i] - z[j]).norm())
            total += d**2 if record[i] == record[j] else max(0.0, 0.9 - d) ** 2
    assert float(m.losses(features)["contrast"]) == pytest.approx(total / len(z), rel=1e-6)


def test_the_vector_of_a_record_helps_to_predict_it():
    """A model that may read the vector learns to tell records apart from their first token on;
    without it, it cannot."""
    torch.manual_seed(0)
    m = method("mlem", sources=("signal", "facts"), objective="generative", decoder=32, depth=1)
    b = batch(m.views, sources=("signal", "facts"))
    optimizer = torch.optim.Adam(m.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(m.losses(m.features(b)).values()).backward()
        optimizer.step()
    with torch.no_grad():
        own = sum(m.losses(m.features(b)).values())
        for decoder in m.decoder.decoders.values():
            decoder.start.weight.zero_()
            for layer in decoder.context:
                layer.weight.zero_()
        assert sum(m.losses(m.features(b)).values()) > own * 1.2


@pytest.mark.parametrize(
    "objective, terms",
    [
        ("contrastive", {"contrast"}),
        ("generative", {"reconstruct"}),
        ("sum", {"contrast", "reconstruct"}),
    ],
)
def test_the_baselines_learn_their_terms_in_one_stage(objective, terms):
    m = method("mlem", sources=FIELDS, objective=objective)
    found = m.losses(m.features(batch(m.views, sources=FIELDS)))
    assert {name.split("/")[0] for name in found} == terms and m.stages == (1.0,)
    assert (m.encoder.heads is None) == (
        terms == {"reconstruct"}
    )  # heads that no loss reaches would be random maps


def test_options_that_make_no_field():
    with pytest.raises(ValueError, match="Did you mean generative"):
        method("mlem", objective="generativ")
    with pytest.raises(AmodalError, match="2 slices"):
        method("mlem", slices=1)
    with pytest.raises(AmodalError, match="between 0 and 1"):
        method("mlem", contrastive_share=1.0)
