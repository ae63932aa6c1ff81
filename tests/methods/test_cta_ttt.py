"""The stages, the alignment and the loss at test time against what they are defined as."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from amodal import data
from amodal.core import AmodalError, Recipe
from amodal.objectives.info_nce import nt_xent
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from amodal.train.test_time import TestTimeTraining, norms
from tests.methods.bench import FIELDS, batch, exact, fields, method, raw


def test_alignment_is_the_mean_of_both_cross_entropies_and_leaves_the_frozen_encoder():
    m = exact(method("cta_ttt", weight=2.0, align_temperature=0.3)).eval()
    b = exact(batch(m.views))
    z = m.features(b)
    losses = m.losses(z)
    first = m.encoder.features(b.only("words:1"))["words:1"].values
    second = m.frozen.features(b.only("words:2"))["words:2"].values
    u, v = (
        normalize(m.student_heads["words"](first), dim=1),
        normalize(m.frozen_heads["words"](second), dim=1),
    )
    logits, own = u @ v.T / 0.3, torch.arange(len(u))
    expected = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(losses["align/words"], 2.0 * expected / len(FIELDS))
    sum(losses.values()).backward()
    assert all(p.grad is None and not p.requires_grad for p in m.frozen.parameters())
    assert set(losses) == {"predict/kind", *(f"align/{s}" for s in FIELDS)}
    logits = m.head(m.encoder.features(batch_of_first(b))).values
    known = b.labels["kind"]
    torch.testing.assert_close(
        losses["predict/kind"], cross_entropy(logits[known.rows], known.values)
    )


def batch_of_first(b):
    from dataclasses import replace

    return replace(b, columns={f: b[f"{f}:1"] for f in FIELDS})


def test_a_joint_network_learns_labels_and_views_in_one_trunk():
    m = exact(method("cta_ttt", joint=True, alone=0.5))
    assert m.stages == (1.0,)
    b = exact(batch(m.views))
    losses = m.losses(m.features(b))
    z = m.encoder.features(b)
    pair = [m.student_heads["facts"](x) for x in z.pair("facts:1", "facts:2")]
    torch.testing.assert_close(
        losses["nt_xent/facts"], nt_xent(*pair, temperature=0.5) / len(FIELDS)
    )
    assert "predict/kind" in losses and not any(n.startswith("align") for n in losses)


def test_at_test_time_views_go_through_the_aligned_path_and_nothing_but_norms_learns():
    m = exact(method("cta_ttt", anchor=0.5)).eval()
    b = exact(batch(m.views))
    z, seen = m.encoder.features(b), m.frozen.features(b)
    expected = sum(
        nt_xent(*(m.student_heads[f](x) for x in z.pair(f"{f}:1", f"{f}:2")), temperature=0.5)
        for f in FIELDS
    )
    torch.testing.assert_close(
        exact(copy.deepcopy(m)).at_test(b) - half_aligned(m, z, seen), expected / len(FIELDS)
    )
    before = {n: p.clone() for n, p in m.state_dict().items()}
    with TestTimeTraining(
        m, m.at_test, select=lambda m: norms(m.encoder), steps=3, lr=0.05
    ) as adapt:
        losses = adapt(b)
        changed = {n for n, p in m.state_dict().items() if not torch.equal(p, before[n])}
    assert (
        losses[-1] < losses[0]
        and changed
        and all(n.startswith("encoder.") and "norm" in n for n in changed)
    )
    assert all(torch.equal(p, before[n]) for n, p in m.state_dict().items())


def half_aligned(m, z, seen):
    total = 0.0
    for f in FIELDS:
        u, v = (
            normalize(m.student_heads[f](z[f"{f}:1"].values), dim=1),
            normalize(m.frozen_heads[f](seen[f"{f}:2"].values), dim=1),
        )
        logits, own = u @ v.T / 0.1, torch.arange(len(u))
        total = total + (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    return 0.5 * total / len(FIELDS)


def test_the_first_stage_learns_without_labels_and_what_it_learnt_is_frozen(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    columns = {s: [raw(s, rng) for _ in range(16)] for s in FIELDS}
    records = data.open(columns | {"kind": [f"kind {i % 3}" for i in range(16)]}).with_fields(
        fields()
    )
    m = method("cta_ttt", alone=0.5)
    fresh = {n: p.clone() for n, p in m.encoder.state_dict().items()}
    assert set(m.losses(m.features(batch(m.views)))) == {f"nt_xent/{s}" for s in FIELDS}
    seen = {}
    survey = m.refresh

    def watched(stage, see):
        alone = {n: p.clone() for n, p in m.encoder.state_dict().items()}
        survey(stage, see)
        seen["frozen"] = all(torch.equal(p, alone[n]) for n, p in m.frozen.state_dict().items())
        seen["fresh"] = all(torch.equal(p, fresh[n]) for n, p in m.encoder.state_dict().items())
        seen["learnt"] = any(not torch.equal(p, fresh[n]) for n, p in alone.items())

    m.refresh = watched

    def batches(first, groups=None):
        return data.Loader(
            records,
            range(16),
            batch=8,
            views=m.views,
            labels=m.labels,
            seed=0,
            steps=4,
            start_step=first,
        )

    quiet = dict(monitor=CollapseMonitor([]), tensorboard=False, progress=False)
    survey_of = data.Loader(records, range(16), batch=16, shuffle=False, labels=m.labels)
    train(m, batches, Recipe(steps=4, lr=1e-3), tmp_path, records=survey_of, **quiet)
    assert seen == {"frozen": True, "fresh": True, "learnt": True} and m.last
    assert set(m.losses(m.features(batch(m.views)))) > {"predict/kind"}


def test_errors():
    with pytest.raises(AmodalError, match="from 0 to below 1"):
        method("cta_ttt", alone=1.0)
