"""sup_con against the double sum of its definition, and against NT-Xent where they are the same."""

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.info_nce import nt_xent
from amodal.objectives.sup_con import sup_con


def reference(z, groups, temperature):
    z, terms = F.normalize(z, dim=1), []
    for i in range(len(z)):
        partners = [p for p in range(len(z)) if p != i and groups[p] == groups[i]]
        if partners:
            below = sum((z[i] @ z[a] / temperature).exp() for a in range(len(z)) if a != i)
            terms.append(
                -sum(((z[i] @ z[p] / temperature).exp() / below).log() for p in partners)
                / len(partners)
            )
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature, tile", [(0.1, 1024), (0.5, 3)])
def test_it_is_the_double_sum(pair, same, temperature, tile):
    groups = torch.tensor([5, 2, 5, 9, 2, 5, 7, 2])
    z, _ = pair(8, 4)
    same(
        lambda x: sup_con(x, groups, temperature=temperature, tile=tile),
        lambda x: reference(x, groups, temperature),
        [z],
    )


def test_groups_of_two_are_nt_xent(pair):
    a, b = pair(6, 5)
    groups = torch.arange(6).repeat(2)
    torch.testing.assert_close(
        sup_con(torch.cat([a, b]), groups, temperature=0.5), nt_xent(a, b, temperature=0.5)
    )


def test_nobody_with_a_partner_and_bad_shapes():
    z = torch.randn(4, 3, requires_grad=True)
    loss = sup_con(z, torch.arange(4))
    loss.backward()
    assert loss == 0 and z.grad.abs().sum() == 0
    assert sup_con(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == 0
    with pytest.raises(ValueError, match="groups"):
        sup_con(z, torch.arange(3))
    with pytest.raises(ValueError, match="above 0"):
        sup_con(z, torch.arange(4), temperature=0.0)
