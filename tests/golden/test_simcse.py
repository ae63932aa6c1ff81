"""SimCSE without labels, Gao, Yao & Chen 2021, arXiv:2104.08821: equation 4, sections 3 and 6.

The transformer is written out with the dropout of BERT (Devlin et al. 2019): of the sum of
embeddings, and of what attention and the perceptron add to each token.
"""

import math

import pytest
import torch
from torch import nn

from amodal import methods
from amodal.core import AmodalError
from amodal.masking.hashing import hash_bits, uniform
from amodal.nn import config
from amodal.nn.encoder import Encoder
from tests.golden import naive
from tests.golden.harness import Reference, defaults, golden, pairs_of_views, unit
from tests.methods.bench import batch, exact, fields, method

VIEWS = ("plain", "plain")


def layer_norm(x, w, name):
    centred = x - x.mean(-1, keepdim=True)
    scale = ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


class SimCSE(Reference):
    temperature, dropout = 0.05, 0.1

    def check_start(self):
        """The head is BERT's: a linear layer of its width, then tanh."""
        wide = self.encoder.width
        self.assert_shapes(heads__words__0__weight=(wide, wide), heads__words__0__bias=(wide,))

    def losses(self, batch):
        tokens = self.encoder.tokenize(batch)
        z = {s: self.head(s, self.vectors(t, batch.seeds)) for s, t in tokens.items()}
        pairs = pairs_of_views(list(z))
        return {f"info_nce/{a}~{b}": self.loss(z[a], z[b]) / len(pairs) for a, b in pairs}

    def head(self, source, x):
        w, name = self.w, f"heads.{source[:-2]}.0"
        return (x @ w[f"{name}.weight"].T + w[f"{name}.bias"]).tanh()

    def vectors(self, tokens, seeds):
        """The class token of each row that has a value, after the blocks and a norm."""
        source, field = tokens.names[0], tokens.names[0][:-2]
        w = dict(self.encoder.named_parameters())
        rows = sorted(set(tokens.row.tolist()))
        out = []
        for row in rows:
            x = torch.cat([w[f"pools.{field}.token"][None], tokens.x[tokens.row == row]])
            token = torch.arange(len(x))
            draw = hash_bits(seeds[row], naive.code("hidden dropout"), naive.code(source), token)
            out.append(self.trunk(x, w, f"trunks.{field}", draw)[0])
        return torch.stack(out) if out else tokens.x.new_zeros(0, self.encoder.width)

    def trunk(self, x, w, name, draw):
        def drop(update, place):
            chance = uniform(draw[:, None], place, torch.arange(update.shape[1]))
            return update * (chance >= self.dropout) / (1 - self.dropout)

        x, heads = drop(x, 0), self.encoder.num_heads
        depth = 1 + max(int(n.split(".")[3]) for n in w if n.startswith(f"{name}.blocks."))
        for i in range(depth):
            block = f"{name}.blocks.{i}"
            q, k, v = linear(layer_norm(x, w, f"{block}.norm1"), w, f"{block}.attention.qkv").chunk(
                3, 1
            )
            mixed = []
            for a, b, c in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1)):
                mixed.append(torch.softmax(a @ b.T / a.shape[1] ** 0.5, 1) @ c)
            x = x + drop(linear(torch.cat(mixed, 1), w, f"{block}.attention.out"), 1 + 2 * i)
            up = linear(layer_norm(x, w, f"{block}.norm2"), w, f"{block}.up")
            up = up * (1 + torch.erf(up / math.sqrt(2))) / 2
            x = x + drop(linear(up, w, f"{block}.down"), 2 + 2 * i)
        return layer_norm(x, w, f"{name}.norm")

    def loss(self, first, second):
        """Equation 4: h_i against the second pass of all N."""
        n = len(first)
        if n < 2:
            return 0 * (first.sum() + second.sum())
        cosine, total = unit(first) @ unit(second).T, 0
        for i in range(n):
            weight = torch.exp(cosine[i] / self.temperature)
            total = total - torch.log(weight[i] / weight.sum()) / n
        return total


