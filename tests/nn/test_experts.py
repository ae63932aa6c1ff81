"""Experts against a loop over tokens, and an encoder of experts against what every encoder
promises."""

import pytest
import torch
import torch.nn.functional as F
from test_encoder import FIELDS, batch, close
from toys import vectors

from amodal.core import AmodalError
from amodal.nn.encoder import Encoder
from amodal.nn.experts import Experts, thresholds


def layer_of(experts=3):
    torch.manual_seed(0)
    layer = Experts(4, 6, experts).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(torch.randn_like(p))
    return layer


def token_by_token(layer, x_TD):
    rows = []
    for x in x_TD:
        p = torch.softmax(layer.router @ x, 0)
        e = int(p.argmax())
        if p[e] < layer.threshold[e]:
            rows.append(torch.zeros_like(x))
            continue
        hidden = F.gelu(x @ layer.up[e] + layer.up_bias[e])
        rows.append(p[e] * (hidden @ layer.down[e] + layer.down_bias[e]))
    return torch.stack(rows)


@pytest.mark.parametrize("least", [0.0, 0.8])
def test_each_token_goes_through_the_expert_its_router_is_surest_of(least):
    layer = layer_of()
    layer.threshold.fill_(least)
    x = torch.randn(20, 4, dtype=torch.float64).requires_grad_()
    ours, logits = layer(x)
    theirs = token_by_token(layer, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(logits, x @ layer.router.T)
    dropped = int((theirs == 0).all(1).sum())
    assert (0 < dropped < 20) if least else not dropped
    weight = torch.randn_like(ours)
    leaves = [x, *layer.parameters()]
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), leaves),
        torch.autograd.grad((theirs * weight).sum(), leaves),
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_no_token_leaves_every_parameter_in_the_graph():
    layer = layer_of()
    y, logits = layer(torch.zeros(0, 4, dtype=torch.float64))
    (y.sum() + logits.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("capacity", [0.5, 1.0, 3.0])
def test_thresholds_leave_each_expert_the_surest_it_has_room_for(capacity):
    generator = torch.Generator().manual_seed(0)
    surest, expert = (
        torch.rand(60, generator=generator),
        torch.randint(0, 3, (60,), generator=generator).clamp(max=1),
    )
    least = thresholds(surest, expert, 3, capacity)
    room = round(capacity * 20)
    for e in range(3):
        mine = surest[expert == e]
        routed = mine[mine >= least[e]]
        assert len(routed) == min(room, len(mine))
        assert len(routed) == len(mine) or routed.min() > mine[mine < least[e]].max()


@pytest.mark.parametrize("trunk", ["separate", "shared", "joint"])
@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_a_row_is_routed_alone_and_its_logits_are_returned(trunk, positions):
    torch.manual_seed(0)
    encoder = (
        Encoder(FIELDS, size="nano", trunk=trunk, positions=positions, experts=3).double().eval()
    )
    for trunk_of in encoder.trunks.values():
        trunk_of.blocks[1].mlp.router.data.mul_(100)
        trunk_of.blocks[1].mlp.threshold.fill_(0.5)
    whole = batch()
    z = vectors(encoder(whole))
    for row in range(whole.size):
        alone = vectors(encoder(whole.between(row, row + 1)))
        close(
            {(row, s): v for (_, s), v in alone.items()},
            {k: v for k, v in z.items() if k[0] == row},
        )
    routing, bags = {}, encoder.tokenize(whole)
    encoder.encode(bags, router_logits=routing)
    predicted = {s: bag for bags in routing.values() for s, bag in bags.items()}
    for s, bag in bags.items():
        assert predicted[s].x.shape == (len(bag), 3) and torch.equal(predicted[s].row, bag.row)
        if trunk == "shared":  # what the layer said of this field alone, in the order of its tokens
            rebuilt = {}
            encoder.encode({s: bag}, router_logits=rebuilt)
            torch.testing.assert_close(
                rebuilt["all", 0][s].x, predicted[s].x, rtol=1e-9, atol=1e-11
            )
    with pytest.raises(AmodalError, match="at least 2"):
        Encoder(FIELDS, size="nano", experts=1)
