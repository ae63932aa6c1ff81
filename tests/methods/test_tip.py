"""What TIP alone does: the numbers of its three losses, cells that are missing, and a vector for
rows that have not everything."""

import pytest
import torch
import torch.nn.functional as F

from amodal import methods
from amodal.core import AmodalError, Batch, Column, Ragged, row_seeds
from amodal.nn import config
from amodal.nn.encoder import Encoder
from amodal.objectives.matching import sample_negatives
from tests.methods.bench import batch, exact, fields, method

FIELDS = ("picture", "facts")


def one(**options):
    m = exact(method("tip", sources=FIELDS, **options))
    return m, exact(batch(m.views, sources=FIELDS, patchy=False))


def built(**encoder):
    torch.manual_seed(0)
    return methods.build("tip", Encoder(fields(FIELDS), size="nano", **encoder))


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
    first = torch.stack([m.interaction.cls, cells.x[3]])
    by_hand = m.interaction.cross(_ragged(first), _ragged(pictures.x[pictures.row == 3])).flat[0]
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
    assert m.pair_logits(*lists).shape == (b.size,)


def test_other_fields_are_encoded_one_by_one_and_their_mean_is_fused():
    fields = ("picture", "words", "facts")
    m = exact(method("tip", sources=fields)).eval()
    b = exact(batch(("plain",), sources=fields, patchy=False))
    parts = [m.fused(_without(b, dropped)) for dropped in ("words", "picture")]
    torch.testing.assert_close(m.fused(b).values, sum(p.values for p in parts) / 2)
    context = {s: m.encoder.encode(m.encoder.tokenize(b.only(s)))[s] for s in fields}
    lists = {s: Ragged(t.x, t.lengths()) for s, t in context.items()}
    torch.testing.assert_close(
        m.interaction.vector(lists["facts"], lists["picture"]), parts[0].values
    )


def _without(b, field):
    return Batch.of(b.size, b.columns | {field: b[field].at(torch.arange(0))}, b.keys)


def test_the_table_may_be_any_field_but_must_be_one():
    assert method("tip").table == "facts" and method("tip", table="words").table == "words"
    assert method("tip", sources=("picture", "words")).table == "words"
    with pytest.raises(AmodalError, match="facts"):
        method("tip", table="fact")
    with pytest.raises(AmodalError, match="only facts"):
        method("tip", sources=("facts",))


def test_the_fused_vector_is_what_verbs_read():
    """`amodal evaluate` and `embed` see it as that of all fields, and a saved encoder has it."""
    m, b = one()
    m.eval()
    torch.testing.assert_close(m.encoder.features(b)["fused"].values, m.fused(b).values)
    rebuilt = exact(config.build(m.encoder.spec)).eval()
    rebuilt.load_state_dict(m.encoder.state_dict())
    torch.testing.assert_close(rebuilt.features(b)["fused"].values, m.fused(b).values)
    assert set(m.encoder(b)) == set(FIELDS)  # in the common space each field is by itself
    assert "fused" not in one(match=0.0, fill=0.0)[0].encoder.features(b)


def test_class_tokens_of_the_pooling_are_left_out():
    m = exact(built(pool="cls")).eval()
    b = exact(batch(m.views, sources=FIELDS, patchy=False))
    context = m.encoder.encode(m.encoder.tokenize(b))
    lists = {}
    for s, tokens in context.items():
        rest = tokens.keep(tokens.within() > 0)
        lists[s] = Ragged(rest.x, rest.lengths())
    by_hand = m.interaction.vector(lists["facts"], lists["picture"])
    torch.testing.assert_close(m.fused(b).values, by_hand)


def test_rows_are_judged_by_the_matching_head():
    m, b = one()
    tokens = {f: m.encoder.encode(m.encoder.tokenize(b.only(f)))[f] for f in FIELDS}
    lists = [Ragged(t.x, t.lengths()) for t in (tokens["facts"], tokens["picture"])]
    judged = m.match_logits(b)
    assert judged.rows.tolist() == list(range(b.size))
    torch.testing.assert_close(judged.values, m.pair_logits(*lists).float())
    assert len(m.match_logits(b.only("picture"))) == 0
    with pytest.raises(AmodalError, match="without matching"):
        one(match=0.0)[0].match_logits(b)


def test_a_joint_trunk_is_refused():
    with pytest.raises(AmodalError, match="separate or shared"):
        built(trunk="joint")


def test_cells_of_other_records_are_contrasted_and_true_ones_predicted():
    """Section 4 and the authors' program: three tenths of the cells of the table that is contrasted
    and matched are those of other records; hidden cells are predicted from a table that is whole."""
    m, b = one(corruption=0.5)
    plain = one(corruption=0.0)[0]
    plain.load_state_dict({k: v for k, v in m.state_dict().items() if "marginals" not in k})
    assert torch.equal(m.corrupt(b)["facts"].values, b["facts"].values)  # nothing to draw from yet
    table = b["facts"].values
    numbers = torch.tensor(m.encoder.fields["facts"].numeric())
    other = torch.where(numbers, table + 100, table.nan_to_num(0)[:1])  # one category for all
    m.fit_statistics([Batch.of(b.size, {"facts": Column(other, b["facts"].rows)})])
    changed = m.corrupt(b)
    cells = changed["facts"].values
    present, moved = ~table.isnan(), (cells > 50) & numbers
    assert torch.equal(cells.isnan(), table.isnan())
    assert torch.equal(cells[present & numbers & ~moved], table[present & numbers & ~moved])
    assert set(cells[moved].tolist()) <= set(other.flatten().tolist()) and moved.any()
    number = (present.sum(1) * 0.5).floor()
    assert ((cells != table) & present).sum(1).le(number).all()
    ours, of_changed, of_whole = m.features(b), plain.features(changed), plain.features(b)
    for f in FIELDS:
        torch.testing.assert_close(ours.vectors[f].values, of_changed.vectors[f].values)
    same = (ours.reconstruct["picture"].values, of_whole.reconstruct["picture"].values)
    torch.testing.assert_close(*same)
    assert (ours.vectors["facts"].values - of_whole.vectors["facts"].values).abs().max() > 1e-3


def test_the_share_of_replaced_cells_is_that_of_the_paper():
    assert methods.options("tip")["corruption"].default == 0.3
    assert method("tip", sources=("picture", "words")).marginals is None
