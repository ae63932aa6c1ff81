"""TransMIL and the transformer over one vector, against loops; what a list's neighbours change."""

import math

import pytest
import torch

from amodal.core import AmodalError, Column, Ragged
from amodal.modalities import make
from amodal.nn.attention.nystrom import NystromAttention, pseudoinverse
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.pooling import FirstPool
from tests.golden.nystrom import layer, norm, vector_block

BAGS = make("series", channels=("a", "b", "c"), mean=(1.0, 0.0, 0.0), std=(2.0, 1.0, 1.0))
TABLE = make(
    "table",
    columns=("age", "sex", "dose"),
    categories={"sex": ("f", "m")},
    mean=(50.0, 0.0, 2.0),
    std=(10.0, 1.0, 4.0),
)
SPEC = "transmil:width=12,heads=3,landmarks=4,kernel=5"


def bags(*lengths, seed=0):
    values = torch.randn(sum(lengths), 3, generator=torch.Generator().manual_seed(seed))
    return Column(
        Ragged(values.double(), torch.tensor(lengths, dtype=torch.int64)),
        torch.arange(len(lengths)),
    )


def naive(body, values):
    """One list (L, C) -> (1 + L, D)."""
    w = dict(body.state_dict())
    mean, std = (torch.tensor(t).double() for t in (BAGS.mean, BAGS.std))
    x = torch.cat([(values - mean) / std, torch.ones_like(values)], 1)
    x = (x @ w["embed.0.weight"].T + w["embed.0.bias"]).relu()
    length, side = len(x), math.ceil(math.sqrt(len(x)))
    x = torch.cat([w["token"][None], x, x[: side * side - length]])
    x = layer(w, "first", x, heads=3, landmarks=4)
    square, mixed = x[1:].view(side, side, -1), x[1:].view(side, side, -1).clone()
    for i, kernel in enumerate((7, 5, 3)):
        taps, bias = (w[f"positions.convolutions.{i}.{n}"] for n in ("weight", "bias"))
        mixed = mixed + bias
        for r in range(side):
            for c in range(side):
                for u in range(kernel):
                    for v in range(kernel):
                        y, z = r + u - kernel // 2, c + v - kernel // 2
                        if 0 <= y < side and 0 <= z < side:
                            mixed[r, c] = mixed[r, c] + taps[:, 0, u, v] * square[y, z]
    x = torch.cat([x[:1], mixed.view(side * side, -1)])
    return norm(w, "norm", layer(w, "second", x, heads=3, landmarks=4))[: 1 + length]


@torch.no_grad()
def test_a_list_is_read_as_the_loops_do_whatever_else_is_in_the_batch():
    net = backbone(SPEC, BAGS, 8).double()
    column = bags(5, 1, 9, 5, 2)
    features, lengths, position = net.body(column.values)
    assert lengths.tolist() == [6, 2, 10, 6, 3]
    start, first = 0, 0
    for n in (5, 1, 9, 5, 2):
        own = naive(net.body, column.values.flat[first : first + n])
        torch.testing.assert_close(features[start : start + n + 1], own, rtol=1e-9, atol=1e-12)
        assert position[start : start + n + 1, 0].tolist() == list(range(n + 1))
        start, first = start + n + 1, first + n


def test_the_iteration_nears_the_inverse():
    matrix = torch.randn(3, 7, 7).double().softmax(-1)
    gaps = [
        (pseudoinverse(matrix, n) - torch.linalg.pinv(matrix)).abs().max().item() for n in (2, 30)
    ]
    assert gaps[1] < 1e-8 < gaps[0]


def test_as_many_landmarks_as_tokens_give_whole_attention():
    attention = NystromAttention(8, 2, 6, 40, 0).double()
    x = torch.randn(1, 6, 8).double()
    q, k, v = (t.unflatten(2, (2, 4)).transpose(1, 2) for t in attention.qkv(x).chunk(3, 2))
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(x), attention.out(whole), rtol=1e-6, atol=1e-8)


def test_the_first_token_stands_for_the_whole():
    net, pool = backbone(SPEC, BAGS, 8).double(), FirstPool(8)
    tokens = net(bags(4, 3), "slide", 3)
    assert pool(tokens).rows.tolist() == [0, 1]
    assert torch.equal(pool(tokens).flat, tokens.x[[0, 5]])
    assert pool.strip(tokens).lengths().tolist() == [4, 3, 0]
    assert not len(net(bags(), "slide", 3))


@torch.no_grad()
def test_a_vector_of_cells_is_refined_between_its_heads():
    body = backbone("vector_transformer:width=12,heads=3,blocks=2,ratio=2", TABLE, 8).body.double()
    values = torch.tensor([[60.0, 1.0, 10.0], [math.nan, math.nan, 2.0]]).double()
    inputs = torch.tensor([[1.0, 2.0, 0, 1, 0], [0.0, 0.0, 0, 0, 0]]).double()
    assert body.embed[0].in_features == 5  # two numbers; f, m and other
    torch.testing.assert_close(body.cells(values), inputs, rtol=1e-5, atol=1e-5)
    w = dict(body.state_dict())
    features, lengths, _ = body(values)
    assert lengths.tolist() == [1, 1]
    for row, x in zip(features, body.cells(values)):
        x = w["embed.0.weight"] @ x + w["embed.0.bias"]
        x = norm(w, "embed.2", x * (1 + torch.erf(x / math.sqrt(2))) / 2, 1e-6)
        x = w["embed.3.weight"] @ x + w["embed.3.bias"] + w["place"]
        for i in range(2):
            x = vector_block(w, f"blocks.{i}", x, heads=3)
        torch.testing.assert_close(row, norm(w, "norm", x, 1e-6), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "spec, modality, message",
    [
        ("transmil:width=10,heads=3", BAGS, "3 heads do not divide a width of 10"),
        ("transmil:kernel=4", BAGS, "odd number"),
        ("transmil", TABLE, "transmil backbones are for series fields"),
        ("vector_transformer:width=10", TABLE, "12 heads do not divide"),
        ("vector_transformer:depth=3", TABLE, "blocks"),
    ],
)
def test_wrong_options(spec, modality, message):
    with pytest.raises(AmodalError, match=message):
        backbone(spec, modality, 8)
