"""Zorro, Recasens et al. 2023, arXiv:2301.09595: sections 3.2 and 3.4."""

import itertools
import math

import pytest
import torch

from tests.golden.harness import Reference, common, defaults, golden, unit

FUSED = "fused"


class Vectors:
    """Of the rows that have one."""

    def __init__(self, of_row):
        self.rows = torch.tensor(list(of_row), dtype=torch.int64)
        self.values = torch.stack(list(of_row.values()))


class Zorro(Reference):
    fusion, width, temperature, mask_rule = 8, 128, 0.08, "pure"
    heads, pool_heads, depth = 2, 4, 2

    def check_start(self):
        w = dict(self.encoder.named_parameters())
        assert self.min_batch_size == 2 and not self.w and all(p.requires_grad for p in w.values())
        tokens = w["routing.fusion_tokens"]
        assert tokens.shape == (self.fusion, self.encoder.width) and 0.015 < tokens.std() < 0.025
        for name in (*self.encoder.fields, FUSED):
            hidden = 2 * self.encoder.width
            assert w[f"heads.{name}.0.weight"].shape == (hidden, self.encoder.width)
            assert w[f"heads.{name}.2.weight"].shape == (self.width, hidden)
            assert f"heads.{name}.2.bias" not in w

    def losses(self, batch):
        """Section 3.4: streams with each other, and the fusion with each stream."""
        z = self.streams(batch)
        fields, nothing = list(self.encoder.fields), 0 * self.p["routing.fusion_tokens"].sum()
        pairs = [*itertools.combinations(fields, 2), *((FUSED, f) for f in fields)]
        terms = {}
        for a, b in pairs:
            x, y = (unit(v) for v in common(z, a, b)) if a in z and b in z else ((), ())
            loss = self.info_nce(x @ y.T / self.temperature) if len(x) > 1 else nothing
            terms[f"info_nce/{a}~{b}"] = loss / len(pairs)
        return terms

    def info_nce(self, logits):
        n = len(logits)
        there = sum(logits[i].logsumexp(0) - logits[i, i] for i in range(n)) / n
        back = sum(logits[:, i].logsumexp(0) - logits[i, i] for i in range(n)) / n
        return (there + back) / 2

    def streams(self, batch):
        """Stream -> vectors, of each record by itself."""
        self.p = dict(self.encoder.named_parameters())
        tokens, found = self.encoder.tokenize(batch), {}
        for row in range(batch.size):
            own = {f: t.x[t.row == row] for f, t in tokens.items() if (t.row == row).any()}
            if not own:
                continue
            own = own | {FUSED: self.p["routing.fusion_tokens"]}
            kind = [f for f, x in own.items() for _ in x]
            x = self.transformer(torch.cat(list(own.values())), self.mask(kind))
            for f in own:
                at = [i for i, k in enumerate(kind) if k == f]
                found.setdefault(f, {})[row] = self.head(f, self.pool(f, x[at]))
        return {f: Vectors(of_row) for f, of_row in found.items()}

    def mask(self, kind):
        """Section 3.2: a stream sees itself, the fusion sees all, and no stream sees the fusion."""
        see = [[q == k or q == FUSED or self.mask_rule == "full" for k in kind] for q in kind]
        return torch.tensor(see)

    def linear(self, name, x):
        y = x @ self.p[f"{name}.weight"].T
        return y + self.p[f"{name}.bias"] if f"{name}.bias" in self.p else y

    def norm(self, name, x):
        mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        x = (x - mean) / (var + 1e-5).sqrt()
        return x * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def gelu(self, x):
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    def transformer(self, x, see):
        """Norms before attention and perceptron, as in ViT."""
        for i in range(self.depth):
            name = f"trunks.all.blocks.{i}"
            x = x + self.attention(f"{name}.attention", self.norm(f"{name}.norm1", x), see)
            hidden = self.gelu(self.linear(f"{name}.up", self.norm(f"{name}.norm2", x)))
            x = x + self.linear(f"{name}.down", hidden)
        return self.norm("trunks.all.norm", x)

    def attention(self, name, x, see):
        q, k, v = self.linear(f"{name}.qkv", x).chunk(3, 1)
        out, d = [], x.shape[1] // self.heads
        for h in range(self.heads):
            of = slice(h * d, (h + 1) * d)
            score = q[:, of] @ k[:, of].T / math.sqrt(d)
            out.append(score.masked_fill(~see, -math.inf).softmax(1) @ v[:, of])
        return self.linear(f"{name}.out", torch.cat(out, 1))

    def pool(self, f, x):
        """A learned query of each stream reads its own tokens; query and keys are one map here."""
        x = self.norm(f"pools.{f}.norm", x)
        weight = self.linear(f"pools.{f}.score", x).softmax(0)
        value = self.linear(f"pools.{f}.value", x)
        d = x.shape[1] // self.pool_heads
        read = [weight[:, h] @ value[:, h * d : (h + 1) * d] for h in range(self.pool_heads)]
        return self.linear(f"pools.{f}.out", torch.cat(read)[None])[0]

    def head(self, f, x):
        return self.linear(f"heads.{f}.2", self.gelu(self.linear(f"heads.{f}.0", x[None])))[0]


def hold(fields=("picture", "words"), rows=6, **options):
    options = {"width": 8} | options
    reference = type("Zorro", (Zorro,), options)
    golden("zorro", reference, views=("weak",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize("fields", [("picture", "words"), ("signal", "words", "facts")])
@pytest.mark.parametrize("mask_rule", ["pure", "full"])
def test_two_steps(fields, mask_rule):
    hold(fields, mask_rule=mask_rule)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    """Of one row there is no picture, of two rows one pair."""
    hold(rows=rows)


@pytest.mark.parametrize("options", [{"fusion": 3}, {"temperature": 0.5}, {"fusion": 1}])
def test_two_steps_with_other_options(options):
    hold(**options)


def test_defaults():
    assert defaults("zorro") == {
        "fusion": 8,
        "width": 128,
        "temperature": 0.08,
        "mask_rule": "pure",
    }
    golden("zorro", Zorro, views=("weak",))
