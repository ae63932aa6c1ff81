"""MMRL++: fewer parameters, a projection that begins as the frozen one, tokens that go on."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.nn.adapters.block_tokens import hook_disabled
from amodal.nn.adapters.shared_space_tokens import SpaceMaps, SpaceTokens, space_tokens
from tests.methods.bench import batch, method


def learning(m):
    return {
        n: p
        for n, p in m.named_parameters()
        if p.requires_grad and not n.startswith("encoder.heads.")
    }


def test_it_learns_fewer_parameters_than_mmrl():
    leaner, whole = (method(n, space=64) for n in ("mmrl_pp", "mmrl"))
    size = [sum(p.numel() for p in learning(m).values()) for m in (leaner, whole)]
    assert size[0] < size[1] / 2
    assert all(n.startswith(("encoder.block_hook.", "heads.")) for n in learning(leaner))


def test_the_projection_begins_as_the_frozen_one_and_learns_a_difference_of_low_rank():
    m = method("mmrl_pp", head_rank=3)
    x = torch.randn(5, m.encoder.width)
    head, frozen = m.heads["picture"], m.encoder.heads["picture"]
    assert torch.equal(head(x), frozen(x))
    optimizer = torch.optim.SGD(learning(m).values(), 1.0)
    sum(m.losses(m.features(batch(m.views))).values()).backward()
    optimizer.step()
    difference = head.weight - frozen.weight
    assert 0 < torch.linalg.matrix_rank(difference.double(), rtol=1e-4) <= 3


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_tokens_go_on_unless_beta_is_1(beta):
    """What a block made of a row's tokens reaches the next: the tokens that the last block reads
    differ between rows only then."""
    m, read = method("mmrl_pp", beta=beta).eval(), {}
    deep, context = m.encoder.block_hook, batch(("plain",)).only("picture")

    def around(layer, tokens, block):
        def spy(inner, **options):
            read[layer] = inner
            return block(inner, **options)

        return deep(layer, tokens, spy)

    m.encoder.encode(m.encoder.tokenize(context), block_hook=around)
    tokens = (
        read[1]
        .keep(read[1].source == read[1].names.index(".prompt"))
        .x.unflatten(0, (-1, deep.count))
    )
    assert torch.allclose(tokens, tokens[:1].expand_as(tokens)) == (beta == 1.0)
    assert deep.beta == beta and deep.rank == 4


def test_tokens_are_those_of_mmrl_by_default():
    tokens = SpaceTokens(("picture",), 8, 2)
    assert (tokens.count, tokens.space, tokens.first) == (5, 512, {"picture": 0})
    assert (tokens.beta, tokens.rank) == (1.0, 0) and tokens.bank.shape == (5, 512)
    assert SpaceTokens(("picture",), 8, 2, space=16).space == 16
    assert len(SpaceMaps(4, 8, 3).linears) == 3


def test_fields_without_maps_get_no_tokens():
    m = method("mmrl_pp").eval()
    tokens = m.encoder.tokenize(batch(("plain",)).only("words"))
    some = m.encoder.encode(tokens, block_hook=space_tokens(m.encoder, fields=("picture",)))
    with hook_disabled(m.encoder):
        torch.testing.assert_close(some["words"].x, m.encoder.encode(tokens)["words"].x)


def test_wrong_options_are_refused():
    with pytest.raises(AmodalError, match="Did you mean words"):
        method("mmrl_pp", text_field="word")
    with pytest.raises(AmodalError, match="mmrl_pp learns classes by their names"):
        method("mmrl_pp", targets=())
    with pytest.raises(AmodalError, match="mixed by a share from 0 to 1"):
        method("mmrl_pp", beta=1.5)
