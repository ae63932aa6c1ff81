"""MIRROR: the weights are the paper's, what is hidden is what is scored, and the style is drawn
from the rows' seeds."""

import torch

from amodal.core import Column
from amodal.nn.backbones.transmil import TransMilOptions, lists_of_one_length
from amodal.nn.backbones.vector_transformer import VectorBlock
from amodal.nn.generation.retention import ListDecoder, VectorDecoder
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, method

TWO = ("picture", "words")


def test_two_fields_weigh_as_in_the_paper():
    b = exact(batch(("weak",), patchy=False, sources=TWO))
    plain = dict(
        align=1.0, retain=0.5, style=0.5, cluster=1.0
    )  # 2 x .5: the whole sum of both fields
    each, paper = (exact(method("mirror", sources=TWO, **weights)) for weights in (plain, {}))
    each, paper = each.losses(each.features(b)), paper.losses(paper.features(b))
    assert len(each) == 6
    for term, value in each.items():
        share = {"info_nce": 0.5, "retain": 0.2, "style": 0.2, "cluster": 0.2}[term.split("/")[0]]
        torch.testing.assert_close(paper[term], share * value, rtol=1e-9, atol=1e-12)


def test_retention_scores_the_hidden_tokens_of_each_row():
    m = exact(method("mirror"))
    b = exact(batch(m.views))
    features = m.features(b)
    for source, bag in m.encoder.tokenize(b).items():
        total, count = features.retained[source].values.T
        lengths = bag.lengths()
        visible = (lengths.double() * 0.25 + 1e-9).round().clamp(min=1)
        rows = features.retained[source].rows
        assert (
            torch.equal(count.detach().long(), (lengths - visible)[rows].long())
            and (total[count > 0] > 0).all()
        )


def test_a_stopped_target_is_not_moved():
    """Without the other losses, only what stands before the decoder's visible tokens learns; values
    stay the same."""
    only = dict(align=0.0, style=0.0, cluster=0.0)
    found = []
    for stop in (False, True):
        m = exact(method("mirror", stop_target=stop, **only))
        terms = gradients(m, exact(batch(m.views)))
        grads = torch.cat(
            [p.grad.flatten() for n, p in m.encoder.named_parameters() if p.grad is not None]
        )
        found.append((sum(terms.values()), grads))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1]) and found[1][1].abs().sum() > 0


def test_the_style_is_drawn_from_seeds():
    m = exact(method("mirror"))
    features = m.features(exact(batch(m.views)))
    own, seeds = features.pooled["words"], features.seeds.values
    mean, log_variance, scores = m.style(own, seeds, 1)
    assert torch.equal(scores, m.style(own, seeds, 1)[2]) and not torch.equal(
        scores, m.style(own, seeds + 1, 1)[2]
    )
    still = Column(own.values[1:], own.rows[1:])
    torch.testing.assert_close(m.style(still, seeds, 1)[2], scores[1:])
    rows = torch.arange(4000)
    many = m.style(Column(own.values[:1].expand(4000, -1), rows), rows, 1)[2]
    expected = m.style.prototypes(m.style.out_proj(mean[0]))
    assert (many.mean(0) - expected).abs().max() < 5 * many.std(0).max() / 4000**0.5
    weight = m.style.prototypes.weight @ m.style.out_proj.weight
    spread = (weight.square() @ log_variance[0].exp()).sqrt()
    torch.testing.assert_close(many.std(0), spread, rtol=0.08, atol=0)


def test_the_authors_sizes_are_the_defaults():
    o = TransMilOptions()
    assert (o.width, o.heads, o.landmarks, o.iterations, o.kernel) == (512, 8, 0, 6, 33)
    block = VectorBlock(8, 2)
    hidden = {m.out_features for m in block.modules() if isinstance(m, torch.nn.Linear)}
    assert 4 * 8 in hidden and max(hidden) == 4 * 8


def test_masks_and_places_begin_small():
    torch.manual_seed(0)
    lists, vectors = ListDecoder(512, 8), VectorDecoder(512, 8)
    for values in (lists.mask, vectors.place):
        assert 0.017 < values.std() < 0.023
    masks = torch.stack([VectorDecoder(8, 2).mask.detach() for _ in range(300)])
    assert 0.017 < masks.std() < 0.023


def test_no_list_at_all_keeps_the_parameters_in_the_graph():
    layer = torch.nn.Linear(4, 4)
    x_TD = torch.zeros(0, 4, requires_grad=True)
    seen = []

    def function(x_NLD):
        seen.append(x_NLD.shape)
        return torch.cat([layer(x_NLD)] * 3, 1)

    out_TD = lists_of_one_length(x_TD, torch.zeros(0, dtype=torch.int64), function)
    assert seen == [(1, 1, 4)] and out_TD.shape == (0, 4)
    out_TD.sum().backward()
    assert layer.weight.grad.eq(0).all() and x_TD.grad.shape == (0, 4)
