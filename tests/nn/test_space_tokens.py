"""Tokens of a common space in several trunks, against one row at a time in dense matrices."""

import pytest
import torch
from test_deep_prompts import dense_block, trunk_of
from test_encoder import batch, close, encoder_of
from toys import WIDTH, bag_of, vectors

from amodal.core import AmodalError
from amodal.core.part import build
from amodal.nn.adapters.shared_space_tokens import SpaceMaps, SpaceTokens, space_tokens


def tokens_of(count=2, space=8, first=1, beta=1.0, rank=0, fields=("image", "text")):
    torch.manual_seed(1)
    options = {"count": count, "space": space, "first": first, "beta": beta, "rank": rank}
    return SpaceTokens(fields, WIDTH, 4, **options).double()


def reference(trunk, tokens, deep, field):
    """Of each row its tokens after the trunk, and what its space tokens have become (before the
    norm)."""
    out, became = torch.empty_like(tokens.x), []
    for row in sorted(set(tokens.row.tolist())):
        x = tokens.x[tokens.row == row]
        n = len(x)
        for i, block in enumerate(trunk.blocks):
            if i >= deep.first[field]:
                own = deep.maps[field](deep.bank, i - deep.first[field])
                own = own if i == deep.first[field] else deep.beta * own + (1 - deep.beta) * x[:-n]
                x = torch.cat([own, x[-n:]])
            x = dense_block(block, x)
        out[tokens.row == row] = trunk.norm(x[-n:])
        became.append(x[:-n])
    return out, torch.stack(became)


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("beta, rank, space", [(1.0, 0, 8), (0.9, 2, 8), (0.0, 0, 8), (1.0, 0, 0)])
def test_tokens_enter_go_on_and_are_collected(first, beta, rank, space):
    trunk, bag = trunk_of(4), bag_of([2, 0, 3, 1], "text:1")
    deep = tokens_of(first=first, beta=beta, rank=rank, space=space)
    with deep.collect() as collected_tokens:
        got = trunk(bag, block_hook=deep)
    want, became = reference(trunk, bag, deep, "text")
    torch.testing.assert_close(got.x, want)
    torch.testing.assert_close(collected_tokens["text"].values, became)
    assert collected_tokens["text"].rows.tolist() == [0, 2, 3] and got.names == bag.names
    assert torch.equal(trunk(bag, block_hook=deep).x, got.x)
    got.x.sum().backward()
    missed = {
        n for n, p in deep.named_parameters() if p.grad is None and "image" not in n and p.numel()
    }
    assert not missed


def test_a_shared_map_is_the_same_for_all_blocks_until_its_residuals_learn():
    torch.manual_seed(0)
    maps, x = SpaceMaps(8, 6, 3, rank=2), torch.randn(5, 8)
    plain = [torch.nn.functional.linear(x, maps.weight, b) for b in maps.bias]
    for i in range(3):
        torch.testing.assert_close(maps(x, i), plain[i])
        torch.testing.assert_close(maps(x, i), maps(x, 0))
    with torch.no_grad():
        maps.residual[1].b.normal_()
    changed = x @ (maps.weight + maps.residual[1].b @ maps.residual[1].a).T + maps.bias[1]
    torch.testing.assert_close(maps(x, 1), changed)
    torch.testing.assert_close(maps(x, 2), plain[2])


def test_with_beta_1_and_residuals_of_full_rank_it_is_mmrl():
    leaner, whole = tokens_of(rank=WIDTH), tokens_of()
    with torch.no_grad():
        whole.bank.copy_(leaner.bank)
        for field, maps in leaner.maps.items():
            for i, residual in enumerate(maps.residual):
                residual.b.normal_()
                whole.maps[field].linears[i].weight.copy_(residual(maps.weight))
                whole.maps[field].linears[i].bias.copy_(maps.bias[i])
    trunk, bag = trunk_of(4), bag_of([2, 3], "image")
    torch.testing.assert_close(trunk(bag, block_hook=leaner).x, trunk(bag, block_hook=whole).x)
    count = {
        d: sum(p.numel() for p in d.parameters())
        for d in (tokens_of(space=64, rank=2), tokens_of(space=64))
    }
    assert min(count.values()) == list(count.values())[0] < list(count.values())[1] / 2


def test_an_encoder_keeps_them():
    encoder, whole = encoder_of("separate"), batch()
    before = vectors(encoder(whole))
    encoder.set_block_hook(
        space_tokens(encoder, fields=["text"], count=2, space=8, rank=2, beta=0.5).double()
    )
    after = vectors(encoder(whole))
    assert all(torch.equal(after[k], before[k]) == (k[1] == "image") for k in before)
    rebuilt = build(encoder.block_hook.spec).double()
    rebuilt.load_state_dict(encoder.block_hook.state_dict())
    encoder.set_block_hook(rebuilt)
    close(vectors(encoder(whole)), after)


def test_what_does_not_go_together_is_said():
    with pytest.raises(AmodalError, match='trunk="joint"'):
        space_tokens(encoder_of("joint"))
    with pytest.raises(AmodalError, match="block 4 of 4"):
        tokens_of(first=4)
