"""Masked self-attention for driver monitoring: what the page alone does."""

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.methods.contract import Clock
from amodal.objectives.sup_moco import sup_moco
from tests.methods.bench import FIELDS, batch, method


def test_keys_of_earlier_batches_and_their_labels_join_the_next_loss():
    m = method("mhsa_dms", queue=10)
    first, second = (batch(m.views, seed=i) for i in range(2))
    before = m.features(first)
    m.losses(before)
    m.on_step_end(Clock(1, 10))
    queued, groups = m.queue.earlier()
    known = {int(r): int(v) for r, v in zip(first.labels["kind"].rows, first.labels["kind"].values)}
    assert groups.tolist() == [known.get(int(r), -1) for r in before["key"].rows]
    torch.testing.assert_close(queued, torch.nn.functional.normalize(before["key"].values, dim=1))
    after = m.features(second)
    own = torch.full((8,), -1).index_put(
        (second.labels["kind"].rows,), second.labels["kind"].values
    )[after["key"].rows]
    keys, all_groups = torch.cat([after["key"].values, queued]), torch.cat([own, groups])
    expected = sup_moco(after["query"].values, keys, all_groups, temperature=0.07)
    torch.testing.assert_close(m.losses(after)["contrast"], expected)


def test_the_encoder_of_keys_follows_slowly():
    m = method("mhsa_dms", momentum=0.9)
    name = "head.0.weight"
    old = m.key_branch.state_dict()[name].clone()
    with torch.no_grad():
        m.head[0].weight.add_(1)
    m.losses(m.features(batch(m.views)))
    m.on_step_end(Clock(1, 10))
    torch.testing.assert_close(m.key_branch.state_dict()[name], old + 0.1)


def test_at_the_end_the_classifier_alone_learns_from_labelled_rows():
    m = method("mhsa_dms")
    m.on_stage_start(1)
    losses = m.losses(m.features(batch(m.views)))
    assert list(losses) == ["supervised"]
    losses["supervised"].backward()
    learnt = {
        n.split(".")[0]
        for n, p in m.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert learnt == {"classifier"}
    m.on_stage_start(0)
    assert all(p.requires_grad for p in m.encoder.parameters())


@pytest.mark.parametrize("fuse", ["attention", "sum", "conv", "se", "aff"])
def test_every_subset_of_fields_is_predicted(fuse):
    m = method("mhsa_dms", fuse=fuse)
    whole = batch(("plain",), patchy=False)
    assert m.predict(whole).values.shape == (8, 3)
    for field in FIELDS:
        assert len(m.predict(whole.only(field))) == 8
    torch.testing.assert_close(m.fused(whole).values.norm(dim=1), torch.ones(8))


def test_without_a_label_it_is_contrast_of_views_alone():
    encoder = method("mhsa_dms").encoder
    m = methods.build("mhsa_dms", encoder)
    assert m.labels == () and m.stages == (1.0,)
    assert m.losses(m.features(batch(m.views)))["contrast"].isfinite()
    assert m.queue.earlier()[1].numel() == 0


def test_fields_may_be_fused_apart_first_and_wrong_options_are_reported():
    m = method("mhsa_dms", groups="picture + words, signal + facts")
    assert len(m.fusion.chains) == 3 and m.losses(m.features(batch(m.views)))["contrast"].isfinite()
    with pytest.raises(AmodalError, match="classes"):
        method("mhsa_dms", classes=0)
    with pytest.raises(AmodalError, match="Did you mean attention"):
        method("mhsa_dms", fuse="atention")
