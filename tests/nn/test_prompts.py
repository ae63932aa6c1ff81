"""Read-only prompts: the field does not notice them, and each row's prompts are of that row alone."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.nn.adapters.bitfit import bitfit
from amodal.nn.adapters.read_only_prompts import ReadOnlyPrompts, trunk_of
from amodal.nn.encoder import Encoder
from tests.methods.bench import batch, exact, fields

TWO = ("picture", "words")


def made(count=3, **options):
    torch.manual_seed(0)
    encoder = exact(Encoder(fields(TWO), size="nano", **options)).eval()
    return encoder, exact(ReadOnlyPrompts(encoder, count))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trunk": "shared"},
        {"pool": "cls"},
        {"positions": "rotary"},
        {"mixer": "gru"},
        {"pool": "attention"},
    ],
)
def test_the_tokens_are_what_they_are_without_prompts(options):
    encoder, prompts = made(**options)
    bags = encoder.tokenize(exact(batch(("plain",), sources=TWO)))
    context, states = prompts(encoder, bags)
    plain = encoder.encode(bags)
    for s in TWO:
        torch.testing.assert_close(context[s].x, plain[s].x, rtol=1e-9, atol=1e-12)
        assert torch.equal(context[s].row, plain[s].row) and context[s].names == plain[s].names
        assert states[s].values.shape == (len(plain[s].row.unique()), 3 * encoder.width)
        assert torch.equal(states[s].rows, plain[s].row.unique())
        pooled = encoder.pools[s](context[s])
        torch.testing.assert_close(
            pooled.values, encoder.pools[s](plain[s]).values, rtol=1e-9, atol=1e-12
        )


def test_a_prompt_is_read_by_hand():
    """One row, block by block: the keys of a prompt are all tokens and all prompts, those of a
    token the tokens alone."""
    encoder, prompts = made(2)
    bag = encoder.tokenize(exact(batch(("plain",), sources=TWO)))["picture"]
    row = int(bag.row[0])
    found = prompts(encoder, {"picture": bag})[1]["picture"]
    x = torch.cat([bag.x[bag.row == row], prompts.tokens["picture"]])
    n, trunk = int((bag.row == row).sum()), trunk_of(encoder, "picture")
    may = torch.ones(n + 2, n + 2, dtype=torch.bool)
    may[:n, n:] = False
    for block in trunk.blocks:
        q, k, v = (
            block.attention.qkv(block.norm1(x))
            .unflatten(1, (3, block.attention.heads, -1))
            .unbind(1)
        )
        score = torch.einsum("qhd,khd->hqk", q, k) / q.shape[2] ** 0.5
        read = torch.einsum("hqk,khd->qhd", score.masked_fill(~may, -torch.inf).softmax(2), v)
        x = x + block.attention.out(read.flatten(1))
        x = x + block.down(torch.nn.functional.gelu(block.up(block.norm2(x))))
    torch.testing.assert_close(found.values[0], trunk.norm(x)[n:].flatten(), rtol=1e-9, atol=1e-12)


def test_without_a_row_prompts_stay_part_of_the_graph():
    encoder, prompts = made()
    bags = encoder.tokenize(exact(batch(("plain",), sources=TWO, absent=("words",))))
    states = prompts(encoder, bags)[1]
    assert len(states["words"]) == 0
    states["words"].values.sum().backward()
    assert prompts.tokens["words"].grad is not None


def test_where_fields_meet_prompts_are_refused():
    with pytest.raises(AmodalError, match="joint"):
        made(trunk="joint")
    with pytest.raises(AmodalError, match="at least one"):
        made(0)


def test_bitfit_leaves_biases_and_what_was_frozen():
    encoder, _ = made()
    encoder.trunks["words"].requires_grad_(False)
    for _ in range(2):
        bitfit(encoder)
        learning = {n for n, p in encoder.named_parameters() if p.requires_grad}
        assert learning and all(n.endswith("bias") and "trunks.words" not in n for n in learning)
        assert "trunks.picture.blocks.0.attention.qkv.bias" in learning
