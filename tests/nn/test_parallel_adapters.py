"""Adapters and prompts between the blocks of trunks that run side by side, and classes told over
time, against slow references."""

import pytest
import torch
from torch.nn.functional import gelu

from amodal.core import AmodalError
from amodal.modalities import make
from amodal.nn import config
from amodal.nn.adapters.parallel_adapters import parallel_adapters
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.temporal import TemporalHead, class_weights, steps_of
from tests.nn.toys import bag_of

FIELDS = ("face", "voice", "hand")


def made(pool="mean", trunk="separate", **options):
    torch.manual_seed(0)
    encoder = Encoder(
        {s: make("image", size=8, patch=4) for s in FIELDS}, size="nano", pool=pool, trunk=trunk
    ).double()
    deep = parallel_adapters(
        encoder, **({"prompts": 2, "every": 1, "bottleneck": 5} | options)
    ).double()
    for p in deep.parameters():  # gates begin at zero, where nothing is exchanged
        p.data.add_(torch.randn_like(p) * 0.3)
    encoder.set_block_hook(deep)
    return encoder, deep


def bags():
    lengths = {"face": [3, 2, 0, 2], "voice": [2, 0, 4, 1], "hand": [1, 0, 0, 0]}
    return {s: bag_of(n, s, width=64, seed=i) for i, (s, n) in enumerate(lengths.items())}


def attended(block, x):
    a = block.attention
    q, k, v = a.qkv(block.norm1(x)).view(len(x), 3, a.heads, -1).permute(1, 2, 0, 3)
    x = x + a.out(
        (((q @ k.transpose(1, 2)) / q.shape[-1] ** 0.5).softmax(2) @ v).transpose(0, 1).flatten(1)
    )
    return x + block.down(gelu(block.up(block.norm2(x))))


def by_hand(encoder, deep, row, bags, meet=True):
    """Block by block, for one row."""
    streams = {
        s: torch.cat([deep.start[s], b.x[b.row == row]])
        for s, b in bags.items()
        if (b.row == row).any()
    }
    for layer in range(deep.depth):
        streams = {s: attended(encoder.trunks[s].blocks[layer], x) for s, x in streams.items()}
        low = {s: deep.down[s][layer](x) for s, x in streams.items()}
        for s, x in streams.items():
            others = [v.mean(0) for o, v in low.items() if o != s] if meet else []
            heard = sum(others) / len(others) if others else 0.0
            streams[s] = x + deep.gate[s][layer].tanh() * gelu(deep.up[s][layer][0](low[s] + heard))
        for s in streams:
            streams[s][layer * 2 : layer * 2 + 2] += deep.later[s][layer]
    return {s: encoder.trunks[s].norm(x[len(deep.start[s]) :]) for s, x in streams.items()}


@pytest.mark.parametrize("meet", [True, False])
def test_block_by_block_fields_hear_the_mean_of_the_others(meet):
    encoder, deep = made()
    own = bags()
    found = deep.together(encoder, own, meet)
    for row in range(4):
        for s, x in by_hand(encoder, deep, row, own, meet).items():
            torch.testing.assert_close(found[s].x[found[s].row == row], x)


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_a_field_alone_is_what_the_encoder_makes_of_it(pool, trunk):
    encoder, deep = made(pool, trunk)
    own = bags()
    for s in FIELDS:
        alone, encoded = deep.together(encoder, {s: own[s]})[s], encoder.encode({s: own[s]})[s]
        torch.testing.assert_close(alone.x, encoded.x)
        assert len(encoder.pools[s].strip(alone)) == len(own[s])


def test_gates_begin_closed_so_that_frozen_encoders_are_as_they_were():
    encoder, _ = made()
    plain, own = encoder.encode, bags()
    encoder.set_block_hook(None)
    before = plain(own)
    deep = parallel_adapters(encoder, prompts=0, bottleneck=4).double()
    after = deep.together(encoder, own)
    for s in FIELDS:
        torch.testing.assert_close(after[s].x, before[s].x)


def test_a_saved_encoder_keeps_them():
    encoder, deep = made(prompts=1, every=2, bottleneck=3)
    rebuilt = config.build(encoder.spec).double()
    rebuilt.load_state_dict(encoder.state_dict())
    own = bags()
    torch.testing.assert_close(rebuilt.encode(own)["face"].x, encoder.encode(own)["face"].x)
    assert rebuilt.block_hook.spec == deep.spec


def test_bad_options():
    with pytest.raises(AmodalError, match="not both 0"):
        made(prompts=0, bottleneck=0)
    with pytest.raises(AmodalError, match="joint"):
        made(trunk="joint")


def test_steps_are_means_of_what_stands_at_one_moment():
    bag = bag_of([5, 0, 3], "face", width=4)
    bag.position[:, 0] = torch.tensor([0.0, 1, 1, 0, 2, 1, 1, 0.5])
    steps = steps_of(bag)
    assert steps.row.tolist() == [0, 0, 0, 2, 2] and steps.position[:, 0].tolist() == [
        0,
        1,
        2,
        0.5,
        1,
    ]
    x = bag.x
    torch.testing.assert_close(
        steps.x, torch.stack([(x[0] + x[3]) / 2, (x[1] + x[2]) / 2, x[4], x[7], (x[5] + x[6]) / 2])
    )
    assert len(steps_of(bag.keep(bag.row < 0))) == 0


def test_each_step_is_joined_by_the_mean_of_the_other_fields():
    torch.manual_seed(0)
    head = TemporalHead(FIELDS, "face", 64, 12, 1, 2, 3).double()
    head.trunk = torch.nn.Identity()  # what enters it is what is tested
    head.cls = type(
        "Sum",
        (torch.nn.Module,),
        {"prepare": lambda self, b: b, "forward": lambda self, b: b.pool()},
    )()
    head.head = torch.nn.Identity()
    own = {s: b.with_x(b.x) for s, b in bags().items()}
    for b in own.values():
        b.position.zero_()
    found = head(own)
    assert found.rows.tolist() == [0, 1, 2, 3]
    mean = {
        s: {r: b.x[b.row == r].mean(0) for r in b.row.unique().tolist()} for s, b in own.items()
    }
    expected = [
        mean["face"][0] + (mean["voice"][0] + mean["hand"][0]) / 2,
        mean["face"][1],
        mean["voice"][2],
        mean["face"][3] + mean["voice"][3],
    ]
    at_zero = torch.zeros(12, dtype=torch.float64)
    at_zero[6:] = 1  # cosines of position 0
    torch.testing.assert_close(found.values, head.project(torch.stack(expected)) + at_zero)


def test_classes_weigh_the_same():
    label = torch.tensor([0, 0, 0, 2])
    weight = class_weights(label, 4)
    assert weight.tolist() == [pytest.approx(4 / 6), 1.0, 2.0, 1.0]
    torch.testing.assert_close(weight[label].sum(), torch.tensor(4.0, dtype=torch.float64))
