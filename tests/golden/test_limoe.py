"""LIMoE, Mustafa et al. 2022, arXiv:2206.02770, sections 2.2 and A, and the losses of V-MoE's code.

The sparse layer is written out too, token by token: V-MoE's, with a threshold for each expert in
place of buffers that tokens of one batch fill.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu

from amodal.methods.contract import Clock
from tests.golden.harness import defaults, golden
from tests.golden.pairs import PairsOfFields
from tests.methods.bench import batch, exact, method


class SparseLayer(nn.Module):
    """Each token goes to the expert that its router prefers, or nowhere."""

    def __init__(self, old):
        super().__init__()
        for name in ("router", "up", "down", "up_bias", "down_bias"):
            setattr(self, name, nn.Parameter(getattr(old, name).detach().clone()))
        self.register_buffer("threshold", old.threshold.clone())

    def forward(self, x):
        out = []
        for token, logits in zip(x, x @ self.router.T):
            p = logits.exp() / logits.exp().sum()
            e = int(logits.argmax())
            hidden = gelu(token @ self.up[e] + self.up_bias[e])
            y = p[e] * (hidden @ self.down[e] + self.down_bias[e])
            out.append(y if p[e] >= self.threshold[e] else 0 * y)
        return torch.stack(out), x @ self.router.T


def entropy(p):
    return -sum(q * q.log() for q in p)


def squared_variation(x):
    """Variance over the square of the mean."""
    return ((x - x.mean()) ** 2).mean() / x.mean() ** 2


class Limoe(PairsOfFields):
    weight, balance, entropy, capacity = 0.04, True, True, 1.05
    text_share, other_share, text_field, experts = 1.0, 1.0, "words", 8
    certain = 0.0
    """How many times larger the router's weights are, so that some experts are hardly used."""
    max_scale = math.inf  # the text and the authors' code bound nothing

    def __init__(self, page):
        if self.certain and not hasattr(page, "certain"):
            page.certain = self.certain
            with torch.no_grad():
                for name, router in page.named_parameters():
                    if name.endswith("router"):
                        router *= self.certain
        super().__init__(page)
        self.sparse = [b for b in self.encoder.trunks["all"].blocks if hasattr(b, "mlp")]
        for block in self.sparse:
            block.mlp = SparseLayer(block.mlp)
        self.w["learned.log"] = self.w["scale.log"]  # the name in `PairsOfFields`

    def state(self):
        return {n: v for n, v in super().state().items() if n != "learned.log"}

    def parameters(self):
        return {n: v for n, v in super().parameters().items() if n != "learned.log"}

    def check_start(self):
        super().check_start()
        blocks = self.encoder.trunks["all"].blocks
        assert self.sparse == list(blocks)[1::2]  # every second one
        assert all(b.mlp.router.shape[0] == self.experts for b in self.sparse)
        assert not any(b.mlp.threshold.any() for b in self.sparse)

    def loss(self, logits):
        """CLIP's."""
        n = len(logits)
        one = sum(logits[i].logsumexp(0) - logits[i, i] for i in range(n)) / n
        return (one + sum(logits[:, i].logsumexp(0) - logits[i, i] for i in range(n)) / n) / 2

    def losses(self, batch):
        """The mean over sparse layers of each auxiliary loss; `weight` times the mean of all."""
        terms, collected = super().losses(batch), {}
        tokens = self.encoder.patchify(batch)
        tokens = {f: self.encoder.add_positions(t) for f, t in tokens.items()}
        self.encoder.encode(tokens, router_logits=collected)
        self.logits = [
            {f: collected["all", i][f].x for f in tokens} for i in range(len(self.sparse))
        ]
        layers = [self.auxiliary(of_field) for of_field in self.logits]
        for name in layers[0]:
            mean = sum(layer[name] for layer in layers) / len(layers)
            terms[name] = self.weight * mean / len(layers[0])
        return terms

    def auxiliary(self, of_field):
        """Eq. 2 to 4, and those of V-MoE and ST-MoE; of_field: field -> logits of its tokens."""
        terms, logits = {}, torch.cat(list(of_field.values()))
        if self.balance:
            # no noise is drawn; the load is that of noise of this deviation
            deviation, best = 1 / self.experts, logits.max(1).values
            wins = self.normal((logits - best[:, None]) / deviation)
            terms["importance"] = squared_variation(logits.softmax(1).sum(0))
            terms["load"] = squared_variation(wins.mean(0))
            terms["z"] = (logits.logsumexp(1) ** 2).mean()
        if self.entropy:
            for f, mine in of_field.items():
                p = mine.softmax(1)
                share = self.text_share if f == self.text_field else self.other_share
                missing = math.log(share * self.experts) - entropy(p.mean(0))
                # a batch without the field has nothing that is routed
                terms[f"global/{f}"] = missing.clamp(min=0) if len(p) else 0 * p.sum()
                if f == self.text_field:
                    terms[f"local/{f}"] = sum((entropy(q) for q in p), 0 * p.sum()) / max(len(p), 1)
        return terms

    def normal(self, x):
        return (1 + torch.erf(x / math.sqrt(2))) / 2

    def after_step(self, step, steps):
        """An expert takes the surest tokens, as many as it has room for."""
        for block, of_field in zip(self.sparse, self.logits):
            p, e = torch.cat(list(of_field.values())).detach().softmax(1).max(1)
            room = max(1, round(self.capacity * len(p) / self.experts)) if self.capacity else len(p)
            for expert in range(self.experts):
                surest = sorted(p[e == expert].tolist(), reverse=True)
                full = len(surest) > room
                block.mlp.threshold[expert] = surest[room - 1] if full else 0.0


