"""What TIP alone does: the numbers of its three losses, cells that are missing, and a vector for
rows that have not everything."""

import pytest
import torch
import torch.nn.functional as F

from amodal.core import AmodalError, Batch, Ragged, row_seeds
from amodal.objectives.matching import sample_negatives
from tests.methods.bench import batch, exact, method

FIELDS = ("picture", "facts")


def one(**options):
    m = exact(method("tip", sources=FIELDS, **options))
    return m, exact(batch(m.views, sources=FIELDS, patchy=False))


def test_three_losses_a_third_each():
    m, b = one()
    z = m.features(b)
    terms = m.losses(z)
    assert set(terms) == {"contrast/picture~facts", "match/picture", "reconstruct/picture"}
    p, f = (F.normalize(z.vectors[s].values, dim=1) for s in FIELDS)
    logits, own = p @ f.T / 0.1, torch.arange(len(p))
    contrast = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(terms["contrast/picture~facts"], contrast / 3)
    assert set(one(match=0.0)[0].losses(z)) == {"contrast/picture~facts", "reconstruct/picture"}
    assert set(one(fill=0.0)[0].losses(z)) == {"contrast/picture~facts", "match/picture"}
    torch.testing.assert_close(
        one(fill=6.0)[0].losses(z)["reconstruct/picture"], 6 * terms["reconstruct/picture"]
    )


def _ragged(x):
    return Ragged(x, torch.tensor([len(x)]))


def test_negatives_are_drawn_from_the_softmax_of_all_and_a_floor():
    """The chances as published: softmax over the whole batch, 1e-4 more for each, none for oneself."""
    logits = torch.tensor([[9.0, 0.0, 1.0, -9.0]], dtype=torch.float64)
    chance = logits.softmax(1) + 1e-2
    chance[0, 0] = 0
    chance /= chance.sum()
    draws = 40_000
    seeds, own = row_seeds([str(i) for i in range(draws)]), torch.zeros(draws, dtype=torch.int64)
    drawn = sample_negatives(logits.expand(draws, -1), own, seeds, floor=1e-2)
    found = torch.bincount(drawn, minlength=4)[None] / draws
    torch.testing.assert_close(found.double(), chance, rtol=0, atol=0.009)
    bare = (
        torch.bincount(sample_negatives(logits.expand(draws, -1), own, seeds), minlength=4) / draws
    )
    assert bare[3] < 0.001 < 0.2 < found[0, 3]  # without the floor the last is never met


def test_a_missing_cell_says_nothing_and_a_missing_table_leaves_the_picture():
    m, b = one()
    m.eval()
    whole = m.fused(b)
    assert whole.rows.tolist() == list(range(b.size)) and whole.values.shape == (
        b.size,
        m.encoder.width,
    )
    values = b["facts"].values.clone()
    values[:, 0] = torch.nan
    holes = Batch.of(
        b.size, b.columns | {"facts": type(b["facts"])(values, b["facts"].rows)}, b.keys
    )
    left = m.fused(holes).values
    assert (left - whole.values).abs().amax(1).min() > 1e-4
    # only the other cell is left: a vector of the picture and of that cell, by hand
    cells = m.encoder.encode(m.encoder.tokenize(holes.only("facts")))["facts"]
    assert len(cells) == b.size
    pictures = m.encoder.encode(m.encoder.tokenize(holes.only("picture")))["picture"]
    first = torch.stack([m.module.cls, cells.x[3]])
    by_hand = m.module.cross(_ragged(first), _ragged(pictures.x[pictures.row == 3])).flat[0]
    torch.testing.assert_close(left[3], by_hand)
    without = b.columns | {"facts": b["facts"].at(torch.arange(0))}
    alone = m.fused(Batch.of(b.size, without, b.keys))
    assert (
        len(alone) == b.size
        and alone.values.isfinite().all()
        and (alone.values[0] - alone.values[1]).abs().max() > 1e-5
    )
    nothing = {
        "picture": b["picture"].at(torch.arange(2)),
        "facts": b["facts"].at(torch.arange(1, 4)),
    }
    some = m.fused(Batch.of(b.size, nothing, b.keys))
    assert some.rows.tolist() == [0, 1, 2, 3] and some.values.isfinite().all()
    cell = m.fused(holes.only("facts"))  # one cell is enough
    assert cell.rows.tolist() == list(range(b.size)) and cell.values.isfinite().all()


def test_rows_that_have_one_of_the_other_fields_have_a_fused_vector():
    m = exact(method("tip", sources=("picture", "words", "facts"))).eval()
    b = exact(batch(("plain",), sources=("picture", "words", "facts"), patchy=False))
    columns = {"picture": b["picture"].at(torch.arange(2)), "words": b["words"].at(torch.arange(3))}
    columns["facts"] = b["facts"].at(torch.arange(3, 5))
    both = m.fused(Batch.of(b.size, columns, b.keys))
    assert both.rows.tolist() == [0, 1, 2, 3, 4] and both.values.isfinite().all()


def test_a_pair_has_one_logit():
    m, b = one()
    tokens = {f: m.encoder.tokenize(b.only(f))[f] for f in FIELDS}
    lists = [Ragged(t.x, t.lengths()) for t in (tokens["facts"], tokens["picture"])]
    assert m.module(*lists).shape == (b.size,)


def test_other_fields_are_encoded_one_by_one_and_their_mean_is_fused():
    fields = ("picture", "words", "facts")
    m = exact(method("tip", sources=fields)).eval()
    b = exact(batch(("plain",), sources=fields, patchy=False))
    parts = [m.fused(_without(b, dropped)) for dropped in ("words", "picture")]
    torch.testing.assert_close(m.fused(b).values, sum(p.values for p in parts) / 2)
    context = {s: m.encoder.encode(m.encoder.tokenize(b.only(s)))[s] for s in fields}
    lists = {s: Ragged(t.x, t.lengths()) for s, t in context.items()}
    torch.testing.assert_close(m.module.vector(lists["facts"], lists["picture"]), parts[0].values)


def _without(b, field):
    return Batch.of(b.size, b.columns | {field: b[field].at(torch.arange(0))}, b.keys)


def test_the_table_may_be_any_field_but_must_be_one():
    assert method("tip").table == "facts" and method("tip", table="words").table == "words"
    assert method("tip", sources=("picture", "words")).table == "words"
    with pytest.raises(AmodalError, match="facts"):
        method("tip", table="fact")
    with pytest.raises(AmodalError, match="only facts"):
        method("tip", sources=("facts",))
