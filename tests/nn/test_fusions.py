"""Fusions of tokens against fusions of feature maps, written with convolutions; and what attention
does with any subset."""

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu

from amodal.core import AmodalError, Tokens
from amodal.nn.fusion.fusions import FUSIONS, AttentionFusion, fusion_of
from tests.nn.toys import bag_of, random

WIDTH, PLACES, ROWS = 24, 6, 3
FIELDS = ("front", "side", "top")


def maps():
    """field -> (rows, width, places)."""
    return {s: random(ROWS, WIDTH, PLACES, seed=i) for i, s in enumerate(FIELDS)}


def as_bags(maps):
    bags = {}
    for name, x in maps.items():
        bag = bag_of([PLACES] * ROWS, name, width=WIDTH)
        bags[name] = bag.with_x(x.transpose(1, 2).reshape(-1, WIDTH))
    return bags


def convolution(linear):
    conv = nn.Conv1d(linear.in_features, linear.out_features, 1).double()
    conv.weight.data, conv.bias.data = linear.weight.data[:, :, None], linear.bias.data
    return conv


def attended(net):
    return nn.Sequential(*(convolution(m) if isinstance(m, nn.Linear) else m for m in net))


def by_maps(name, fusion, x):
    """The paper's fusions on feature maps (rows, channels, places), averaged over places at the
    end."""
    if name == "sum":
        return sum(x.values()).mean(2)
    whole = torch.cat(list(x.values()), 1)
    if name == "conv":
        return convolution(fusion.linear)(whole).mean(2)
    if name == "se":
        weight = attended(fusion.gate)(whole.mean(2, keepdim=True)).sigmoid()
    else:
        weight = (
            attended(fusion.local)(whole) + attended(fusion.whole)(whole.mean(2, keepdim=True))
        ).sigmoid()
    return sum((whole * weight).chunk(3, 1)).mean(2)


@pytest.mark.parametrize("name", ["sum", "conv", "se", "aff"])
def test_on_tokens_as_on_feature_maps(name):
    torch.manual_seed(0)
    fusion, x = fusion_of(name, FIELDS, WIDTH).double(), maps()
    found = fusion(as_bags(x))
    assert found.rows.tolist() == [0, 1, 2]
    torch.testing.assert_close(found.values, by_maps(name, fusion, x))
    without = {
        s: x[s] if s != "side" else torch.zeros_like(x[s]) for s in FIELDS
    }  # an absent field is zero
    left = {s: bag for s, bag in as_bags(x).items() if s != "side"}
    torch.testing.assert_close(fusion(left).values, by_maps(name, fusion, without))


def by_hand(fusion, tokens, chain):
    """Blocks of attention on the tokens (n, D) of one row."""
    x = tokens
    for block in fusion.chains[chain] if len(x) else ():
        q, k, v = (
            block.attention.qkv(block.norm1(x))
            .view(len(x), 3, block.attention.heads, -1)
            .permute(1, 2, 0, 3)
        )
        seen = ((q @ k.transpose(1, 2)) / q.shape[-1] ** 0.5).softmax(2) @ v
        x = x + block.attention.out(seen.transpose(0, 1).flatten(1))
        x = x + block.down(gelu(block.up(block.norm2(x))))
    return x


@pytest.mark.parametrize("groups", [(), (("front", "top"), ("side",))])
def test_attention_adds_up_what_the_tokens_of_a_row_read(groups):
    torch.manual_seed(0)
    fusion = AttentionFusion(FIELDS, WIDTH, heads=4, groups=groups).double()
    bags = {
        s: bag_of(n, s, width=WIDTH, seed=i)
        for i, (s, n) in enumerate(zip(FIELDS, ([2, 0, 3], [1, 0, 0], [4, 0, 2])))
    }
    found = fusion(bags)
    assert found.rows.tolist() == [0, 2]
    for value, row in zip(found.values, (0, 2)):
        own = {
            s: b.x[b.row == row] + fusion.source[s] + fusion.positions[s](b.position[b.row == row])
            for s, b in bags.items()
        }
        sets = [torch.cat([own[s] for s in group]) for group in groups or [FIELDS]]
        read = torch.cat([by_hand(fusion, x, i) for i, x in enumerate(sets)])
        read = by_hand(fusion, read, len(sets)) if groups else read
        torch.testing.assert_close(value, read.sum(0))


def test_attention_reads_any_subset_and_does_not_see_what_is_absent():
    fusion = AttentionFusion(FIELDS, WIDTH, heads=4).double()
    bags = as_bags(maps())
    one = fusion({"side": bags["side"]}).values
    empty = bags["front"].keep(bags["front"].row < 0)
    torch.testing.assert_close(one, fusion({"front": empty, "side": bags["side"]}).values)
    assert not torch.allclose(one, fusion(bags).values)


def test_while_training_a_share_of_the_tokens_is_left_out_by_the_rows_seeds():
    fusion = AttentionFusion(FIELDS, WIDTH, heads=4, ratio=0.5, dropout=0.0).double()
    whole = Tokens.join(list(as_bags(maps()).values()))
    seeds = torch.tensor([5, 6, 7])
    sampled = fusion.sample(whole, seeds, 0)
    assert sampled.lengths().tolist() == [9, 9, 9]
    assert not torch.equal(sampled.x, fusion.sample(whole, seeds + 1, 0).x)
    bags = as_bags(maps())
    torch.testing.assert_close(fusion(bags, seeds).values, fusion(bags, seeds).values)
    assert not torch.allclose(fusion(bags, seeds).values, fusion(bags).values)
    loose = AttentionFusion(FIELDS, WIDTH, heads=4, ratio=0.0, dropout=0.5).double()
    assert not torch.allclose(loose(bags, seeds).values, loose(bags).values)


@pytest.mark.parametrize("name", FUSIONS)
def test_no_row_at_all_keeps_the_graph(name):
    fusion = fusion_of(name, FIELDS, WIDTH)
    bags = {s: bag_of([0, 0], s, width=WIDTH, dtype=torch.float32) for s in FIELDS}
    found = fusion(bags, torch.tensor([1, 2]))
    assert found.values.shape == (0, WIDTH)
    found.values.sum().backward() if found.values.requires_grad else None


def test_bad_options():
    with pytest.raises(AmodalError, match="Did you mean attention"):
        fusion_of("atention", FIELDS, WIDTH)
    with pytest.raises(AmodalError, match="groups"):
        fusion_of("sum", FIELDS, WIDTH, groups="front+side,top")
    with pytest.raises(AmodalError, match="divide"):
        fusion_of("attention", FIELDS, WIDTH, groups="front+side")
    with pytest.raises(AmodalError, match="ratio"):
        AttentionFusion(FIELDS, WIDTH, ratio=1.0)
    with pytest.raises(AmodalError, match="field of this fusion"):
        fusion_of("sum", FIELDS, WIDTH)({"back": bag_of([1], "back")})
