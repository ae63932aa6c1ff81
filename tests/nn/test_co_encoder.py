"""Co-attention against a loop over rows, layers and streams."""

import torch
from torch.nn.functional import gelu, scaled_dot_product_attention

from amodal.core import Ragged
from amodal.nn.fusion.co_encoder import CoEncoder

WIDTH, HEADS = 8, 2


def lists():
    g = torch.Generator().manual_seed(0)
    lengths = {"a": [3, 1, 0, 2], "b": [2, 0, 2, 4], "c": [1, 2, 0, 0]}
    return {
        s: Ragged(torch.randn(sum(n), WIDTH, generator=g), torch.tensor(n))
        for s, n in lengths.items()
    }


def attend(part, x, y):
    """One row's tokens x read the tokens y."""
    q = part.query(x).unflatten(1, (HEADS, -1)).transpose(0, 1)
    k, v = (t.unflatten(1, (HEADS, -1)).transpose(0, 1) for t in part.key_value(y).chunk(2, 1))
    return part.out(scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1))


@torch.no_grad()
def test_streams_read_each_other_layer_by_layer():
    torch.manual_seed(0)
    net, features = CoEncoder(["a", "b", "c"], WIDTH, 2, HEADS).double(), lists()
    features = {s: Ragged(t.flat.double(), t.lengths) for s, t in features.items()}
    for names in (("a", "b"), ("a", "b", "c")):
        asked = {s: features[s] for s in names}
        got = {s: t.split() for s, t in net(asked).items()}
        for row in range(4):
            x = {s: asked[s].split()[row] for s in names}
            for layer in range(2):
                after = {}
                for s in names:
                    block, rest = net.blocks[s][layer], torch.cat([x[o] for o in names if o != s])
                    own = block.norm1(x[s])
                    y = x[s] + attend(block.self_attention, own, own) if len(own) else x[s]
                    if len(rest) and len(y):
                        y = y + attend(
                            block.cross_attention, block.norm2(y), net.keys[s][layer](rest)
                        )
                    elif len(y):
                        y = y + block.cross_attention.out.bias
                    after[s] = y + block.down(gelu(block.up(block.norm3(y))))
                x = after
            for s in names:
                torch.testing.assert_close(got[s][row], net.norms[s](x[s]))


def test_means_stand_side_by_side_and_nothing_is_zero():
    net, features = CoEncoder(["a", "b"], WIDTH, 1, HEADS), lists()
    features.pop("c")
    means, read = net.means(features), net(features)
    assert (
        means.shape == (4, 2 * WIDTH) and not means[2, :WIDTH].any() and not means[1, WIDTH:].any()
    )
    torch.testing.assert_close(means[0, WIDTH:], read["b"].split()[0].mean(0))
