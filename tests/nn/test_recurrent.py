import pytest
import torch
from torch import nn

from amodal.core import AmodalError, Tokens
from amodal.nn import config
from amodal.nn.encoder import Encoder
from amodal.nn.recurrent import Recurrent
from amodal.nn.transformer import Transformer
from tests.methods.bench import batch, fields


def test_rows_are_read_alone_and_from_both_ends():
    torch.manual_seed(0)
    lengths, rows = torch.tensor([3, 1, 4]), torch.tensor([0, 2, 3])
    bag = Tokens.of(
        torch.randn(8, 6, dtype=torch.float64), rows, lengths, torch.zeros(8, 3), "words", 5
    )
    trunk = Recurrent(6).double()
    whole = trunk(bag).x
    plain = nn.GRU(6, 3, batch_first=True, bidirectional=True).double()
    plain.load_state_dict(trunk.gru.state_dict())
    for row in rows.tolist():
        mine = bag.row == row
        torch.testing.assert_close(whole[mine], plain(bag.x[mine].unsqueeze(0))[0][0])
    changed = bag.with_x(
        bag.x.clone().index_fill(0, torch.tensor([2]), 9.0)
    )  # the last token of row 0
    assert not torch.allclose(trunk(changed).x[0], whole[0]) and torch.equal(
        trunk(changed).x[3:], whole[3:]
    )
    assert trunk(bag.keep(bag.row < 0)).x.shape == (0, 6)


def test_an_encoder_reads_sequences_by_a_gru_and_pictures_by_a_transformer():
    encoder = Encoder(fields(), size="nano", mixer="gru", pool="vector")
    kinds = {f: type(t) for f, t in encoder.trunks.items()}
    assert kinds == {
        "picture": Transformer,
        "words": Recurrent,
        "signal": Recurrent,
        "facts": Transformer,
    }
    rebuilt = config.build(encoder.spec)
    rebuilt.load_state_dict(encoder.state_dict())
    one, other = (e.eval()(batch(("plain",)))["words"].values for e in (encoder, rebuilt))
    assert torch.equal(one, other)
    with pytest.raises(AmodalError, match="separate"):
        Encoder(fields(), size="nano", mixer="gru", trunk="joint")
    with pytest.raises(AmodalError, match="Did you mean gru"):
        Encoder(fields(), size="nano", mixer="gro")


def test_brnn_is_the_published_recurrence():
    from amodal.nn.recurrent import Brnn

    torch.manual_seed(0)
    net = Brnn(4).double()
    row = torch.tensor([0, 0, 0, 1, 3, 3])
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    bag = Tokens(x, row, torch.zeros_like(row), torch.zeros(6, 3), ("words",), 4)
    expected = []
    for r in (0, 1, 3):
        e = torch.relu(x[row == r] @ net.in_proj.weight.T + net.in_proj.bias)
        forth, h = [], torch.zeros(4, dtype=torch.float64)
        for t in range(len(e)):
            h = torch.relu(e[t] + net.forward_step.weight @ h + net.forward_step.bias)
            forth.append(h)
        back, h = [], torch.zeros(4, dtype=torch.float64)
        for t in reversed(range(len(e))):
            h = torch.relu(e[t] + net.backward_step.weight @ h + net.backward_step.bias)
            back.append(h)
        both = torch.stack(forth) + torch.stack(back[::-1])
        expected.append(torch.relu(both @ net.out_proj.weight.T + net.out_proj.bias))
    out, expected = net(bag).x, torch.cat(expected)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    ours, theirs = (
        torch.autograd.grad((y * weight).sum(), [x, *net.parameters()]) for y in (out, expected)
    )
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)
    none = net(bag.at(row[:0])).x
    assert none.shape == (0, 4) and all(
        g is not None for g in torch.autograd.grad(none.sum(), list(net.parameters()))
    )
