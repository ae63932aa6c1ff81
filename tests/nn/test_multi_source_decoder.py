"""The decoder over several sources against a loop over rows, tokens and heads; beam search against
all texts there are."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from amodal.core import AmodalError, Ragged
from amodal.nn.generation.beam import beam_search
from amodal.nn.generation.multi_source_decoder import STRATEGIES, MultiSourceDecoder
from amodal.nn.positions import sincos

LENGTHS = {
    "words": [3, 0, 2, 4],
    "seen": [2, 3, 0, 2],
    "told": [3, 1, 0, 5],
}  # every row has a source


def made(strategy, sources=2):
    torch.manual_seed(0)
    decoder = MultiSourceDecoder(
        6, width=8, depth=2, heads=2, sources=sources, strategy=strategy
    ).double()
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    lists = {
        k: Ragged(torch.randn(sum(n), 6).double(), torch.tensor(n)) for k, n in LENGTHS.items()
    }
    return decoder, [lists["words"], lists["seen"]][:sources], lists["told"]


def attend(layer, x, y, causal=False):
    q, (k, v) = (
        layer.query(x).unflatten(1, (2, -1)),
        layer.key_value(y).unflatten(1, (2, 2, -1)).unbind(1),
    )
    out = torch.zeros_like(q)
    for t, h in itertools.product(range(len(x)), range(2)):
        keys = slice(0, t + 1) if causal else slice(None)
        out[t, h] = torch.softmax(k[keys, h] @ q[t, h] / q.shape[2] ** 0.5, 0) @ v[keys, h]
    return layer.out(out.flatten(1))


def read(block, x, sources):
    """given: the sources of one row, with their numbers."""
    if block.strategy == "serial":
        for i, y in sources:
            x = x + attend(block.source_attention[i], block.norms[i](x), y)
        return x
    query = block.norms[0](x)
    if block.strategy == "flat":
        return x + attend(block.source_attention[0], query, torch.cat([y for _, y in sources]))
    each = [attend(block.source_attention[i], query, y) for i, y in sources]
    if block.strategy == "parallel":
        return x + sum(each)
    both = torch.stack(each, 1)
    return x + torch.cat([attend(block.choice_attention, q[None], c) for q, c in zip(query, both)])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_are_decoded_as_in_a_loop_whatever_they_lack(strategy):
    decoder, sources, predicted = made(strategy)
    found = decoder(sources, predicted).split()
    for row, mine in enumerate(predicted.split()):
        present = [
            (i, decoder.source_projections[i](s.split()[row]))
            for i, s in enumerate(sources)
            if s.lengths[row]
        ]
        x = torch.cat([decoder.start[None], decoder.in_proj(mine)])
        steps = torch.arange(len(x)).double()
        x = x + sincos(torch.stack([steps, 0 * steps, 0 * steps], 1), 8)
        for block in decoder.blocks:
            own = block.norm1(x)
            x = read(block, x + attend(block.self_attention, own, own, causal=True), present)
            x = x + block.down(F.gelu(block.up(block.norm3(x))))
        torch.testing.assert_close(found[row], decoder.norm(x))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_any_source_a_row_is_decoded_from_itself_and_all_is_part_of_the_graph(strategy):
    decoder, sources, predicted = made(strategy)
    none = [Ragged(s.flat[:0], torch.zeros_like(s.lengths)) for s in sources]
    assert decoder(none, predicted).flat.isfinite().all()
    decoder(none, predicted).flat.sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())
    nobody = [Ragged(s.flat[:0], s.lengths[:0]) for s in sources]
    assert decoder(nobody, Ragged(predicted.flat[:0], predicted.lengths[:0])).flat.shape == (0, 8)


def test_a_token_knows_those_before_it_only():
    decoder, sources, predicted = made("serial")
    flat = predicted.flat.clone()
    flat[4 + 2] = 7.0  # the third token of the last row
    a, b = (
        decoder(sources, predicted).split()[3],
        decoder(sources, Ragged(flat, predicted.lengths)).split()[3],
    )
    assert torch.equal(a[:3], b[:3]) and not torch.allclose(a[3:], b[3:])


def test_an_unknown_strategy_offers_the_nearest():
    with pytest.raises(AmodalError, match="Did you mean parallel"):
        made("paralel")


TABLE = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(2)).mul(2).log_softmax(2)


def chances(ids, owner, parent):
    """Of three letters and the end, from the letter before (3 at the start) and the row."""
    last = ids[:, -1] if ids.shape[1] else torch.full_like(owner, 3)
    return TABLE[owner, last]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_the_best_of_all_texts(alpha):
    found = beam_search(chances, 3, beams=200, longest=4, alpha=alpha)
    for row in range(3):
        best = (None, -math.inf)
        for length in range(5):
            for text in itertools.product(range(3), repeat=length):
                path = [3, *text]
                log = sum(float(TABLE[row, a, b]) for a, b in zip(path, path[1:]))
                if length < 4:
                    log += float(TABLE[row, path[-1], 3])
                score = log / ((5 + min(length + 1, 4)) / 6) ** alpha
                best = max(best, (list(text), score), key=lambda pair: pair[1])
        assert found[row][0] == best[0] and found[row][1] == pytest.approx(best[1], abs=1e-5)


def test_one_beam_is_greedy():
    for row, (text, _) in enumerate(beam_search(chances, 3, beams=1, longest=6)):
        path = [3]
        while len(path) <= 6 and int(TABLE[row, path[-1]].argmax()) != 3:
            path.append(int(TABLE[row, path[-1]].argmax()))
        assert text == path[1:]
    assert beam_search(chances, 0) == []


class Counted(torch.nn.Module):
    """Counts the tokens that go through a linear map."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.tokens = layer, 0

    def forward(self, x):
        self.tokens += x.shape[0]
        return self.layer(x)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_decoder_with_a_cache_gives_what_a_whole_pass_gives(strategy):
    """Texts of some rows are written token by token; at each step some of them go on, in another
    order and perhaps twice."""
    decoder, sources, _ = made(strategy)
    generator = torch.Generator().manual_seed(4)
    decoding, owner, parent = decoder.begin(sources), torch.tensor([0, 1, 1, 3]), torch.arange(4)
    x = torch.zeros(4, 0, 6).double()
    for t in range(5):
        got = decoding.step(x[:, -1] if t else None, owner, parent)
        content = Ragged(x.flatten(0, 1), torch.full((len(owner),), t))
        states = decoder([s[owner] for s in sources], content)
        torch.testing.assert_close(
            got, states.flat[states.lengths.cumsum(0) - 1], rtol=1e-5, atol=1e-5
        )
        parent = torch.randint(0, len(owner), (6,), generator=generator)
        owner, new = owner[parent], torch.randn(6, 1, x.shape[2], generator=generator).to(x.dtype)
        x = torch.cat([x[parent], new], 1)


def test_the_cost_of_a_text_is_linear_in_its_length():
    torch.manual_seed(0)
    decoder = MultiSourceDecoder(8, width=8, depth=1, heads=2, sources=1)
    counted = decoder.blocks[0].up = Counted(decoder.blocks[0].up)
    read, embed = Ragged(torch.randn(4, 8), torch.tensor([1, 3])), torch.randn(4, 8)

    def written(longest):
        decoding, counted.tokens = decoder.begin([read]), 0

        def step(ids, owner, parent):
            state = decoding.step(embed[ids[:, -1]] if ids.shape[1] else None, owner, parent)
            chances = state[:, :5].log_softmax(1)
            return torch.cat([chances[:, :4], chances[:, 4:] - 30], 1)  # no end in sight

        beam_search(step, 2, beams=3, longest=longest)
        return counted.tokens

    assert written(5) == 2 * 3 * 5 and written(20) == 2 * 3 * 20