def test_two_steps():
    golden("simcse", SimCSE, views=VIEWS)


@pytest.mark.parametrize("options", [{"temperature": 0.3}, {"dropout": 0.5}, {"dropout": 0.0}])
def test_two_steps_with_other_options(options):
    reference = type("SimCSE", (SimCSE,), dict(options))
    golden("simcse", reference, views=VIEWS, fields=("words",), **options)


def test_one_row_and_none():
    for rows in (1, 2):  # the first has no picture
        golden("simcse", SimCSE, views=VIEWS, rows=rows)


def test_defaults():
    """Dropout of BERT, and the temperature: section 6 and table 1; the vector is the class token's
    without the head, their `mlp_only_train`."""
    assert defaults("simcse") == {"dropout": 0.1, "temperature": 0.05}
    assert methods.encoder_options("simcse") == {"pool": "cls"}
    page = method("simcse", sources=("words",))
    assert page.views == VIEWS and page.min_batch_size == 2


def test_recipe():
    """Appendix A, their script for BERT-base, and the defaults of the trainer that it calls."""
    recipe = methods.paper_recipe("simcse")
    assert (recipe.optimizer, recipe.lr, recipe.lr_scaling) == ("adamw", 3e-5, "none")
    assert (recipe.weight_decay, recipe.betas, recipe.clip) == (0.0, (0.9, 0.999), 1.0)
    assert (recipe.schedule, recipe.warmup_steps) == ("linear", 0)
    assert (recipe.batch_size, recipe.epochs) == (64, 1)


def test_only_training_drops_and_a_row_is_dropped_the_same_wherever_it_stands():
    page = exact(method("simcse", sources=("words", "facts")))
    rows = exact(batch(VIEWS, size=8, sources=("words", "facts")))
    whole, part = page.features(rows), page.features(rows.between(3, 6))
    for source in whole.sources:
        torch.testing.assert_close(part[source].values, whole[source].between(3, 6).values)
    for field in ("words", "facts"):
        one, two = whole.pair(f"{field}:1", f"{field}:2")
        assert not torch.isclose(one, two).all(1).any()
    outside = page.encoder(rows)
    assert torch.equal(*outside.pair("words:1", "words:2"))
    page.eval()
    still = page.features(rows)
    assert torch.equal(*still.pair("words:1", "words:2"))
    assert torch.equal(still["words:1"].values, page.encoder(rows)["words:1"].values)


def test_a_field_without_dropout_is_refused():
    nets = config.backbones({"picture": "convnet:width=8"}, fields(("picture",)), "nano")
    encoder = Encoder(fields(("picture",)), size="nano", backbones=nets)
    with pytest.raises(AmodalError, match="picture: there is no dropout in its backbone"):
        methods.build("simcse", encoder)
    encoder = Encoder(fields(("words",)), size="nano", mixer="gru", pool="max")
    with pytest.raises(AmodalError, match="words: there is no dropout in a trunk of mixer=gru"):
        methods.build("simcse", encoder)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"dropout": 1.0}, "dropout is a probability from 0 to below 1, not 1"),
        ({"dropout": -0.1}, "dropout is a probability from 0 to below 1, not -0.1"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0"),
    ],
)
def test_options_out_of_range(wrong, message):
    with pytest.raises(AmodalError, match=message):
        method("simcse", sources=("words",), **wrong)


class Toy(nn.Module):
    """Not of any library."""

    def forward(self, x):
        return x.flatten(1)[:, :8]


def test_a_module_of_the_users_own_is_refused():
    nets = config.backbones({"picture": Toy()}, fields(("picture",)), "nano")
    encoder = Encoder(fields(("picture",)), size="nano", backbones=nets)
    with pytest.raises(AmodalError, match="picture: there is no dropout in its backbone"):
        methods.build("simcse", encoder)