def hold(fields=("picture", "words"), rows=6, size="nano", **options):
    """`text_share` and `other_share` are 1 where nothing is said, as in tests/methods/bench.py."""
    reference = type("Limoe", (Limoe,), {"width": 8} | options)
    options = {"width": 8} | options
    options.pop("certain", None)
    golden("limoe", reference, views=("weak",), fields=fields, rows=rows, size=size, **options)


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "signal", "facts")])
def test_two_steps(fields):
    """A new router spreads over all experts, so that only the largest shares ask for more."""
    hold(fields)


@pytest.mark.parametrize("balance, entropy", [(True, False), (False, True), (False, False)])
def test_two_steps_with_some_of_the_losses(balance, entropy):
    hold(balance=balance, entropy=entropy)


@pytest.mark.parametrize(
    "options",
    [
        {"text_share": 0.999, "other_share": 0.9995, "weight": 0.5},
        {"text_share": 0.05, "other_share": 0.1},
        {"capacity": 0.5},
        {"capacity": 0.01},
        {"capacity": 8.0},
        {"capacity": 0.0},
        {"temperature": 2.0},
        {"temperature": 0.004},
    ],
)
def test_two_steps_with_other_options(options):
    """A temperature beyond CLIP's bound, shares that ask for nothing, and full experts."""
    hold(**options)


@pytest.mark.parametrize("share", [0.2, 0.3, 0.4])
def test_two_steps_of_a_router_that_is_certain(share):
    """It uses few experts, fewer than a share asks for that is small."""
    hold(certain=60.0, text_share=share, other_share=share + 0.05)


def test_two_steps_of_two_sparse_layers():
    hold(size="tiny", rows=4)


def test_another_text_is_confident():
    hold(text_field="picture")


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows)


def test_one_row_without_a_text():
    hold(("words", "picture"), rows=1)


def test_a_batch_without_values():
    page = exact(method("limoe", sources=("picture", "words")))
    empty = exact(batch(page.views, absent=("picture", "words"), sources=("picture", "words")))
    terms = page.losses(page.features(empty))
    assert terms and not any(terms.values())
    sum(terms.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in page.parameters())


def test_thresholds_are_those_of_a_step_once():
    page = exact(method("limoe", sources=("picture", "words")))
    page.losses(page.features(exact(batch(page.views, sources=("picture", "words")))))
    threshold = page.encoder.trunks["all"].blocks[1].mlp.threshold
    page.on_step_end(Clock(1, 4))
    assert threshold.any()
    threshold.zero_()
    page.on_step_end(Clock(2, 4))
    assert not threshold.any()


def test_defaults():
    """Eq. 4's thresholds for 32 experts: 9 of them for text and 20 for pictures."""
    assert defaults("limoe") == {
        "text_field": "",
        "width": 128,
        "temperature": 0.07,
        "weight": 0.04,
        "balance": True,
        "entropy": True,
        "text_share": 9 / 32,
        "other_share": 20 / 32,
        "capacity": 1.05,
    }
    hold(width=128, text_share=9 / 32, other_share=20 / 32)
