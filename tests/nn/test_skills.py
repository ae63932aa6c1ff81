"""Skills against the mean of layers taken one by one, and what a rule switches off."""

import copy

import pytest
import torch
from torch.nn.functional import gelu

from amodal.core import AmodalError
from amodal.nn import config
from amodal.nn.adapters.skills import Copies, Skills
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import Transformer
from tests.methods.bench import batch, exact, fields

RULES = {
    "picture": ("image", "all"),
    "words": ("text", "all"),
    "signal": ("text",),
    "facts": ("text", "all"),
}


def encoder(where="attention", shuffle=True, **options):
    torch.manual_seed(0)
    made = Encoder(fields(), size="nano", trunk="shared", **options)
    plain = copy.deepcopy(made)
    made.set_block_hook(Skills(RULES, where))
    if shuffle:
        with torch.no_grad():
            for p in made.trunks.parameters():
                p.add_(torch.randn_like(p) * 0.05)
    return exact(made).eval(), exact(plain).eval()


def mean_map(copies, names, x):
    return sum(copies[n](x) for n in names) / len(names)


def alone(trunk: Transformer, names, x, where):
    """One sequence (T, D) through the blocks, skill by skill."""
    for block in trunk.blocks:
        own, attention = block.norm1(x), block.attention
        qkv = mean_map(attention.qkv, names, own) if where == "attention" else attention.qkv(own)
        q, k, v = qkv.unflatten(1, (3, attention.heads, -1)).permute(1, 2, 0, 3)
        read = torch.softmax(q @ k.transpose(1, 2) / q.shape[2] ** 0.5, 2) @ v
        x, own = x + attention.out(read.transpose(0, 1).flatten(1)), None
        own = block.norm2(x)
        if where == "attention":
            x = x + block.down(gelu(block.up(own)))
        else:
            x = x + sum(block.down[n](gelu(block.up[n](own))) for n in names) / len(names)
    return trunk.norm(x)


@pytest.mark.parametrize("where", ["attention", "mlp"])
def test_a_block_gives_the_mean_over_the_active_skills(where):
    made, _ = encoder(where)
    bags = made.tokenize(exact(batch(("plain",))))
    found = made.encode(bags)
    for field, bag in bags.items():
        for row in bag.row.unique():
            mine = bag.row == row
            expected = alone(made.trunks["all"], RULES[field], bag.x[mine], where)
            torch.testing.assert_close(found[field].x[mine], expected)


@pytest.mark.parametrize("where", ["attention", "mlp"])
def test_skills_begin_as_the_dense_trunk(where):
    made, plain = encoder(where, shuffle=False)
    b = exact(batch(("plain",)))
    for field, column in made(b).columns.items():
        torch.testing.assert_close(column.values, plain(b)[field].values)


def test_what_is_not_active_neither_matters_nor_learns_and_all_is_part_of_the_graph():
    made, _ = encoder()
    b = exact(batch(("plain",)))
    before = made(b)
    with torch.no_grad():
        for name, p in made.trunks.named_parameters():
            if ".image." in name:
                p.add_(1)
    after = made(b)
    assert torch.equal(before["words"].values, after["words"].values)
    assert not torch.allclose(before["picture"].values, after["picture"].values)
    made(b)["words"].values.square().sum().backward()
    learnt = {n: float(p.grad.abs().sum()) for n, p in made.trunks.named_parameters()}
    assert all(v == 0 for n, v in learnt.items() if ".image." in n)
    assert all(v > 0 for n, v in learnt.items() if ".text.weight" in n or ".all.weight" in n)


def test_other_skills_for_a_while():
    made, _ = encoder()
    b = exact(batch(("plain",)))
    before = made(b)["words"].values
    with made.block_hook.instead({"words": ("image",)}):
        assert not torch.allclose(made(b)["words"].values, before)
        assert torch.equal(made(b)["facts"].values, made(b)["facts"].values)
    assert torch.equal(made(b)["words"].values, before)


@pytest.mark.parametrize("where", ["attention", "mlp"])
def test_a_saved_encoder_keeps_its_skills_and_so_does_a_copy(where):
    made, _ = encoder(where, pool="cls")
    rebuilt = exact(config.build(made.spec)).eval()
    rebuilt.load_state_dict(made.state_dict())
    b = exact(batch(("plain",)))
    for other in (rebuilt, copy.deepcopy(made)):
        assert all(torch.equal(made(b)[s].values, other(b)[s].values) for s in made(b))
    with torch.no_grad():
        for p in (other := copy.deepcopy(made)).trunks.parameters():
            p.zero_()
    assert not torch.equal(made(b)["words"].values, other(b)["words"].values)


@pytest.mark.parametrize("where", ["attention", "mlp"])
def test_one_field_alone_goes_through_a_plain_transformer(where):
    made, _ = encoder(where)
    bags = made.tokenize(exact(batch(("plain",))))
    for field, bag in bags.items():
        plain = made.block_hook.alone(made.trunks["all"], field)
        assert not any(isinstance(part, Copies) for part in plain.modules())
        torch.testing.assert_close(plain(bag).x, made.encode({field: bag})[field].x)


def test_errors_say_what_to_do():
    def made(rules=RULES, where="attention", **options):
        return Encoder(fields(), size="nano", **({"trunk": "shared"} | options)).set_block_hook(
            Skills(rules, where)
        )

    with pytest.raises(AmodalError, match="Did you mean attention"):
        made(where="atention")
    with pytest.raises(AmodalError, match='trunk="shared" and no experts'):
        made(trunk="joint")
    with pytest.raises(AmodalError, match="with 4 experts"):
        made(experts=4)
    with pytest.raises(AmodalError, match="Did you mean words"):
        made(RULES | {"word": ("text",)})
    with pytest.raises(AmodalError, match="facts has none"):
        made({f: s for f, s in RULES.items() if f != "facts"})
    with pytest.raises(AmodalError, match="cannot be called 'keys'"):
        made(RULES | {"facts": ("keys",)})
