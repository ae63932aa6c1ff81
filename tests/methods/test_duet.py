"""Prompts of attributes, and what the page makes of them."""

import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy

from amodal import modalities
from amodal.core import AmodalError, Batch, Column
from amodal.methods.contract import Clock
from amodal.methods.shared.prompts import AttributePrompts, attribute_vectors
from amodal.nn.encoder import Encoder
from tests.methods.bench import batch, fields, method

FIELDS = ("picture", "facts")
TABLE = modalities.make(
    "table",
    columns=["shape", "size", "colour"],
    categories={"shape": ["disc", "ring"], "colour": ["blue", "green", "red"]},
    mean=[0.0, 2.0, 0.0],
    std=[1.0, 4.0, 1.0],
)
NAN = float("nan")
VALUES = torch.tensor([[0.0, 6.0, 1.0], [1.0, NAN, 3.0], [NAN, 2.0, NAN], [0.0, 6.0, 1.0]])


def test_attributes_as_vectors():
    x, known = attribute_vectors(TABLE, VALUES)
    assert x.tolist() == [
        [
            1,
            0,
            0,
            1,
            0,
            1,
            0,
            0,
        ],  # a category that is not listed has an entry of its own, at the end of its column
        [0, 1, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 1, 0, 0],
    ]
    beyond = torch.tensor([[7.0, 2.0, 9.0], [-1.0, 2.0, 0.0]])
    assert attribute_vectors(TABLE, beyond)[0].tolist() == [
        [0, 0, 1, 0, 0, 0, 0, 1],
        [1, 0, 0, 0, 1, 0, 0, 0],
    ]
    assert (
        known.tolist()[1] == [True] * 3 + [False] + [True] * 4
        and known.sum().item() == 8 + 7 + 1 + 8
    )


def prompts(chance, miss, rows=VALUES, salt=0):
    torch.manual_seed(0)
    encoder = Encoder({"facts": TABLE, "picture": fields()["picture"]}, size="nano")
    made = AttributePrompts(encoder, "facts", chance=chance, miss=miss)
    b = Batch.of(len(rows), {"facts": Column(rows, torch.arange(len(rows)))}, salt=salt)
    return encoder, made, b


def test_without_a_coin_every_row_has_the_template_and_its_attributes_do_not_show():
    encoder, made, b = prompts(0.0, 0.5)
    words = made(encoder, b).words.values
    assert words.lengths.tolist() == [3] * 4
    first = words.flat[:3]
    assert all(torch.allclose(part, first, atol=1e-6) for part in words.split())


def test_one_attribute_that_is_there_is_masked_and_does_not_show():
    encoder, made, b = prompts(1.0, 0.0)
    one = made(encoder, b)
    assert one.words.values.lengths.tolist() == [3, 2, 1, 3]
    assert one.masked(torch.arange(4)).sum() == 4
    places = [[0, 1, 2], [0, 2], [1], [0, 1, 2]]  # columns of the tokens
    for row in range(4):
        column = places[row][int(one.hidden[row])]
        changed = b["facts"].values.clone()
        changed[row, column] = 0.0 if changed[row, column] else 1.0
        repeated = made(
            encoder, Batch(4, {"facts": Column(changed, torch.arange(4))}, b.keys, b.seeds)
        )
        if torch.equal(repeated.hidden, one.hidden):
            torch.testing.assert_close(repeated.words.values.flat, one.words.values.flat)
    assert one.hidden[2] == 0  # a number, where there is no category


def test_what_is_left_blank_does_not_show():
    for miss, shows in ((0.0, True), (1.0, False)):
        encoder, made, b = prompts(1.0, miss)
        one, changed = made(encoder, b), b["facts"].values.clone()
        changed[
            0, 1
        ] = -50.0  # a number is not masked beside categories, so which one is masked stays the same
        repeated = made(
            encoder, Batch(4, {"facts": Column(changed, torch.arange(4))}, b.keys, b.seeds)
        )
        assert torch.equal(one.hidden, repeated.hidden)
        assert (
            torch.allclose(one.words.values.flat[:3], repeated.words.values.flat[:3], atol=1e-5)
            != shows
        )


