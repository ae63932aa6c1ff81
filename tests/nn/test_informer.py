"""The Informer, plain convolutions over series and a plain perceptron, against loops."""

import math

import pytest
import torch

from amodal.core import AmodalError, Column, Ragged
from amodal.modalities import make
from amodal.nn.attention.prob_sparse import ProbSparseAttention, sampled_keys
from amodal.nn.backbones.fixed_length import at_length
from amodal.nn.backbones.pretrained import backbone
from tests.golden.nystrom import norm

SERIES = make("series", channels=("flux", "error"), mean=(1.0, 0.0), std=(2.0, 1.0))
TABLE = make("table", columns=("period", "size"), mean=(1.0, 2.0), std=(1.0, 4.0))


def curves(*lengths):
    values = torch.randn(sum(lengths), 2, generator=torch.Generator().manual_seed(0)).double()
    lengths = torch.tensor(lengths, dtype=torch.int64)
    return Column(Ragged(values, lengths), torch.arange(len(lengths)))


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def sparse(w, name, x, *, heads, factor, seed):
    """ProbSparse attention of one sequence (L, D), query by query."""
    length, width = x.shape
    u = min(length, factor * math.ceil(math.log(length)))
    keys = sampled_keys(length, u, seed)
    size, made = width // heads, []
    q, k, v = (linear(w, f"{name}.{part}", x) for part in ("query", "key", "value"))
    for h in range(heads):
        s = slice(h * size, (h + 1) * size)
        spread = []
        for i in range(length):
            some = torch.stack([q[i, s] @ k[j, s] for j in keys[i]])
            spread.append(some.max() - some.sum() / length)
        best = torch.stack(spread).argsort(descending=True)[:u].tolist()
        out = v[:, s].mean(0).repeat(length, 1)
        for i in best:
            out[i] = (k[:, s] @ q[i, s] / math.sqrt(size)).softmax(0) @ v[:, s]
        made.append(out)
    return linear(w, f"{name}.out", torch.cat(made, 1))


@torch.no_grad()
def test_an_informer_is_what_the_loops_make_of_a_series():
    spec = "informer:length=9,width=8,layers=2,heads=2,hidden=12,factor=2"
    body = backbone(spec, SERIES, 6).body.double()
    column = curves(9, 4, 12)
    got, lengths, _ = body(column.values)
    assert lengths.tolist() == [1, 1, 1] and got.shape == (3, 72)
    w = dict(body.state_dict())
    mean, std = (torch.tensor(t).double() for t in (SERIES.mean, SERIES.std))
    for row, values in zip(got, torch.split(column.values.flat, [9, 4, 12])):
        values = values[1:10] if len(values) == 12 else values  # the middle
        steps = torch.zeros(9, 4).double()
        steps[: len(values), :2], steps[: len(values), 2:] = (values - mean) / std, 1
        x = torch.stack(
            [
                sum(w["embed.weight"][:, :, t] @ steps[(i + t - 1) % 9] for t in range(3))
                for i in range(9)
            ]
        )
        for i in range(9):
            for d in range(8):
                angle = i / 10_000 ** (2 * (d // 2) / 8)
                x[i, d] += math.cos(angle) if d % 2 else math.sin(angle)
        for n in range(2):
            name = f"layers.{n}"
            x = x + sparse(w, f"{name}.attention", x, heads=2, factor=2, seed=n)
            x = norm(w, f"{name}.norm1", x)
            y = linear(w, f"{name}.up", x)
            y = linear(w, f"{name}.down", y * (1 + torch.erf(y / math.sqrt(2))) / 2)
            x = norm(w, f"{name}.norm2", x + y)
        x = norm(w, "norm", x)
        x[len(values) :] = 0
        torch.testing.assert_close(row, x.flatten(), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_with_a_large_factor_every_query_is_answered():
    attention = ProbSparseAttention(8, 2, factor=100).double()
    x = torch.randn(3, 7, 8).double()
    q, k, v = (
        part(x).unflatten(2, (2, 4)).transpose(1, 2)
        for part in (attention.query, attention.key, attention.value)
    )
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(x), attention.out(whole))


@torch.no_grad()
def test_plain_convolutions_of_a_spectrum():
    net = backbone("cnn1d:length=40,width=6,kernel=3,pool=2", SERIES, 8).double()
    column = curves(40, 25)
    x, inside = at_length(SERIES, column.values, 40)
    assert inside.sum(1).tolist() == [40, 25]
    x = x.transpose(1, 2)
    convolutions = [m for m in net.body.layers if isinstance(m, torch.nn.Conv1d)]
    assert [c.out_channels for c in convolutions] == [6, 6, 3, 3]
    for i, c in enumerate(convolutions):
        x = torch.nn.functional.conv1d(x, c.weight, c.bias).relu()
        if i < 3:
            x = x[:, :, : x.shape[2] // 2 * 2].unflatten(2, (-1, 2)).amax(3)
    torch.testing.assert_close(net.body(column.values)[0], x.flatten(1))
    # the size of the authors' vectors: 32 channels of 37 steps
    assert backbone("cnn1d", SERIES, 8).body.width == 1184


@torch.no_grad()
def test_a_plain_perceptron():
    body = backbone("mlp:width=5,layers=2", TABLE, 8).body.double()
    values = torch.tensor([[3.0, 6.0], [0.0, 2.0]]).double()
    x = torch.tensor([[2.0, 1.0], [-1.0, 0.0]]).double()
    x = (x @ body.numbers.weight.T + body.numbers.bias).relu()
    x = (x @ body.blocks[1].weight.T + body.blocks[1].bias).relu()
    torch.testing.assert_close(body(values)[0], x, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("spec", ["informer:length=9,width=8,layers=1,heads=2", "cnn1d:length=300"])
def test_no_row_still_reaches_every_parameter(spec):
    net = backbone(spec, SERIES, 8)
    tokens = net(curves(), "curve", 3)
    assert not len(tokens)
    tokens.x.sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "spec, message",
    [("cnn1d:length=20", "leaves nothing"), ("informer:width=9,heads=2", "2 heads do not divide")],
)
def test_wrong_options(spec, message):
    with pytest.raises(AmodalError, match=message):
        backbone(spec, SERIES, 8)
