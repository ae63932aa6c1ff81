"""MIRROR, Wang et al. 2025, arXiv:2503.00374: section 3, and the losses of the authors' program."""

import itertools
import math

import pytest
import torch

from amodal.masking.random import random_keep
from amodal.methods.contrastive.mirror import PAPER_RECIPE
from tests.golden import naive, nystrom
from tests.golden.harness import Reference, common, defaults, golden, unit

SINGLE = 1e-6
"""Positions and the draw from the Gaussian are in single precision."""


class Mirror(Reference):
    width, prototypes, hidden, latent, ratio, stop_target = 8, 7, 10, 5, 0.75, False
    temperature, limit, align, retain, style, cluster = 0.07, 100.0, 0.5, 0.1, 0.1, 0.2
    heads, hides = 2, {}

    def check_start(self):
        assert self.min_batch_size == 2 and self.encoder.space_width == self.width
        wide, half = self.encoder.width, self.hidden // 2
        begin = self.w["scale.log"].detach().exp()
        assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)
        self.assert_shapes(
            style__in_proj__0__weight=(self.hidden, wide),
            style__in_proj__2__weight=(half, self.hidden),
            style__mean__weight=(self.latent, half),
            style__log_variance__weight=(self.latent, half),
            style__out_proj__weight=(wide, self.latent),
            style__prototypes__weight=(self.prototypes, wide),
        )
        assert "style.prototypes.bias" not in self.w
        p = self.w["style.prototypes.weight"].detach()  # orthogonal at the start
        torch.testing.assert_close(p @ p.T, torch.eye(len(p)).double(), rtol=1e-5, atol=1e-5)
        blocks = {tuple(n.split(".blocks.")) for n in self.w if ".blocks." in n}
        assert {rest[0] for _, rest in blocks} <= {"0"}  # one block
        for f in self.encoder.fields:
            if f not in self.hides:
                assert 0.01 < self.w[f"retention.decoders.{f}.mask.{f}"].std() < 0.04

    def losses(self, batch):
        contexts = self.encoder.encode(self.encoder.tokenize(batch))
        pooled = self.encoder.features(batch).columns
        z = self.encoder(batch).columns
        fields, pairs = list(z), list(itertools.combinations(z, 2))
        styles = {f: self.style_of(f, pooled[f], batch) for f in fields}
        terms = {}
        for a, b in pairs:
            terms[f"info_nce/{a}~{b}"] = self.align * self.nce(*common(z, a, b)) / len(pairs)
        for f in fields:  # of two fields each has its full weight
            retained = getattr(self, self.hides.get(f, "retention"))(f, contexts[f], batch)
            terms[f"retain/{f}"] = 2 * self.retain * retained / len(fields)
        for f in fields:
            mean, log_variance, _ = styles[f]
            each = (log_variance.exp() + mean**2 - 1 - log_variance).sum(1) / 2
            terms[f"style/{f}"] = 2 * self.style * each.mean() / len(fields)
        scores = {f: type(z[f])(styles[f][2], z[f].rows) for f in fields}
        for a, b in pairs:
            p, q = (x.softmax(1) for x in common(scores, a, b))
            forth, back = (p * (p / q).log()).sum(1), (q * (q / p).log()).sum(1)
            terms[f"cluster/{a}~{b}"] = self.cluster * (forth + back).mean() / 2 / len(pairs)
        return terms

    def nce(self, x, y):
        log = self.w["scale.log"]
        scale = log.exp()
        if log.detach().exp() > self.limit:
            scale = self.limit * (log - log.detach()).exp()
        logits, total, n = unit(x) @ unit(y).T * scale, 0, len(x)
        for i in range(n):
            total = total + logits[i].logsumexp(0) + logits[:, i].logsumexp(0) - 2 * logits[i, i]
        return total / n / 2

    def linear(self, name, x):
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def style_of(self, field, column, batch):
        """Mean and log variance of a Gaussian, and the scores of prototypes of a draw from it."""
        x = self.linear("style.in_proj.0", column.values)
        x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
        x = self.linear("style.in_proj.2", x)
        mean, log_variance = (self.linear(f"style.{n}", x) for n in ("mean", "log_variance"))
        noise = [
            [self.normal(int(batch.seeds[r]), naive.code(field), i) for i in range(self.latent)]
            for r in column.rows.tolist()
        ]
        drawn = mean + (log_variance / 2).exp() * torch.tensor(noise).double()
        return (
            mean,
            log_variance,
            self.linear("style.prototypes", self.linear("style.out_proj", drawn)),
        )

    def normal(self, seed, *counters):
        """Box and Muller 1958."""
        radius, angle = (naive.uniform(seed, *counters, i) for i in (0, 1))
        return math.sqrt(-2 * math.log1p(-radius)) * math.cos(2 * math.pi * angle)

    def retention(self, field, tokens, batch):
        """Hidden tokens of the encoder's own output, predicted from the others by one block."""
        draws = torch.tensor(
            [signed(naive.bits(int(s), naive.code(f"retained {field}"))) for s in batch.seeds]
        )
        within = torch.cat([torch.arange(n) for n in torch.bincount(tokens.row) if n])
        keep = random_keep(tokens.row, draws[tokens.row], within, self.ratio)
        name, losses = f"retention.decoders.{field}", []
        for row in tokens.row.unique().tolist():
            at = tokens.row == row
            x, seen = tokens.x[at], keep[at]
            inputs = torch.where(
                seen[:, None], self.linear(f"{name}.in_proj", x), self.w[f"{name}.mask.{field}"]
            )
            inputs = inputs + positions(tokens.position[at], x.shape[1])
            made = self.block(f"{name}.trunk", inputs + self.w[f"{name}.field.{field}"])
            predicted = self.linear(f"retention.predictors.{field}", made[~seen])
            target = x[~seen].detach() if self.stop_target else x[~seen]
            losses.append(((predicted - target) ** 2).mean(1))
        return torch.cat(losses).mean()

    def hidden_of_list(self, field, tokens, batch):
        """Tokens of a list, without the first one, predicted by a layer of Nystrom attention."""
        name, losses = f"retention.lists.{field}", []
        for row in tokens.row.unique().tolist():
            at = tokens.row == row
            x, count = tokens.x[at], int(at.sum()) - 1
            draw = signed(naive.bits(int(batch.seeds[row]), naive.code(f"retained {field}")))
            order, zeros = torch.arange(count), torch.zeros(count, dtype=torch.int64)
            seen = random_keep(zeros, zeros + draw, order, self.ratio)
            seen = torch.cat([torch.ones(1, dtype=torch.bool), seen])
            inputs = torch.where(
                seen[:, None], self.linear(f"{name}.embed", x), self.w[f"{name}.mask"]
            )
            inputs = inputs + positions(tokens.position[at], x.shape[1])
            made = nystrom.layer(
                self.w, f"{name}.layer", inputs, heads=self.heads, landmarks=x.shape[1] // 2
            )
            predicted = self.linear(f"{name}.head", self.norm(f"{name}.norm", made[~seen]))
            losses.append(((predicted - x[~seen]) ** 2).mean(1))
        return torch.cat(losses).mean()

    def hidden_of_vector(self, field, tokens, batch):
        """Entries of single vectors, predicted by a block between their heads."""
        name, total, number = f"retention.vectors.{field}", 0, 0
        for row, x in zip(tokens.row.tolist(), tokens.x):
            draw = signed(naive.bits(int(batch.seeds[row]), naive.code(f"retained {field}")))
            order, zeros = torch.arange(len(x)), torch.zeros(len(x), dtype=torch.int64)
            seen = random_keep(zeros, zeros + draw, order, self.ratio)
            inputs = torch.where(seen, self.linear(f"{name}.embed", x), self.w[f"{name}.mask"])
            made = nystrom.vector_block(
                self.w, f"{name}.block", inputs + self.w[f"{name}.place"], heads=self.heads
            )
            made = self.linear(f"{name}.head", nystrom.norm(self.w, f"{name}.norm", made, 1e-6))
            total, number = total + ((made - x)[~seen] ** 2).sum(), number + int((~seen).sum())
        return total / number

    def block(self, name, x):
        y, made = self.norm(f"{name}.blocks.0.norm1", x), []
        qkv = self.linear(f"{name}.blocks.0.attention.qkv", y)
        q, k, v = (part.chunk(self.heads, 1) for part in qkv.chunk(3, 1))
        for h in range(self.heads):
            made.append((q[h] @ k[h].T / math.sqrt(q[h].shape[1])).softmax(1) @ v[h])
        x = x + self.linear(f"{name}.blocks.0.attention.out", torch.cat(made, 1))
        y = self.linear(f"{name}.blocks.0.up", self.norm(f"{name}.blocks.0.norm2", x))
        x = x + self.linear(f"{name}.blocks.0.down", y * (1 + torch.erf(y / math.sqrt(2))) / 2)
        return self.norm(f"{name}.norm", x)

    def norm(self, name, x):
        var, mean = torch.var_mean(x, dim=-1, keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-5).sqrt() * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]