def test_rare_values_are_masked_more_often():
    rows = torch.tensor([[0.0, 6.0, 1.0]]).repeat(4000, 1)
    encoder, made, b = prompts(1.0, 0.5, rows)
    hidden = made(encoder, b).hidden
    assert abs((hidden == 0).double().mean() - 0.5) < 0.03
    made.count[0] = 9.0  # discs are seen nine times as often as green
    hidden = made(encoder, b).hidden
    assert abs((hidden == 0).double().mean() - 0.1) < 0.02 and not (hidden == 1).any()


def test_losses_are_those_of_the_predictions():
    m = method(
        "duet",
        sources=FIELDS,
        prompt_probability=0.6,
        mask=2.0,
        regress=3.0,
        classes=0.0,
        contrast=0.0,
    )
    b = batch(m.views, sources=FIELDS, patchy=False)
    z = m.features(b)
    terms = m.losses(z)
    assert set(terms) == {"class/picture", "mask/picture", "regress/picture"}
    x, hat = z.attributes.values, z.predicted["picture"].values
    torch.testing.assert_close(terms["regress/picture"], 3 * (hat - x).square().mean())
    kinds = x.unique(dim=0)
    mine = torch.tensor([int((kinds == row).all(1).nonzero()) for row in x])
    torch.testing.assert_close(terms["class/picture"], cross_entropy(hat @ kinds.T, mine))
    masked = z.mask_losses["picture"]
    assert (
        masked.rows.tolist() == (z.hidden.values >= 0).nonzero().squeeze(1).tolist()
        and (masked.values[:, 1] == 1).all()
    )
    torch.testing.assert_close(terms["mask/picture"], 2 * masked.values[:, 0].mean())
    before = m.prompts.count.clone()
    m.on_step_end(Clock(1, 10))
    assert torch.equal(m.prompts.count, before + z.present.values.sum(0))


def test_predictions_do_not_look_at_the_attributes():
    m = method("duet", sources=FIELDS).eval()
    b = batch(m.views, sources=FIELDS, patchy=False)
    predicted = m.predict_attributes(b)
    assert set(predicted) == {"picture"}
    assert predicted["picture"].values.shape == (8, len(m.prompts.count))
    other = dataclasses.replace(
        b, columns=b.columns | {"facts": Column(b["facts"].values * 0, b["facts"].rows)}
    )
    torch.testing.assert_close(
        m.predict_attributes(other)["picture"].values, predicted["picture"].values
    )
    assert not torch.allclose(
        m.features(b).predicted["picture"].values, predicted["picture"].values
    )


def test_classes_are_compared_by_the_products_of_their_attributes():
    duet = method("duet", sources=FIELDS).eval()
    rows, table = batch(duet.views, sources=FIELDS, patchy=False), duet.encoder.fields["facts"]
    cells = rows["facts"].values[:2].clone()
    cells[1, 0] = NAN  # what is not known of a class says nothing for or against it
    described = Batch.of(2, {"facts": Column(cells, torch.arange(2))})
    logits = duet.class_logits(rows, described)
    predicted = duet.predict_attributes(rows)
    assert duet.description_field == "facts" and logits.sources == ("picture",)
    x, known = attribute_vectors(table, cells)
    expected = torch.stack(
        [
            sum(a * v for a, v, k in zip(p, one, ks) if k)
            for p in predicted["picture"].values
            for one, ks in zip(x, known)
        ]
    ).view(-1, 2)
    assert torch.allclose(logits["picture"].values, expected, atol=1e-5)
    assert torch.equal(logits["picture"].rows, rows["picture"].rows)


def test_errors():
    with pytest.raises(ValueError, match="Did you mean facts"):
        method("duet", attributes="fact")
    with pytest.raises(AmodalError, match="a table, and there are only picture, words"):
        method("duet", sources=("picture", "words"))
