"""CLIPPINGS beyond the contract: two stages, the pooled vector, and batches of look-alikes."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from amodal.core import AmodalError, Column, Embeddings
from amodal.methods.embedding_retrieval.clippings import pooled
from amodal.methods.shared.hard_batches import similarity_groups
from amodal.train.step import gradients
from tests.methods.bench import FIELDS, batch, exact, method

SUPERVISED = {"unlabelled": 0.0}


def test_labels_come_second_or_never():
    m = method("clippings")
    b = batch(m.views)
    assert m.stages == (0.5, 1.0) and all(
        t.startswith("info_nce/") for t in m.losses(m.features(b))
    )
    m.on_stage_start(1)
    assert list(m.losses(m.features(b))) == ["sup_con"]
    alone = method("clippings", label="")
    assert (
        alone.stages == (1.0,) and alone.labels == () and len(alone.losses(alone.features(b))) == 6
    )
    with pytest.raises(AmodalError, match="label of this batch"):
        m.features(dataclasses.replace(b, labels={}))
    with pytest.raises(AmodalError, match="image_weight"):
        method("clippings", image_weight=1.5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_pooled_vector_is_weighed_between_words_and_the_others(weight):
    m = exact(method("clippings", image_weight=weight))
    z = m.encoder(exact(batch(m.views)))
    one = pooled(z, m.weights)
    seen = 0
    for row in range(z.size):
        total = 0
        for s in FIELDS:
            w = 1 - weight if s == "words" else weight / 3
            if w and row in z[s].rows.tolist():
                total = total + w * F.normalize(z[s].values[z[s].rows.tolist().index(row)], dim=0)
        if not isinstance(total, int):
            torch.testing.assert_close(
                one.values[one.rows.tolist().index(row)], F.normalize(total, dim=0)
            )
            seen += 1
    assert seen == len(one)


@pytest.mark.parametrize("absent", [(), ("words",), FIELDS[1:], FIELDS])
def test_the_supervised_stage_keeps_the_contract(absent):
    whole, pieces = (
        exact(method("clippings", **SUPERVISED)),
        exact(method("clippings", **SUPERVISED)),
    )
    b = exact(batch(whole.views, size=9, absent=absent))
    one, other = gradients(whole, b), gradients(pieces, b, micro=2)
    torch.testing.assert_close(one["sup_con"], other["sup_con"])
    towers = [n for n, _ in whole.named_parameters() if "trunks" in n or "tokenizers" in n]
    for n, p in whole.named_parameters():
        assert n not in towers or p.grad is not None and p.grad.isfinite().all()
    if not absent:
        grads = [
            (p.grad, q.grad)
            for p, q in zip(whole.encoder.parameters(), pieces.encoder.parameters())
            if p.grad is not None
        ]
        assert sum(float(a.abs().sum()) for a, _ in grads) > 0
        for a, c in grads:
            torch.testing.assert_close(a, c, rtol=1e-8, atol=1e-10)


def test_look_alikes_are_whole_classes_that_lie_together():
    torch.manual_seed(0)
    classes = torch.arange(24).repeat_interleave(3)
    centre = F.normalize(torch.randn(8, 8), dim=1)[
        torch.arange(24) // 3
    ]  # three classes around each centre
    z = centre[classes] + 0.05 * torch.randn(72, 8)
    order = torch.randperm(72)
    group = similarity_groups(z[order], classes[order], 12)
    assert group.unique().numel() >= 6 and int(group.bincount().max()) <= 12
    assert all(len(group[classes[order] == c].unique()) == 1 for c in range(24))
    alike = (group[:, None] == group) & (classes[order][:, None] != classes[order])
    together = (classes[order] // 3)[:, None] == classes[order] // 3
    assert together[alike].double().mean() > 0.9  # chance: 6 of 69
    # a row of no known class is not of the last one either
    far = torch.cat([-z[:1], z[:3]])
    assert len(similarity_groups(far, torch.tensor([-1, 0, 0, 0]), 3).unique()) == 2
    assert len(similarity_groups(far, torch.tensor([-1, -1, -1, -1]), 1).unique()) == 4
    with pytest.raises(ValueError, match="at least 1 row, not 0"):
        similarity_groups(far, torch.zeros(4, dtype=torch.int64), 0)
    unknown = similarity_groups(z, torch.full((72,), -1), 10)
    assert int(unknown.bincount().max()) <= 10 and torch.equal(
        similarity_groups(z, classes, 100), torch.zeros(72, dtype=torch.int64)
    )


def test_the_refresh_groups_by_the_labels_it_is_passed():
    m = method("clippings")
    b = batch(("plain",), patchy=False)
    seen = m.encoder.features(b)
    seen.columns["label/kind"] = b.labels["kind"]
    groups = m.refresh(1, lambda: seen)
    known, kinds = b.labels["kind"].rows, b.labels["kind"].values
    assert len(groups) == 8 and all(len(groups[known[kinds == k]].unique()) == 1 for k in range(3))
    labelled = torch.isin(torch.arange(8), known)
    assert 0 < labelled.sum() < 8 and torch.equal(groups >= 0, labelled), (
        "a record without label is left out"
    )
    m.group = 0
    assert torch.equal(m.refresh(1, lambda: seen), labelled.long() - 1), (
        "one group of all that have a label"
    )
    whole = Embeddings({s: c.at(torch.isin(c.rows, known)) for s, c in seen.columns.items()}, 8)
    every = Column(torch.arange(8) % 3, torch.arange(8))
    assert m.refresh(1, lambda: Embeddings(whole.columns | {"label/kind": every}, 8)) is None
    nothing = Embeddings(seen.columns | {"label/kind": every.at(torch.arange(0))}, 8)
    with pytest.raises(AmodalError, match="no record to train on has the label 'kind'"):
        m.refresh(1, lambda: nothing)


@pytest.mark.parametrize("unlabelled", [0.5, 0.0])
def test_a_run_makes_batches_of_whole_classes_that_are_alike(monkeypatch, unlabelled):
    """From data to the supervised stage, which may be the first: the survey of the loop brings the
    labels along."""
    import numpy as np
    from amodal_claims._arms import Budget, trained

    from amodal import data, methods
    from amodal.methods.embedding_retrieval.clippings import Clippings

    rng, seen = np.random.default_rng(0), []
    words = [f"town {i // 3}" for i in range(60)]
    known = [word if i < 48 else None for i, word in enumerate(words)]
    columns = {
        "a": [rng.normal(size=(6, 1)).astype(np.float32) for _ in words],
        "b": words,
        "label": known,
    }
    records = data.open(columns, fields={"a": "series", "b": "text"})
    losses = Clippings.losses

    def watched(self, features):
        if self.supervised:
            seen.append(features.label.values.tolist())
        return losses(self, features)

    monkeypatch.setattr(Clippings, "losses", watched)
    trained(
        records,
        range(60),
        lambda encoder: methods.build(
            "clippings", encoder, label="label", width=16, group=12, unlabelled=unlabelled
        ),
        Budget(steps=8, batch=12),
        0,
        1e-3,
    )
    assert len(seen) == (4 if unlabelled else 8)
    assert all(len(batch) == 12 and len(set(batch)) == 4 for batch in seen), (
        "four classes of three rows, all with a label"
    )
