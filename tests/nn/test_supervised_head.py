"""The head that tells labels: what a label is taken for, what its loss is, and what it says."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from amodal import data
from amodal.core import AmodalError, Batch, Column, Embeddings
from amodal.nn.heads.supervised import SupervisedHead, Target, targets_of
from amodal.objectives.cox import cox

TARGETS = (
    Target("kind", "classes", ("a", "b", "c")),
    Target("height", "amount", mean=10.0, std=2.0),
    Target("days,dead", "survival", event=1),
)


def seen(size=6, missing=2):
    torch.manual_seed(0)
    here = torch.arange(size - missing)
    return Embeddings(
        {
            "x": Column(torch.randn(size, 4), torch.arange(size)),
            "y": Column(torch.randn(len(here), 4), here),
        },
        size,
    )


def labelled(size=6):
    rows = torch.arange(1, size)
    labels = {
        "kind": Column(torch.tensor([0, 1, 2, 1, 0]), rows),
        "height": Column(torch.tensor([8.0, 12.0, 10.0, 9.0, 11.0]), rows),
        "days": Column(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]), rows),
        "dead": Column(torch.tensor([1, 1, 0, 1, 0]), rows),
    }
    return dataclasses.replace(Batch.of(size, {}), labels=labels)


def test_losses_are_those_of_each_kind_over_the_rows_that_have_the_label():
    head = SupervisedHead(TARGETS, ["x", "y"], 4)
    predicted, batch = head(seen()), labelled()
    found = head.losses(predicted, Embeddings(head.known(batch), 6))
    out = predicted.values[1:]
    assert torch.allclose(
        found["predict/kind"], cross_entropy(out[:, :3], batch.labels["kind"].values)
    )
    height = (batch.labels["height"].values - 10) / 2
    assert torch.allclose(found["predict/height"], (out[:, 3] - height).square().mean())
    assert torch.allclose(
        found["predict/days,dead"],
        cox(out[:, 4], batch.labels["days"].values, batch.labels["dead"].values),
    )


def test_without_any_label_losses_are_zero_and_part_of_the_graph():
    head, z = SupervisedHead(TARGETS, ["x", "y"], 4), seen()
    none = torch.zeros(0, dtype=torch.int64)
    known = {f"label/{n}": Column(torch.zeros(0), none) for n in head.labels}
    total = sum(head.losses(head(z), Embeddings(known, 6)).values())
    total.backward()
    assert total == 0 and head.net[0].weight.grad is not None


def test_a_missing_field_has_its_learned_vector_and_a_row_with_none_has_no_prediction():
    head = SupervisedHead(TARGETS[:1], ["x", "y"], 4)
    with torch.no_grad():
        head.absent["y"].normal_()
    z = seen()
    x, y = z["x"].values, torch.cat([z["y"].values, head.absent["y"].expand(2, 4)])
    assert torch.allclose(head(z).values, head.net(torch.cat([x, y], 1)))
    empty = Embeddings(
        {
            "x": Column(x[:1], torch.tensor([4])),
            "y": Column(y[:0], torch.zeros(0, dtype=torch.int64)),
        },
        6,
    )
    assert head(empty).rows.tolist() == [4]


def test_predictions_are_probabilities_amounts_in_their_unit_and_hazards():
    head = SupervisedHead(TARGETS, ["x", "y"], 4, hidden=8)
    predicted = head(seen())
    found = head.predictions(predicted)
    assert torch.allclose(found["kind"].sum(1), torch.ones(6))
    assert torch.allclose(found["height"], predicted.values[:, 3] * 2 + 10)
    assert torch.allclose(found["days,dead"], predicted.values[:, 4])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    lines = ["words,species,height,days,dead,odd"]
    for i in range(40):
        lines.append(
            f"w{i} x,{'cat' if i % 2 else 'dog'},{i % 7},{i + 1},{'yes' if i % 3 else 'no'},{'abc'[i % 3]}"
        )
    (folder / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "dataset.toml").write_text(
        'name = "tiny"\nrecords = "t.csv"\n[fields.words]\nmodality = "text"\n'
        + "".join(
            f'[labels.{n}]\nkind = "{k}"\n'
            for n, k in (
                ("species", "category"),
                ("height", "number"),
                ("days", "number"),
                ("dead", "category"),
                ("odd", "category"),
            )
        ),
        encoding="utf-8",
    )
    return data.open(folder)


def test_a_label_says_what_kind_of_task_it_is(tiny):
    rows = np.arange(21)
    species, height = targets_of(tiny, rows, "species, height")
    assert species == Target("species", "classes", ("cat", "dog"))
    assert (
        height.kind == "amount"
        and height.mean == pytest.approx(3.0)
        and height.std == pytest.approx(2.0)
    )
    (time,) = targets_of(tiny, rows, "days,dead", "survival")
    assert time == Target("days,dead", "survival", event=1) and time.labels == ("days", "dead")
    assert Target.read(time.written()) == time and Target.read(species.written()) == species


@pytest.mark.parametrize(
    "label, task, words",
    [
        ("", "auto", "species, height"),
        ("specis", "auto", "species"),
        ("days", "survival", "TIME,EVENT"),
        ("days,odd", "survival", "whether the event came"),
        ("species", "guess", "task"),
    ],
)
def test_targets_that_cannot_be_predicted_are_rejected_with_a_reason(tiny, label, task, words):
    with pytest.raises(AmodalError, match=words):
        targets_of(tiny, np.arange(20), label, task)


def test_outputs_follow_anothers_on_the_rows_that_both_have():
    head = SupervisedHead(
        [Target("kind", "classes", ("a", "b", "c")), Target("size", "amount")], (), 5, joint=True
    )
    torch.manual_seed(0)
    own = Column(torch.randn(3, 4, requires_grad=True), torch.tensor([0, 2, 3]))
    aim = Column(torch.randn(3, 4, requires_grad=True), torch.tensor([1, 2, 3]))
    total = 0.0
    for x, y in zip(own.values[1:], aim.values[1:]):
        p, q = ((v[:3] / 2).softmax(0) for v in (y, x))
        total = total + 4 * sum(a * (a / b).log() for a, b in zip(p, q)) + (x[3] - y[3]) ** 2
    found = head.distillation_loss(own, aim, 2.0)
    torch.testing.assert_close(found, total / 2 / 2)
    found.backward()
    assert (
        aim.values.grad is None
        and own.values.grad[0].abs().sum() == 0 < own.values.grad[1:].abs().min()
    )
    assert head.distillation_loss(own, Column(aim.values[:0], aim.rows[:0])).item() == 0


def test_a_source_that_no_batch_brings_is_one_that_all_rows_lack():
    head, z = SupervisedHead(TARGETS[:1], ["x", "y"], 4), seen()
    none = Column(z["y"].values[:0], torch.zeros(0, dtype=torch.int64))
    x = Embeddings({"x": z["x"]}, 6)
    assert torch.equal(head(x).values, head(Embeddings({"x": z["x"], "y": none}, 6)).values)
