"""Gates, pyramids and decoders of maps against their published formulas, written out."""

import pytest
import torch
from torch.nn.functional import conv2d

from amodal.core import Column, Embeddings
from amodal.nn.heads.maps import AtrousPyramid, GatedFusion, MapDecoder, MapNorm, Unfold
from amodal.nn.heads.segmenter import DEEP, EARLY, Segmenter

torch.set_num_threads(1)


def settled(module):
    """With running statistics and scales that are not those of a new BatchNorm, and then in
    evaluation."""
    for m in module.modules():
        if isinstance(m, MapNorm):
            for tensor in (m.running_mean, m.weight.data, m.bias.data):
                tensor.normal_()
            m.running_var.uniform_(0.5, 2)
    return module.double().eval()


def normal(m: MapNorm, x):
    y = torch.zeros_like(x)
    for c in range(x.shape[1]):
        y[:, c] = (x[:, c] - m.running_mean[c]) / (m.running_var[c] + m.eps) ** 0.5 * m.weight[
            c
        ] + m.bias[c]
    return y


def by_hand(x, conv, rate=1):
    """A convolution with zeros around, one output value at a time."""
    n, _, h, w = x.shape
    weight, reach = conv.weight, conv.weight.shape[-1] // 2
    y = torch.zeros(n, len(weight), h, w, dtype=x.dtype)
    for k in range(n):
        for i in range(h):
            for j in range(w):
                for o in range(len(weight)):
                    total = 0 if conv.bias is None else conv.bias[o]
                    for a in range(-reach, reach + 1):
                        for b in range(-reach, reach + 1):
                            u, v = i + a * rate, j + b * rate
                            if 0 <= u < h and 0 <= v < w:
                                total = (
                                    total
                                    + (weight[o, :, a + reach, b + reach] * x[k, :, u, v]).sum()
                                )
                    y[k, o, i, j] = total
    return y


def test_a_gate_is_a_bottleneck_on_all_maps_and_multiplies_each_value():
    torch.manual_seed(0)
    block = settled(GatedFusion(4, 3, squeeze=6, out=5))
    maps = [torch.randn(1, 4, 3, 3, dtype=torch.float64) for _ in range(3)]
    squeeze, _, expand, _ = block.gate
    assert squeeze.weight.shape == (2, 12, 3, 3) and expand.weight.shape == (
        12,
        2,
        3,
        3,
    )  # 3 C / eta
    with torch.no_grad():
        x = torch.cat(maps, 1)
        gate = 1 / (1 + torch.exp(-by_hand(by_hand(x, squeeze).clamp(min=0), expand)))
        expected = normal(block.mix[1], by_hand(gate * x, block.mix[0]))
        torch.testing.assert_close(block(maps), expected)
        mean = torch.stack([gate[:, 4 * s : 4 * s + 4].mean(1) for s in range(3)], 1)
        torch.testing.assert_close(block.gates(maps), mean)
        skips = GatedFusion(4, 3, squeeze=6, side=3, norm=False, gated=False).double()
        torch.testing.assert_close(skips(maps), by_hand(x, skips.mix))
        assert (skips.gates(maps) == 1).all()


def test_the_widths_of_the_authors_code():
    deep, skip = GatedFusion(256, 2), GatedFusion(24, 2, squeeze=6, side=3, norm=False)
    assert [deep.gate[0].out_channels, deep.gate[2].out_channels, deep.mix[0].out_channels] == [
        32,
        512,
        256,
    ]
    assert [skip.gate[0].out_channels, skip.gate[2].out_channels, skip.mix.out_channels] == [
        8,
        48,
        24,
    ]
    assert deep.mix[0].kernel_size == (1, 1) and skip.mix.kernel_size == (3, 3)


