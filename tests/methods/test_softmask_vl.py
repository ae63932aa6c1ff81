"""What the page alone does: whose picture is masked, by which map, and when."""

import dataclasses

import pytest
import torch

from amodal.core.column import shared_rows
from amodal.masking.soft import soft_mask
from amodal.methods.contract import Clock
from amodal.nn.attention.cross import grad_cam
from amodal.objectives.focal_info_nce import focal_info_nce
from amodal.objectives.matching import matching
from tests.methods.bench import batch, exact, method


def test_masks_begin_after_the_warm_up_and_change_the_soft_term_alone():
    m = method("softmask_vl", sources=("picture", "words"), warmup=0.5)
    z = m.features(batch(m.views, sources=("picture", "words")))
    early = m.losses(z)
    assert set(early) == {"itc/picture~words", "itm/picture", "mlm/picture"}
    m.on_step_end(Clock(5, 10))
    m.queues.count.zero_()
    late = m.losses(z)
    assert set(late) == {*early, "soft/picture"}
    assert all(torch.allclose(early[term], late[term], rtol=1e-4) for term in early)
    assert "soft/picture" not in method(
        "softmask_vl", sources=("picture", "words"), soft=0.0
    ).losses(z)


@pytest.mark.parametrize("hard", [0.0, 0.5])
def test_the_pair_is_matched_by_what_is_left(hard):
    fields = ("picture", "words")
    m = exact(method("softmask_vl", sources=fields, hard=hard))
    with torch.no_grad():
        for p in m.matcher.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    z = m.features(exact(batch(m.views, sources=fields)))
    same, wrong, left = m.match(z, "picture")
    torch.testing.assert_close(m.losses(z)["soft/picture"], matching(left, wrong))
    a, b = shared_rows(z.tokens["words"], z.tokens["picture"])
    words, seen = z.tokens["words"].values[a], z.tokens["picture"].values[b]
    score, weights = m.matcher.logits_and_attention(words, seen)
    maps = grad_cam(score, weights)
    torch.testing.assert_close(same, score)
    for i in range(len(same)):  # one word of the row explains what was masked
        one = torch.tensor([i])
        options = [
            m.matcher(
                words[one], seen[one], soft_mask(maps[i, q][None], seen.lengths[one], hard=hard)
            )
            for q in range(int(words.lengths[i]))
        ]
        assert torch.stack(options).sub(left[i]).abs().min() < 1e-9
    assert (left - same).abs().max() > 1e-6


def test_a_factor_in_front_of_the_norm_would_do_nothing():
    m = exact(method("softmask_vl", sources=("picture", "words")))
    z = m.features(exact(batch(m.views, sources=("picture", "words"), patchy=False)))
    words, seen = (z.tokens[s].values for s in ("words", "picture"))
    half = torch.full_like(seen.flat[:, 0], 0.5)
    scaled = dataclasses.replace(seen, flat=seen.flat * 0.5)
    torch.testing.assert_close(
        m.matcher(words, scaled), m.matcher(words, seen), rtol=1e-3, atol=1e-3
    )
    assert (m.matcher(words, seen, half) - m.matcher(words, seen)).abs().max() > 1e-3


def test_keys_come_from_the_momentum_encoder_and_from_earlier_rows():
    fields = ("picture", "words")
    m = method("softmask_vl", sources=fields, momentum=0.9)
    z = m.features(batch(m.views, sources=fields, patchy=False))
    with torch.no_grad():
        for p in m.momentum_encoder.parameters():
            p.mul_(1.1)
    z = m.features(batch(m.views, sources=fields, patchy=False))
    assert not torch.allclose(z.keys["words"].values, z.aligned["words"].values)
    first = m.losses(z)["itc/picture~words"]
    how = {"temperature": 1 / m.scale(), "gamma": 2.0}
    ways = [
        focal_info_nce(z.aligned[a].values, z.keys[b].values, **how)
        for a, b in (("picture", "words"), ("words", "picture"))
    ]
    torch.testing.assert_close(first, sum(ways) / 2)
    before = {n: p.clone() for n, p in m.momentum_encoder.named_parameters()}
    m.on_step_end(Clock(1, 10))
    for (n, teacher), student in zip(m.momentum_encoder.named_parameters(), m.encoder.parameters()):
        torch.testing.assert_close(teacher, 0.9 * before[n] + 0.1 * student)
    assert (
        m.losses(z)["itc/picture~words"] > first
    )  # the queue holds the rows' own keys, as strangers
    assert torch.equal(m.queues.earlier("words"), z.keys["words"].values[-8:])


def test_augmented_words_are_masked_words_and_embedding_is_of_whole_ones():
    fields = ("picture", "words")
    b = batch({"picture": ("weak",), "words": ("plain",)}, sources=fields)
    masked, whole = (method("softmask_vl", sources=fields, augment=x) for x in (True, False))
    z = masked.features(b)
    assert not torch.allclose(z.aligned["words"].values, masked.encoder(b)["words"].values)
    torch.testing.assert_close(
        whole.features(b).aligned["words"].values, whole.encoder(b)["words"].values
    )
    torch.testing.assert_close(z.aligned["picture"].values, masked.encoder(b)["picture"].values)


def test_any_field_may_be_the_words():
    m = method("softmask_vl", text_field="facts")
    terms = m.losses(m.features(batch(m.views)))
    assert {"itm/picture", "itm/words", "itm/signal"} <= set(terms)
    with pytest.raises(ValueError, match="Did you mean facts"):
        method("softmask_vl", text_field="fact")
