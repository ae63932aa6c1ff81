"""Learned tokens beside a class token, which nothing reads at the end."""

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.core import part as parts
from amodal.nn.encoder import Encoder
from amodal.nn.pooling import RegisterPool
from tests.methods.bench import batch, exact, fields

SMALL = fields(("picture", "words"))


@pytest.mark.parametrize("trunk", ["separate", "joint"])
def test_registers_stand_between_the_class_token_and_the_patches(trunk):
    torch.manual_seed(0)
    encoder = exact(Encoder(SMALL, size="nano", trunk=trunk, pool="cls")).set_registers(3)
    encoder = encoder.double()
    rows = exact(batch(("plain",), sources=("picture", "words")))
    tokens = encoder.tokenize(rows)
    pool = encoder.pools["picture"]
    ready = pool.prepare(tokens["picture"])
    lengths = tokens["picture"].lengths()
    assert torch.equal(ready.lengths(), lengths + 4 * (lengths > 0))
    first = int(rows["picture"].rows[0])
    mine = ready.x[ready.row == first]
    assert torch.equal(mine[0], pool.token) and torch.equal(mine[1:4], pool.registers)
    torch.testing.assert_close(pool.strip(ready).x, tokens["picture"].x)
    out = encoder.encode(tokens)["picture"]
    vector = encoder.pool({"picture": out})["picture"]
    assert torch.equal(vector.flat[0], out.x[out.row == first][0])
    # they take part in attention, so they move the vector
    with torch.no_grad():
        pool.registers += torch.linspace(-1, 1, encoder.width)
    assert not torch.allclose(encoder(rows)["picture"].values, vector.flat)
    rebuilt = exact(parts.build(encoder.spec))
    rebuilt.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(rebuilt(rows)["words"].values, encoder(rows)["words"].values)


def test_a_row_has_its_registers_alone_and_in_a_batch():
    encoder = (
        exact(Encoder(SMALL, size="nano", trunk="joint", pool="cls")).set_registers(2).double()
    )
    rows = exact(batch(("plain",), sources=("picture", "words")))
    whole = encoder(rows)
    for row in range(rows.size):
        single = encoder(rows.between(row, row + 1))
        for source in single.sources:
            mine = whole[source].values[whole[source].rows == row]
            torch.testing.assert_close(single[source].values, mine)


def test_dinov2_learns_with_registers_and_layer_scale():
    torch.manual_seed(0)
    encoder = Encoder(SMALL, size="nano", **methods.encoder_options("dinov2"))
    page = methods.build(
        "dinov2", encoder, prototypes=24, local_views=1, registers=4, layer_scale=1e-5
    )
    rows = batch(page.views, sources=("picture", "words"))
    terms = page.losses(page.features(rows))
    sum(terms.values()).backward()
    assert page.encoder.pools["picture"].registers.grad is not None
    assert page.teacher.pools["picture"].registers.shape == (4, encoder.width)
    gains = [p for name, p in page.encoder.named_parameters() if name.endswith("scale1.gain")]
    assert gains and all(p.grad is not None for p in gains)
    # class token and registers are no patches: states of the loss are as many as hidden patches
    tokens = page.features(rows).student_tokens
    plain = methods.build(
        "dinov2", Encoder(SMALL, size="nano", pool="cls"), prototypes=24, local_views=1
    )
    for source, column in plain.features(rows).student_tokens.items():
        assert torch.equal(column.values.lengths, tokens[source].values.lengths)


def test_registers_need_a_class_token():
    with pytest.raises(AmodalError, match="'picture' has none"):
        Encoder(SMALL, size="nano").set_registers(2)
    with pytest.raises(AmodalError, match="1 or more"):
        RegisterPool(8, 0)
