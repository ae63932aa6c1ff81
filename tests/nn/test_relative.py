"""Relative positions as a learned bias of attention, and learned factors of what blocks add."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.core import part as parts
from amodal.nn.attention.relative import RelativeBias
from amodal.nn.encoder import Encoder
from amodal.nn.positions import additive, relative_side
from tests.methods.bench import batch, exact, fields

SMALL = fields(("picture", "words"))


def filled(bias, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in bias.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return bias.double()


def test_whole_differences_read_one_number_of_the_table():
    bias = filled(RelativeBias(3, 4))
    query = torch.tensor([[[0.0, 0, 0], [0, 1, 3]]]).double()
    key = torch.tensor([[[0.0, 2, 1], [5, 0, 0], [0, 3, 0]]]).double()
    made = bias(query, key)
    assert made.shape == (1, 3, 2, 3)
    for q in range(2):
        for k in range(3):
            time, y, x = (query[0, q] - key[0, k]).int().tolist()
            time = max(-3, min(3, time))
            expected = bias.plane[:, 3 + y, 3 + x] + bias.line[:, 3 + time]
            torch.testing.assert_close(made[0, :, q, k], expected)


def test_other_differences_lie_between_and_far_ones_are_the_farthest():
    bias, origin = filled(RelativeBias(2, 3)), torch.zeros(1, 1, 3).double()

    def at(y, x):
        return bias(torch.tensor([[[0.0, y, x]]]).double(), origin)[0, :, 0, 0]

    torch.testing.assert_close(at(0.5, 0), (at(0, 0) + at(1, 0)) / 2)
    torch.testing.assert_close(at(0.25, 1.5), torch.lerp(
        (at(0, 1) + at(0, 2)) / 2, (at(1, 1) + at(1, 2)) / 2, torch.tensor(0.25).double()
    ))  # fmt: skip
    torch.testing.assert_close(at(-7, 9), at(-2, 2))
    one = filled(RelativeBias(2, 1))
    assert torch.equal(one(origin + 4, origin), one(origin, origin))


def test_relative_positions_of_an_encoder_learn_and_add_nothing_else():
    torch.manual_seed(0)
    encoder = exact(Encoder(SMALL, size="nano", trunk="joint", positions="relative:4"))
    rows = exact(batch(("plain",), sources=("picture", "words")))
    before = encoder(rows)
    # a table of zeros: no position at all
    torch.manual_seed(0)
    none = exact(Encoder(SMALL, size="nano", trunk="joint", positions="none"))
    torch.testing.assert_close(before["picture"].values, none(rows)["picture"].values)
    filled(encoder.relative)
    after = encoder(rows)
    assert not torch.allclose(before["picture"].values, after["picture"].values)
    after["picture"].values.square().sum().backward()
    assert encoder.relative.plane.grad.abs().sum() > 0
    rebuilt = exact(parts.build(encoder.spec))
    rebuilt.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(rebuilt(rows)["words"].values, after["words"].values)
    for row in range(rows.size):
        single = encoder(rows.between(row, row + 1))
        for source in single.sources:
            mine = after[source].values[after[source].rows == row]
            torch.testing.assert_close(single[source].values, mine)


def test_a_copy_of_an_encoder_has_a_table_of_its_own():
    import copy

    encoder = exact(Encoder(SMALL, size="nano", positions="relative"))
    twin, rows = copy.deepcopy(encoder), exact(batch(("plain",), sources=("picture", "words")))
    filled(twin.relative)
    assert not encoder.relative.plane.any()
    changed, same = twin(rows)["picture"].values, encoder(rows)["picture"].values
    assert not torch.allclose(changed, same)


def test_kinds_of_relative_positions():
    assert relative_side("relative") == 32 and relative_side("relative:7") == 7
    assert relative_side("grid:7") == relative_side("relative:x") == 0
    assert additive("relative:7", 64) is None
    for kind in ("relative:x", "relatives", "relative:0"):
        with pytest.raises(AmodalError, match="relative"):
            Encoder(SMALL, size="nano", positions=kind)
    with pytest.raises(AmodalError, match="bias of attention"):
        Encoder(fields(("signal",)), size="nano", positions="relative", mixer="gru")


@pytest.mark.parametrize("trunk", ["joint", "separate", "shared"])
def test_layer_scale(trunk):
    torch.manual_seed(0)
    plain = exact(Encoder(SMALL, size="nano", trunk=trunk))
    torch.manual_seed(0)
    scaled = exact(Encoder(SMALL, size="nano", trunk=trunk, layer_scale=0.1))
    rows = exact(batch(("plain",), sources=("picture", "words")))
    extra = scaled.state_dict().keys() - plain.state_dict().keys()
    assert extra and all(name.endswith((".scale1.gain", ".scale2.gain")) for name in extra)
    for name in extra:
        torch.testing.assert_close(
            scaled.state_dict()[name], torch.full((64,), 0.1).double(), rtol=1e-6, atol=0
        )
    assert not torch.allclose(plain(rows)["words"].values, scaled(rows)["words"].values)
    # a factor in front is the same as smaller weights behind
    with torch.no_grad():
        for net in scaled.trunks.values():
            for block in net.blocks:
                block.scale1.gain.fill_(1.0)
                block.scale2.gain.fill_(1.0)
    torch.testing.assert_close(plain(rows)["words"].values, scaled(rows)["words"].values)
    rebuilt = exact(parts.build(scaled.spec))
    rebuilt.load_state_dict(scaled.state_dict())
    torch.testing.assert_close(rebuilt(rows)["words"].values, scaled(rows)["words"].values)


@pytest.mark.parametrize("options, message", [
    ({"layer_scale": -1.0}, "above 0"),
    ({"layer_scale": 0.1, "mixer": "gru"}, "no layer scale"),
    ({"layer_scale": 0.1, "trunk": "joint", "experts": 2}, "no layer scale"),
])  # fmt: skip
def test_layer_scale_that_cannot_be(options, message):
    with pytest.raises(AmodalError, match=message):
        Encoder(fields(("signal",)), size="nano", **options)
