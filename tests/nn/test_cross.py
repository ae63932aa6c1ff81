"""CrossEncoder against a loop over rows and heads written from the formulas of attention."""

import pytest
import torch
import torch.nn.functional as F

from amodal.core import Ragged
from amodal.nn.attention.cross import CrossEncoder, grad_cam, join_lists, mean_token


def read(layer, x, y):
    """Attention of one row, head by head: (out (Q, D), weights (H, Q, K))."""
    q, kv = layer.query(x), layer.key_value(y)
    k, v = kv[:, : x.shape[1]], kv[:, x.shape[1] :]
    d = x.shape[1] // layer.heads
    mixed, weights = [], []
    for h in range(layer.heads):
        at = slice(h * d, (h + 1) * d)
        weights.append(torch.softmax(q[:, at] @ k[:, at].T / d**0.5, 1))
        mixed.append(weights[-1] @ v[:, at])
    return layer.out(torch.cat(mixed, 1)), torch.stack(weights)


def by_row(encoder, x, y):
    y = encoder.norm_keys(y)
    for block in encoder.blocks:
        x = x + read(block.self_attention, block.norm1(x), block.norm1(x))[0]
        other = (
            read(block.cross_attention, block.norm2(x), y)[0]
            if len(y)
            else block.cross_attention.out(torch.zeros_like(x))
        )
        x = x + other
        x = x + block.down(F.gelu(block.up(block.norm3(x))))
    return encoder.norm(x)


def encoder_of(depth=2):
    torch.manual_seed(0)
    encoder = CrossEncoder(8, depth, 2).double()
    with torch.no_grad():
        for p in encoder.parameters():  # biases that are not zero
            p.add_(torch.randn_like(p) * 0.1)
    return encoder


def lists(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(sum(lengths), 8, dtype=torch.float64, generator=generator).requires_grad_()
    return Ragged(flat, torch.tensor(lengths, dtype=torch.int64))


@pytest.mark.parametrize(
    "queries, keys", [((3, 1, 4), (2, 5, 0)), ((2, 2, 2), (3, 3, 3)), ((1, 0, 2), (4, 4, 4))]
)
def test_each_row_reads_its_own_keys(queries, keys):
    encoder, x, y = encoder_of(), lists(*queries), lists(*keys, seed=1)
    ours = encoder(x, y).flat
    theirs = torch.cat([by_row(encoder, a, b) for a, b in zip(x.split(), y.split())])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    weight = torch.randn_like(ours)
    leaves = [x.flat, y.flat, *encoder.parameters()]
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), leaves),
        torch.autograd.grad((theirs * weight).sum(), leaves),
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_watched_reading_is_the_same_reading_and_grad_cam_is_its_formula():
    encoder, x, y = encoder_of(), lists(3, 1), lists(2, 4, seed=1)
    out, weights = encoder.with_weights(x, y)
    torch.testing.assert_close(out.flat, encoder(x, y).flat, rtol=1e-9, atol=1e-11)
    score = mean_token(out).square().sum(1)
    maps = grad_cam(score, weights)
    block = encoder.blocks[-1]
    for i, (a, b) in enumerate(zip(x.split(), y.split())):
        b, first = encoder.norm_keys(b), encoder.blocks[0]
        a = a + read(first.self_attention, first.norm1(a), first.norm1(a))[0]
        a = a + read(first.cross_attention, first.norm2(a), b)[0]
        a = a + first.down(F.gelu(first.up(first.norm3(a))))
        a = a + read(block.self_attention, block.norm1(a), block.norm1(a))[0]
        weight = read(block.cross_attention, block.norm2(a), b)[1].detach().requires_grad_()

        def rest(weight, a=a, b=b):
            v = block.cross_attention.key_value(b)[:, 8:].unflatten(1, (2, 4)).transpose(0, 1)
            z = a + block.cross_attention.out((weight @ v).transpose(0, 1).flatten(1))
            z = z + block.down(F.gelu(block.up(block.norm3(z))))
            return encoder.norm(z).mean(0).square().sum()

        (slope,) = torch.autograd.grad(rest(weight), weight)
        torch.testing.assert_close(weights[i, :, : len(a), : len(b)], weight, rtol=1e-8, atol=1e-10)
        expected = (slope * weight).relu().mean(0)
        torch.testing.assert_close(maps[i, : len(a), : len(b)], expected, rtol=1e-7, atol=1e-10)
        assert (
            not maps[i, len(a) :].any()
            and not maps[i, :, len(b) :].any()
            and not maps.requires_grad
        )


def test_no_row_leaves_every_parameter_in_the_graph():
    encoder, x, y = encoder_of(), lists(), lists()
    out, weights = encoder.with_weights(x, y, 0)
    out.flat.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in encoder.parameters())
    assert not grad_cam(mean_token(out).sum(1), weights).numel()


def test_lists_are_joined_row_by_row():
    a, b = lists(2, 0, 1), lists(1, 3, 0, seed=1)
    joined = join_lists([a, b])
    for whole, *parts in zip(joined.split(), a.split(), b.split()):
        assert torch.equal(whole, torch.cat(parts))
    with pytest.raises(ValueError, match="row i reads row i"):
        encoder_of()(a, lists(1))