def signed(word):
    return word - 2**64 if word >= 2**63 else word


def positions(position, width):
    """Sines and cosines of each of three coordinates, at width // 6 wavelengths."""
    bands = width // 6
    columns = [
        position[:, axis].double() / 10000 ** (k / bands) for axis in range(3) for k in range(bands)
    ]
    angle = torch.stack(columns, 1)
    return torch.cat([angle.sin(), angle.cos(), angle.new_zeros(len(angle), width - 6 * bands)], 1)


SMALL = {"width": 8, "prototypes": 7, "hidden": 10, "latent": 5}


def hold(fields=("picture", "words"), rows=6, **options):
    options = SMALL | options
    known = {k: v for k, v in options.items() if hasattr(Mirror, k)}
    known |= {"limit": options.get("max_scale", 100.0)}
    reference = type("Mirror", (Mirror,), known)
    options.pop("hides", None)
    golden(
        "mirror",
        reference,
        views=("weak",),
        fields=fields,
        rows=rows,
        **({"tolerance": SINGLE} | options),
    )


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "signal", "facts")])
def test_two_steps(fields):
    hold(fields)


@pytest.mark.parametrize(
    "options",
    [
        {"stop_target": True, "ratio": 0.5},
        {"align": 2.0, "retain": 0.7, "style": 0.3, "cluster": 1.5},
        {"temperature": 0.3, "max_scale": 2.0, "hidden": 6, "latent": 3, "prototypes": 4},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


def test_two_steps_with_the_papers_kinds_of_encoder():
    """A list of vectors behind TransMIL's class token, and cells that one vector holds."""
    hold(
        ("signal", "facts"),
        backbones={
            "signal": "transmil:width=16,heads=2,kernel=5",
            "facts": "vector_transformer:width=12,heads=3,blocks=1",
        },
        hides={"signal": "hidden_of_list", "facts": "hidden_of_vector"},
    )


def test_defaults():
    """The loss class and the template of the authors' program."""
    assert defaults("mirror") == {
        "width": 512,
        "temperature": 0.07,
        "max_scale": 100.0,
        "ratio": 0.75,
        "stop_target": False,
        "prototypes": 3000,
        "hidden": 512,
        "latent": 128,
        "align": 0.5,
        "retain": 0.1,
        "style": 0.1,
        "cluster": 0.2,
    }
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 2e-5, 0.0, (0.9, 0.999))
    assert (r.schedule, r.clip, r.batch_size, r.epochs) == ("constant", 0.0, 16, 100.0)
