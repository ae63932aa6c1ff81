"""MultiModN's sequence against a loop over records, its loss against its definition, and what a
missing field does: nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import amodal
from amodal.core import AmodalError, Column, Embeddings
from amodal.nn.fusion.sequential import SequentialFusion, random_orders
from amodal.nn.heads.supervised import Target
from tests.methods.bench import FIELDS, batch, method

TASKS = tuple(Target(name, "classes", ("a", "b", "c")) for name in ("kind", "other"))


def vectors(size=7, width=5, patchy=True):
    torch.manual_seed(1)
    rows = {
        s: torch.tensor([i for i in range(size) if not patchy or (i + k) % 3])
        for k, s in enumerate("abc")
    }
    return Embeddings({s: Column(torch.randn(len(r), width), r) for s, r in rows.items()}, size)


@pytest.mark.parametrize("shuffled", [False, True])
def test_each_row_goes_through_the_modules_of_what_it_has(shuffled):
    z, modules = vectors(), SequentialFusion("abc", 5, 4)
    order = random_orders(torch.arange(7), 3) if shuffled else None
    last, found = modules(z, order)
    seen = {s: 0 for s in "abc"}
    for row in range(7):
        state = modules.start
        for number in order[row].tolist() if shuffled else range(3):
            field = "abc"[number]
            at = (z[field].rows == row).nonzero().squeeze(1)
            if len(at):
                step = modules.steps[field]
                both = torch.cat([z[field].values[at[0]], state])
                after = torch.stack([both @ w + b for w, b in zip(step.weight, step.bias)])
                where = (found[field].rows == row).nonzero().item()
                torch.testing.assert_close(found[field].values[where], torch.stack([state, after]))
                state, seen[field] = after, seen[field] + 1
        torch.testing.assert_close(last[row], state)
    assert seen == {s: len(z[s]) for s in "abc"} == {s: len(found[s]) for s in "abc"}


def test_orders_are_all_there_are_and_follow_from_seeds():
    order = random_orders(torch.arange(600), 3)
    found, count = order.unique(dim=0, return_counts=True)
    assert (
        len(found) == 6
        and (count > 70).all()
        and torch.equal(random_orders(torch.arange(300, 600), 3), order[300:])
    )


def test_the_loss_is_that_of_every_state_and_task():
    m = method("multimodn", targets=TASKS, change=0.25)
    whole = batch(m.views, patchy=False)
    y = {name: torch.arange(8) * step % 3 for name, step in (("kind", 1), ("other", 2))}
    whole = dataclasses.replace(
        whole, labels={name: Column(v, torch.arange(8)) for name, v in y.items()}
    )
    found = m.losses(m.features(whole))
    z, state = m.encoder.features(whole), m.steps.start.expand(8, -1)
    tasks, changes = dict.fromkeys(y, 0.0), 0.0
    for field in (None, *FIELDS):
        if field:
            old, state = state, m.steps.steps[field](torch.cat([z[field].values, state], 1))
            changes = changes + ((state - old) ** 2).mean() / 4
        for name, logits in zip(y, m.head.net(state).split(3, 1)):
            tasks[name] = tasks[name] + cross_entropy(logits, y[name]) / (2 * 5)
    expected = {f"predict/{name}": v for name, v in tasks.items()} | {"change": 0.25 * changes}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_missing_field_leaves_the_prediction_as_it_was():
    m = method("multimodn", order="words, facts,picture,signal").eval()
    whole = batch(m.views)
    curve = {f: m.head.predictions(out) for f, out in m.predict_by_field(whole).items()}
    predicted = m.head.predictions(m.predict(whole))["kind"]
    assert list(curve) == ["", "words", "facts", "picture", "signal"]
    torch.testing.assert_close(curve["signal"]["kind"], predicted)
    torch.testing.assert_close(curve[""]["kind"], curve[""]["kind"][:1].expand(8, -1))
    for before, after in zip(curve, list(curve)[1:]):
        lacks = ~whole[after].present(8)
        assert lacks.any() and not lacks.all()
        changed = ((curve[before]["kind"] - curve[after]["kind"]).abs() > 1e-5).any(1)
        assert torch.equal(changed, ~lacks)
    # nor does it matter what the rest of the batch has
    lone = whole.at(torch.tensor([3]))
    alone = m.head.predictions(m.predict(lone.only(*(s for s in FIELDS if len(lone[s])))))["kind"]
    torch.testing.assert_close(alone, predicted[3:4], rtol=1e-4, atol=1e-5)


def test_the_order_is_random_only_while_training():
    m = method("multimodn", shuffle=True)
    whole, fixed = batch(m.views, patchy=False), method("multimodn")
    assert not torch.allclose(
        m.features(whole).outputs["signal"].values, fixed.features(whole).outputs["signal"].values
    )
    torch.testing.assert_close(
        m.eval().features(whole).outputs["signal"].values,
        fixed.features(whole).outputs["signal"].values,
    )


def test_a_wrong_order_says_what_fields_there_are():
    with pytest.raises(AmodalError, match="Did you mean words"):
        method("multimodn", order="word,facts,picture,signal")
    with pytest.raises(AmodalError, match="each of picture, words, signal, facts once"):
        method("multimodn", order="words,facts")


def test_predictions_before_and_after_each_field_are_written(tmp_path):
    rng = np.random.default_rng(0)
    data = {
        "words": [f"{'red' if i % 2 else 'blue'} boat {i}" for i in range(60)],
        "marks": [None if i % 3 == 0 else [float(i % 2), rng.normal()] for i in range(60)],
        "kind": ["odd" if i % 2 else "even" for i in range(60)],
    }
    dataset = amodal.open(data, fields={"words": "text", "marks": "series"})
    options = {"label": "kind", "separate": True, "layers": 2}
    model = amodal.pretrain(
        "multimodn",
        dataset,
        tmp_path / "run",
        options=options,
        size="nano",
        steps=4,
        progress=False,
    )
    table = model.predict(dataset, by_field=True).to_pandas()
    names = [f"kind=odd, {when}" for when in ("before", "after words", "after marks")]
    assert table[names[0]].nunique() == 1
    has = np.array([m is not None for m in data["marks"]])
    changed = (table[names[1]] - table[names[2]]).abs() > 1e-6
    assert changed[has].all() and not changed[~has].any()
    last = model.predict(dataset).to_pandas()["kind=odd"]
    np.testing.assert_allclose(table[names[2]], last, rtol=1e-5)
    with pytest.raises(AmodalError, match="set separate"):
        method("multimodn", layers=2)
