"""dino.txt, Jose et al. 2024, arXiv:2412.16334: section 3, and the authors' model for its blocks."""

import math

import pytest
import torch

from amodal.core import Column
from tests.golden.harness import Reference, common, defaults, golden, unit


def layer_norm(x, weight, bias):
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


class DinoTxt(Reference):
    """A locked tower, blocks behind it that learn, and another tower that learns whole."""

    locked, blocks, pooling = ("picture",), 2, "both"
    temperature, max_scale, heads, prefix = 0.07, 100.0, 2, 1

    def __init__(self, page):
        super().__init__(page)
        for name, p in self.encoder.named_parameters():
            room, field = name.split(".")[:2]
            of_tail = room == "pools" and not name.endswith(".token")
            of_map = room == "tokenizers" and ".project." in name and "body" not in name
            of_map = of_map and self.encoder.contextual(field)
            p.requires_grad_(field not in self.locked or of_tail or of_map)

    def check_start(self):
        """A block begins as nothing much: its scales are 1e-5 (the authors' model). A locked tower
        has no further map, others have one without a bias."""
        assert self.min_batch_size == 2
        wide = self.encoder.width * (2 if self.pooling == "both" else 1)
        for f, head in self.encoder.heads.items():
            shapes = {n: tuple(p.shape) for n, p in head.named_parameters()}
            assert shapes == ({} if f in self.locked else {"weight": (wide, self.encoder.width)})
        begin = self.w["learned.log"].detach().exp()
        assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)
        hidden = 64 * math.ceil(int(4 * self.encoder.width * 2 / 3) / 64)
        for f in self.locked:
            state = self.tail(f)
            for i in range(self.blocks):
                assert state[f"blocks.{i}.up.weight"].shape == (2 * hidden, self.encoder.width)
            assert sum(n.endswith("scale1") for n in state) == self.blocks
            for name, value in state.items():
                if name.endswith(("scale1", "scale2")):
                    assert torch.allclose(value, torch.full_like(value, 1e-5))

    def tail(self, field):
        return dict(self.encoder.pools[field].named_parameters())

    def losses(self, batch):
        tokens = self.encoder.encode(self.encoder.tokenize(batch))
        z = {f: self.locked_vectors(f, t) if f in self.locked else self.learned_vectors(f, t)
             for f, t in tokens.items()}  # fmt: skip
        names = list(z)
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        terms = {}
        for a, b in pairs:
            x, y = (unit(v) for v in common(z, a, b))
            loss = self.clip(x, y) if len(x) > 1 else 0 * (x.sum() + y.sum())
            terms[f"info_nce/{a}~{b}"] = loss / len(pairs)
        return terms

    def learned_vectors(self, field, tokens):
        pooled = self.encoder.pools[field](tokens)
        return Column(pooled.values @ self.encoder.heads[field].weight.T, pooled.rows)

    def locked_vectors(self, field, tokens):
        """The class token, and the mean of the others, behind the blocks and a layer norm."""
        rows = tokens.row.unique()
        vectors = [self.vector(field, tokens.x[tokens.row == r]) for r in rows]
        wide = self.encoder.width * (2 if self.pooling == "both" else 1)
        return Column(torch.stack(vectors) if vectors else tokens.x.new_zeros(0, wide), rows)

    def vector(self, field, x):
        w = self.tail(field)
        for i in range(self.blocks):
            x = self.block({n.removeprefix(f"blocks.{i}."): p for n, p in w.items()}, x)
        if self.blocks:
            x = layer_norm(x, w["norm.weight"], w["norm.bias"])
        whole = {"cls": x[0], "mean": x[self.prefix :].mean(0)}
        return torch.cat(list(whole.values())) if self.pooling == "both" else whole[self.pooling]

    def block(self, w, x):
        """Of the authors' vision transformer with SwiGLU: norm first, scaled by a vector."""
        n, wide = x.shape
        each = wide // self.heads
        q, k, v = (
            layer_norm(x, w["norm1.weight"], w["norm1.bias"]) @ w["attention.qkv.weight"].T
            + w["attention.qkv.bias"]
        ).split(wide, dim=1)
        mixed = []
        for h in range(self.heads):
            s = slice(h * each, (h + 1) * each)
            mixed.append(torch.softmax(q[:, s] @ k[:, s].T / each**0.5, dim=1) @ v[:, s])
        out = torch.cat(mixed, 1) @ w["attention.out.weight"].T + w["attention.out.bias"]
        x = x + w["scale1"] * out
        both = layer_norm(x, w["norm2.weight"], w["norm2.bias"]) @ w["up.weight"].T + w["up.bias"]
        gate, value = both.chunk(2, dim=1)
        hidden = gate / (1 + torch.exp(-gate)) * value
        return x + w["scale2"] * (hidden @ w["down.weight"].T + w["down.bias"])

    def scale(self):
        """The value is clipped, and the gradient goes through."""
        log = self.w["learned.log"]
        if log.detach().exp() > self.max_scale:
            return self.max_scale * (log - log.detach()).exp()
        return log.exp()

    def clip(self, x, y):
        logits = x @ y.T * self.scale()
        n, total = len(x), 0
        for rows in (logits, logits.T):
            total = total + sum(rows[i].logsumexp(0) - rows[i, i] for i in range(n)) / n
        return total / 2


def test_a_class_token_and_registers_of_the_backbone():
    """They go through the blocks with the patches, and the mean is of these alone."""
    import timm

    net = "timm:vit_tiny_patch16_224:32/class@scratch"
    assert timm.create_model("vit_tiny_patch16_224").num_prefix_tokens == 1
    check(backbones={"picture": net})


def check(fields=("picture", "words"), rows=6, locked=("picture",), **options):
    reference = type("DinoTxt", (DinoTxt,), options | {"locked": locked})
    golden("dinotxt", reference, views=("weak",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize(
    "fields", [("picture", "words"), ("picture", "words", "facts"), ("words", "picture")]
)
def test_two_steps(fields):
    check(fields)


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "cls", "blocks": 1, "temperature": 0.3},
        {"pooling": "mean", "blocks": 0, "temperature": 2.0},
        {"blocks": 0, "max_scale": 3.0},
        {"blocks": 3, "pooling": "mean", "temperature": 0.02, "max_scale": 30.0},
    ],
)
def test_two_steps_with_other_options(options):
    check(**options)


def test_another_field_locked():
    reference = type("DinoTxt", (DinoTxt,), {"locked": ("words",)})
    golden("dinotxt", reference, views=("weak",), lock="words")


def test_one_pair_and_none():
    for rows in (1, 2):
        check(rows=rows)


def test_defaults():
    """The authors' released model: two blocks, class token and mean patch, 0.07."""
    assert defaults("dinotxt") == {
        "lock": "",
        "blocks": 2,
        "pooling": "both",
        "temperature": 0.07,
        "max_scale": 100.0,
    }
