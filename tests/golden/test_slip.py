"""SLIP, Mu, Kirillov, Wagner and Xie 2022, arXiv:2112.12750: algorithm 1."""

import itertools

import pytest
import torch

from tests.golden.harness import Reference, common, defaults, golden, projector, unit


class Slip(Reference):
    weight, temperature, max_scale, view_temperature = 1.0, 0.07, 100.0, 0.1
    width, hidden, projection = 8, 12, 6

    def check_start(self):
        """Section 3: a linear projection to the common space, and for views a perceptron of three
        layers."""
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        self.assert_shapes(
            learned__heads__picture__0__weight=(self.hidden, self.encoder.width),
            learned__heads__picture__3__weight=(self.hidden, self.hidden),
            learned__heads__picture__6__weight=(self.projection, self.hidden),
        )
        assert not any("heads.words" in name for name in self.w)
        begin = self.w["learned.scale.log"].detach().exp()
        assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)

    def losses(self, batch):
        aligned = self.encoder(batch).columns
        tokens = self.encoder.encode(self.encoder.tokenize(batch))
        viewed = sorted({s.partition(":")[0] for s in aligned if ":" in s})
        first = [s for s in aligned if s.partition(":")[2] in ("", "1")]
        pairs = list(itertools.combinations(first, 2))
        terms = {}
        for a, b in pairs:
            terms[f"info_nce/{a}~{b}"] = self.clip(*common(aligned, a, b)) / len(pairs)
        for field in viewed:
            a, b = f"{field}:2", f"{field}:3"
            z = [
                projector(self.w, f"learned.heads.{field}", self.pooled(tokens[s])) for s in (a, b)
            ]
            terms[f"nt_xent/{field}"] = self.weight * self.views(*z) / len(viewed)
        return terms

    def pooled(self, tokens):
        """The mean of a record's tokens, before the projection to the common space."""
        rows = sorted(set(tokens.row.tolist()))
        means = [tokens.x[tokens.row == r].mean(0) for r in rows]
        return torch.stack(means) if means else tokens.x

    def clip(self, a, b):
        """Symmetric, with a learned scale of at most 100, whose bound lets gradients through."""
        if len(a) < 2:
            return 0 * (a.sum() + b.sum())
        log = self.w["learned.scale.log"]
        scale = log.exp()
        if scale > self.max_scale:
            scale = self.max_scale * (log - log.detach()).exp()
        logits = scale * unit(a) @ unit(b).T
        rows = [x.logsumexp(0) - x[i] for i, x in enumerate(logits)]
        columns = [x.logsumexp(0) - x[i] for i, x in enumerate(logits.T)]
        return sum(rows + columns) / len(a) / 2

    def views(self, a, b):
        """SimCLR's: each of 2N views is classified among the 2N - 1 others."""
        n, z = len(a), unit(torch.cat([a, b]))
        if n < 2:
            return 0 * (a.sum() + b.sum())
        total = 0
        for i in range(2 * n):
            logits = {j: z[i] @ z[j] / self.view_temperature for j in range(2 * n) if j != i}
            total = (
                total + torch.stack(list(logits.values())).logsumexp(0) - logits[(i + n) % (2 * n)]
            )
        return total / (2 * n)


SMALL = {"width": 8, "hidden": 12, "projection": 6}
VIEWS = {"picture": ("weak", "strong", "strong"), "words": ("weak",)}


def slip(**options):
    return type("Slip", (Slip,), options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": 0.3, "temperature": 0.2, "view_temperature": 0.5},
        {"temperature": 2.0, "max_scale": 0.4},
    ],
)
def test_two_steps(options):
    golden("slip", slip(**options), views=VIEWS, **SMALL, **options)


def test_two_steps_with_views_of_two_fields():
    """Every field but text has views of its own."""
    views = VIEWS | {"signal": ("weak", "strong", "strong")}
    golden("slip", Slip, views=views, fields=("picture", "words", "signal"), **SMALL)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_row_has_no_negatives(rows):
    golden("slip", Slip, views=VIEWS, rows=rows, **SMALL)


def test_defaults():
    """Section 3 and authors' code."""
    assert defaults("slip") == {
        "weight": 1.0,
        "width": 512,
        "temperature": 0.07,
        "max_scale": 100.0,
        "view_temperature": 0.1,
        "hidden": 4096,
        "projection": 256,
    }