def test_an_atrous_pyramid_is_five_branches():
    torch.manual_seed(1)
    pyramid = settled(AtrousPyramid(3, 8, rates=(1, 2, 3)))
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)

    def step(x, part, rate=1, act=True):
        y = normal(part[1], by_hand(x, part[0], rate))
        return y.clamp(min=0) if act else y

    with torch.no_grad():
        here, *around = pyramid.branches
        branches = [step(x, here)]
        for rate, branch in zip((1, 2, 3), around):
            y = step(x, branch[0])
            assert y.shape[1] == 2  # a quarter
            branches.append(step(step(step(y, branch[1], rate), branch[2], rate), branch[3]))
        whole = step(
            torch.stack([x[:, c].mean((1, 2)) for c in range(3)], 1)[:, :, None, None],
            pyramid.whole,
        )
        branches.append(whole.repeat(1, 1, 5, 5))
        torch.testing.assert_close(pyramid(x), step(torch.cat(branches, 1), pyramid.mix, act=False))


def test_a_skip_weighs_what_the_decoder_says_of_the_whole_map():
    torch.manual_seed(2)
    decoder = settled(MapDecoder(6, 2, 3))
    x = torch.randn(2, 6, 2, 2, dtype=torch.float64)
    skips = [torch.randn(2, 2, k, k, dtype=torch.float64) for k in (4, 8)]
    with torch.no_grad():
        y, deep = x, []
        for stage, head, skip in zip(decoder.stages, decoder.deep, skips):
            y = normal(
                stage.up[1],
                torch.nn.functional.conv_transpose2d(y, stage.up[0].weight, stride=2, padding=1),
            )
            deep.append(normal(head[1], by_hand(y, head[0])))
            weight = normal(
                stage.skip_gate[1], by_hand(y.mean((2, 3), keepdim=True), stage.skip_gate[0])
            ).clamp(min=0)
            assert weight.shape == (2, 2, 1, 1)
            y = torch.cat([y, weight * skip], 1)
            for part in stage.mix:
                y = normal(part[1], conv2d(y, part[0].weight, padding=1)).clamp(min=0)
        scores, found = decoder(x, skips)
        assert scores.shape == (2, 3, 8, 8)
        torch.testing.assert_close(scores, by_hand(y, decoder.last))
        torch.testing.assert_close(found, deep)


def test_a_token_unfolds_where_it_was():
    torch.manual_seed(3)
    unfold = settled(Unfold(5, 2, 2))
    x = torch.randn(1, 5, 3, 3, dtype=torch.float64)
    moved = x.clone()
    moved[0, :, 1, 2] += 1
    changed = ((unfold(moved) - unfold(x)).abs() > 1e-9).any(1)[0]
    assert changed[2:4, 4:6].all() and changed.sum() == 4


@pytest.mark.parametrize("rows", [0, 1])
def test_a_norm_of_one_value_or_none_uses_what_it_has_seen(rows):
    norm = MapNorm(3).train()
    norm.running_mean.fill_(2.0)
    found = norm(torch.full((rows, 3, 1, 1), 5.0))
    torch.testing.assert_close(found, torch.full((rows, 3, 1, 1), 3.0), rtol=1e-4, atol=1e-4)


def maps(*rows_of_fields):
    columns = {}
    for s, rows in enumerate(rows_of_fields):
        for level in (DEEP, EARLY):
            x = torch.randn(len(rows), 4, 1 + s, 1 + s, dtype=torch.float64)
            columns[f"{level}/s{s}"] = Column(x, torch.tensor(rows))
    return Embeddings(columns, 5)


def test_experts_that_a_row_has_are_averaged_and_a_lacking_field_is_zeros():
    torch.manual_seed(4)
    network = settled(Segmenter(["s0", "s1"], 4, 2, 3, width=8, skip=4))
    z, rows = maps([0, 1, 4], [1, 2, 4]), torch.tensor([0, 1, 2])
    with torch.no_grad():
        one, other = (network.expert(z, s).values.softmax(1) for s in ("s0", "s1"))
        assert one.shape == (3, 3, 2, 2)  # a field of one value says it at every place
        expected = torch.stack([one[0], (one[1] + other[0]) / 2, other[1]])
        torch.testing.assert_close(network.late(z, rows).exp(), expected)
        inputs = network._deep(z, rows)
        assert (inputs[1][0] == 0).all() and (inputs[0][2] == 0).all() and (inputs[0][0] != 0).any()
        scores, deep = network(z, rows)
        assert scores.shape == (3, 3, 8, 8) and [d.shape[2] for d in deep] == [4, 8]
        whole, _ = network(z, torch.tensor([1]))
        torch.testing.assert_close(whole[0], scores[1])
