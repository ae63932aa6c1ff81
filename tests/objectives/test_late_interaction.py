import pytest
import torch

from amodal.core import Ragged
from amodal.objectives.late_interaction import field_interaction, late_interaction, max_sim


def ragged(lengths, seed=0, width=5):
    torch.manual_seed(seed)
    return Ragged.of([torch.randn(n, width, dtype=torch.float64) for n in lengths])


def test_is_the_sum_of_what_each_vector_of_a_query_finds():
    query, parts = ragged([2, 1, 3]), ragged([4, 1, 2, 3], seed=1)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for n, q in enumerate(query.split()):
        for m, p in enumerate(parts.split()):
            for one in q:
                cosines = [float(one @ other / (one.norm() * other.norm())) for other in p]
                expected[n, m] += max(cosines)
    torch.testing.assert_close(late_interaction(query, parts), expected)
    torch.testing.assert_close(late_interaction(query, parts, tile=1), expected)


def test_what_is_not_there_is_neither_asked_nor_found():
    query, parts = ragged([2, 0]), ragged([3, 0], seed=1)
    score = late_interaction(query, parts)
    assert score[0, 1] == -torch.inf and (score[1] == 0).all() and score[0, 0].isfinite()


def test_the_gradient_reaches_what_was_found_alone():
    query, parts = ragged([1], seed=2), ragged([3], seed=3)
    flat = parts.flat.requires_grad_()
    late_interaction(query, Ragged(flat, parts.lengths)).sum().backward()
    assert (flat.grad.abs().sum(1) > 0).sum() == 1


def test_shapes_that_do_not_fit_are_refused():
    there = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="max_sim needs"):
        max_sim(torch.randn(2, 3, 4), there, torch.randn(2, 3, 5), there)


def test_of_all_fields_together_and_of_each_alone():
    query, fields = ragged([2, 3]), [ragged([2, 0, 1], seed=1), ragged([1, 2, 3], seed=2)]
    whole, each = field_interaction(query, fields, tile=1)
    for m in range(3):
        own = [field.split()[m] for field in fields]
        together = Ragged.of([torch.cat(own)])
        torch.testing.assert_close(whole[:, m], late_interaction(query, together)[:, 0])
        for f, vectors in enumerate(own):
            if len(vectors):
                torch.testing.assert_close(
                    each[:, m, f], late_interaction(query, Ragged.of([vectors]))[:, 0]
                )
            else:
                assert (each[:, m, f] == -torch.inf).all()


def test_a_field_that_lacks_leaves_gradients_finite():
    query, field = ragged([2, 1]), ragged([2, 0], seed=1)
    flat = field.flat.requires_grad_()
    whole, each = field_interaction(query, [Ragged(flat, field.lengths), ragged([1, 2], seed=3)])
    (whole.logsumexp(1).sum() + each.flatten(1).logsumexp(1).sum()).backward()
    assert flat.grad.isfinite().all() and flat.grad.abs().sum() > 0
