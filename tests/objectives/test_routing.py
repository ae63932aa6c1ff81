"""Losses of a router, from the sums of rows, against loops over tokens written from the papers."""

import math

import pytest
import torch

from amodal.objectives.routing import (
    global_entropy,
    importance,
    load,
    local_entropy,
    router_z,
    routing_sums,
)

E = 4


def variation(values):
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values) / mean**2


def naive(logits):
    """name -> the loss, by loops over tokens and experts."""
    chance, wins, z, h = [0.0] * E, [0.0] * E, 0.0, 0.0
    for token in logits:
        total = sum(torch.exp(x) for x in token)
        z = z + torch.log(total) ** 2
        for e in range(E):
            p = torch.exp(token[e]) / total
            chance[e] = chance[e] + p
            h = h - p * torch.log(p)
            behind = (max(token) - token[e]) * E
            wins[e] = wins[e] + 0.5 * (1 - torch.erf(behind / math.sqrt(2)))
    n = len(logits)
    spread = -sum(c / n * torch.log(c / n) for c in chance)
    return {
        importance: variation(chance),
        load: variation(wins),
        router_z: z / n,
        local_entropy: h / n,
        global_entropy: torch.clamp(math.log(0.9 * E) - spread, min=0),
    }


@pytest.mark.parametrize("loss", [importance, load, router_z, local_entropy, global_entropy])
def test_losses_are_their_formulas_however_tokens_are_spread_over_rows(loss, same):
    generator = torch.Generator().manual_seed(0)
    logits = (
        torch.randn(9, E, dtype=torch.float64, generator=generator) * 2 + torch.arange(E)
    ).requires_grad_()
    row = torch.tensor([0, 0, 0, 1, 3, 3, 3, 3, 4])
    more = {"share": 0.9} if loss is global_entropy else {}
    same(lambda x: loss(routing_sums(x, row, 5).sum(0), **more), lambda x: naive(x)[loss], [logits])
    assert naive(logits)[loss] > 0


def test_global_entropy_asks_for_no_more_than_its_share():
    logits = torch.tensor([[9.0, 9.0, -9.0, -9.0]]).repeat(5, 1)
    sums = routing_sums(logits, torch.zeros(5, dtype=torch.int64), 1).sum(0)
    assert global_entropy(sums, 0.49) == 0 and global_entropy(sums, 0.75) > 0
    with pytest.raises(ValueError, match="share"):
        global_entropy(sums, 0.0)


@pytest.mark.parametrize("loss", [importance, load, router_z, local_entropy, global_entropy])
def test_no_token_costs_nothing(loss):
    logits = torch.zeros(0, E, requires_grad=True)
    more = {"share": 0.5} if loss is global_entropy else {}
    value = loss(routing_sums(logits, torch.zeros(0, dtype=torch.int64), 3).sum(0), **more)
    value.backward()
    assert value == 0 and logits.grad is not None
