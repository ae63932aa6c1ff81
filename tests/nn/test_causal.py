"""The causal decoder against a loop over rows and tokens, and what each token may know."""

import pytest
import torch
import torch.nn.functional as F

from amodal.core import Column, Tokens
from amodal.nn.attention.cache import KeyValueCache
from amodal.nn.generation.causal import CausalDecoder
from amodal.nn.positions import sincos

ROWS, LENGTHS = torch.tensor([0, 2, 3]), torch.tensor([3, 1, 5])


def parts(seed=0):
    torch.manual_seed(seed)
    content = Tokens.of(
        torch.randn(9, 6).double(), ROWS, LENGTHS, torch.randn(9, 3).double(), "events", 5
    )
    decoder = CausalDecoder(6, width=8, depth=2, heads=2).double()
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return decoder, Column(torch.randn(3, 6).double(), ROWS), content


def attention(layer, x):
    """Token by token, head by head."""
    q, k, v = layer.qkv(x).unflatten(1, (3, layer.heads, -1)).unbind(1)
    out = torch.zeros_like(q)
    for t in range(len(x)):
        for h in range(layer.heads):
            weights = torch.softmax(k[: t + 1, h] @ q[t, h] / q.shape[2] ** 0.5, 0)
            out[t, h] = weights @ v[: t + 1, h]
    return layer.out(out.flatten(1))


def test_rows_are_decoded_as_in_a_loop_with_cross_attention_to_one_vector():
    decoder, whole, content = parts()
    found = decoder(whole, content).x
    for i, row in enumerate(ROWS.tolist()):
        h, mine = whole.values[i], content.x[content.row == row]
        x = torch.stack([decoder.start(h), *(decoder.in_proj(m) for m in mine[:-1])])
        steps = torch.arange(len(mine)).double()
        x = x + sincos(torch.stack([steps, 0 * steps, 0 * steps], 1), 8)
        for block, predicted in zip(decoder.blocks, decoder.context):
            memory = predicted(h).unsqueeze(0)
            x = (
                x + torch.softmax(x @ memory.T, 1) @ memory
            )  # one key: its weight is 1 whatever the query
            x = x + attention(block.attention, block.norm1(x))
            x = x + block.down(F.gelu(block.up(block.norm2(x))))
        torch.testing.assert_close(found[content.row == row], decoder.norm(x))


@pytest.mark.parametrize("token", [0, 1, 2])
def test_a_token_and_its_position_do_not_reach_its_own_prediction(token):
    decoder, whole, content = parts()
    found = decoder(whole, content).x
    changed = content.x.clone().index_fill(0, torch.tensor([token]), 7.0)
    other = Tokens(
        changed, content.row, content.source, content.position + 5, content.names, content.size
    )
    rebuilt = decoder(whole, other).x
    assert torch.equal(rebuilt[: token + 1], found[: token + 1]) and torch.equal(
        rebuilt[3:], found[3:]
    )
    assert token == 2 or not torch.allclose(rebuilt[token + 1 : 3], found[token + 1 : 3])


def test_no_token_at_all():
    decoder, whole, content = parts()
    none = decoder(whole.at(torch.tensor([], dtype=torch.int64)), content.keep(content.row < 0))
    assert none.x.shape == (0, 8)
    none.x.sum().backward()
    assert decoder.in_proj.weight.grad is not None


def test_token_by_token_with_a_cache_is_the_whole_pass():
    decoder, whole, _ = parts()
    content = Tokens.of(
        torch.randn(12, 6).double(),
        ROWS,
        torch.full((3,), 4),
        torch.randn(12, 3).double(),
        "events",
        5,
    )
    want, cache, passed = decoder(whole, content).x.view(3, 4, 8), KeyValueCache(), []
    decoder.blocks[0].up.register_forward_hook(lambda module, args, out: passed.append(len(out)))
    for t in range(4):
        last = content.x.view(3, 4, 6)[:, t - 1] if t else None
        torch.testing.assert_close(decoder.step(whole, last, cache), want[:, t])
    assert passed == [3] * 4  # a token of each row, and none of those before
