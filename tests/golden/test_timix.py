"""TiMix, Jiang et al. 2024, arXiv:2312.08846, and the authors' code."""

import itertools

import pytest
import torch

from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.mixing import batch_seed, beta, partners
from amodal.methods.contrastive.timix import PAPER_RECIPE
from tests.golden.harness import common, defaults, golden, unit
from tests.golden.naive import code
from tests.golden.pairs import PairsOfFields

pytestmark = pytest.mark.usefixtures("larger_pictures")


class TiMix(PairsOfFields):
    log = "scale.log"
    place, low, high, alpha = "text", 0.25, 0.75, 1.0
    weight, smoothing, soft, text_field = 1.0, 0.1, 0.0, "words"

    def check_start(self):
        super().check_start()
        assert all(p.requires_grad for p in self.encoder.parameters())

    def loss(self, logits):
        """CLIP's, of what is not mixed."""
        target = torch.eye(len(logits)).double()
        return self.cross_entropy(logits, target, target)

    def cross_entropy(self, logits, target, back):
        total = 0
        for i in range(len(logits)):
            total = total - (target[i] * (logits[i] - logits[i].logsumexp(0))).sum()
            total = total - (back[i] * (logits[:, i] - logits[:, i].logsumexp(0))).sum()
        return total / len(logits) / 2

    def losses(self, batch):
        terms = super().losses(batch)
        if not self.weight:
            return terms
        columns, content = self.encoder(batch).columns, self.encoder.patchify(batch)
        others = [f for f in columns if f != self.text_field]
        for f in others:
            rows = [r for r in columns[f].rows.tolist() if r in columns[self.text_field].rows]
            image, text = (unit(z) for z in common(columns, f, self.text_field))
            share = self.weight / len(others)
            name = f"mixed/{f}~{self.text_field}"
            if len(rows) < 2:
                terms[name] = 0 * (image.sum() + text.sum())
                continue
            mixed, partner, lam = self.mix(content[f], f, rows, batch.seeds[rows], text)
            logits = unit(mixed) @ text.T * self.scale()
            terms[name] = share * self.mixed_loss(logits, image, text, partner, lam)
        return terms

    def mixed_loss(self, logits, image, text, partner, lam):
        """A mixture shows as much of each caption as it has of its picture; label smoothing of
        `smoothing`; or what the model made of both pictures."""
        n = len(logits)
        hard, back = torch.zeros(n, n).double(), torch.zeros(n, n).double()
        for i, j in enumerate(partner):
            hard[i, i], back[i, i] = hard[i, i] + lam[i], back[i, i] + lam[i]
            hard[i, j], back[j, i] = hard[i, j] + 1 - lam[i], back[j, i] + 1 - lam[i]
        hard, back = ((1 - self.smoothing) * y + self.smoothing / n for y in (hard, back))
        seen = (image @ text.T * self.scale()).detach().softmax(1)
        soft = torch.stack(
            [lam[i] * seen[i] + (1 - lam[i]) * seen[j] for i, j in enumerate(partner)]
        )
        y, back = ((1 - self.soft) * y + self.soft * soft for y in (hard, back))
        return self.cross_entropy(logits, y, back)

    def mix(self, tokens, field, rows, seeds, text):
        """The vectors of mixtures, with which row each is mixed, and how much of it is its own.

        A linear map of patches commutes with mixing, so what it makes is mixed."""
        seeds = hash_bits(seeds, code(field))
        partner, drawn = partners(seeds).tolist(), batch_seed(seeds)
        own = [(tokens.row == r).nonzero().flatten().tolist() for r in rows]
        grid = [self.grid(tokens.position[at]) for at in own]
        x, lam = list(tokens.x), []
        score = self.relevance(tokens, field, own, text)
        for i, j in enumerate(partner):
            if self.place == "everywhere":
                lam.append(float(beta(drawn, self.alpha)))
                for y, column in itertools.product(*(range(side) for side in grid[i])):
                    there = (y * grid[j][0] // grid[i][0], column * grid[j][1] // grid[i][1])
                    at, other = own[i][y * grid[i][1] + column], self.cell(own[j], grid[j], there)
                    x[at] = lam[i] * tokens.x[at] + (1 - lam[i]) * tokens.x[other]
                continue
            window = self.window(grid[i], grid[j], float(uniform(drawn, 0)))
            to, source = self.corners(i, j, grid, window, seeds, score)
            for y, column in itertools.product(*(range(side) for side in window)):
                at = self.cell(own[i], grid[i], (to[0] + y, to[1] + column))
                x[at] = tokens.x[self.cell(own[j], grid[j], (source[0] + y, source[1] + column))]
            lam.append(1 - window[0] * window[1] / len(own[i]))
        mixed = self.encoder.add_positions(tokens.with_x(torch.stack(x)))
        mixed = self.encoder.encode({field: mixed})[field]
        pooled = torch.stack([mixed.x[mixed.row == r].mean(0) for r in rows])
        return self.project(field, pooled), partner, lam

    def project(self, field, x):
        return x @ self.encoder.heads[field].weight.T

    def grid(self, position):
        """Rows and columns: of a picture those of its patches, of anything else one row."""
        varies = [d for d in range(position.shape[1]) if len(set(position[:, d].tolist())) > 1]
        if len(varies) < 2:
            return 1, len(position)
        return tuple(len(set(position[:, d].tolist())) for d in varies)

    def cell(self, indices, grid, place):
        return indices[place[0] * grid[1] + place[1]]

    def window(self, one, other, u):
        """Sides from `low` to `high` of the smaller grid; all or nothing is no window."""
        sides = []
        for a, b in zip(one, other):
            least, most = int(min(a, b) * self.low), int(min(a, b) * self.high)
            sides.append(1 if min(a, b) == 1 else least + int(u * (most - least + 1)))
        smallest = min(one[0] * one[1], other[0] * other[1])
        return tuple(sides) if 0 < sides[0] * sides[1] < smallest else (0, 0)

    def relevance(self, tokens, field, indices, text):
        """Cosine of each patch and the caption, of which the paper trains a predictor."""
        with torch.no_grad():
            plain = self.encoder.encode({field: self.encoder.add_positions(tokens)})[field]
            x = unit(self.project(field, plain.x))
            return [(x[at] @ text[i]).tolist() for i, at in enumerate(indices)]

    def corners(self, i, j, grid, window, seeds, score):
        """Where to, and where from: the least of this picture, the most of the other one."""
        if self.place == "random":
            u = [float(uniform(seeds[i], axis)) for axis in (1, 2)]
            return tuple([int(u[d] * (grid[k][d] - window[d] + 1)) for d in (0, 1)] for k in (i, j))
        best = []
        for k, sign in ((i, -1), (j, 1)):
            places = itertools.product(*(range(g - w + 1) for g, w in zip(grid[k], window)))
            best.append(
                max(places, key=lambda corner: sign * self.total(score[k], grid[k], corner, window))
            )
        return best

    def total(self, score, grid, corner, window):
        cells = itertools.product(*(range(side) for side in window))
        return sum(score[(corner[0] + y) * grid[1] + corner[1] + x] for y, x in cells)


def hold(fields=("picture", "words"), rows=6, **options):
    options = {"width": 8} | options
    reference = type("TiMix", (TiMix,), options)
    golden("timix", reference, views=("weak",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize("place", ["text", "random", "everywhere"])
@pytest.mark.parametrize("soft", [0.0, 0.4, 1.0])
def test_two_steps(place, soft):
    hold(place=place, soft=soft)


@pytest.mark.parametrize("place", ["text", "random", "everywhere"])
def test_two_steps_of_more_fields(place):
    """Series and tables are mixed too; the shorter one says how large a window may be."""
    hold(("picture", "words", "signal", "facts"), rows=8, place=place, low=0.1, high=0.9)


@pytest.mark.parametrize(
    "options",
    [
        {"low": 0.5, "high": 0.5, "smoothing": 0.0},
        {"low": 0.75, "high": 0.75, "smoothing": 0.5, "weight": 0.3},
        {"low": 0.0, "high": 0.2},
        {"low": 1.0, "high": 1.0},
        {"place": "everywhere", "alpha": 0.3},
        {"temperature": 0.5, "soft": 0.7},
        {"max_scale": 5.0},
        {"weight": 0.0},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows)


def test_another_text_guides():
    hold(("picture", "words"), text_field="picture", place="text")


def test_defaults():
    """The paper's sides and smoothing; 0.07 is CLIP's and the authors' start."""
    assert defaults("timix") == {
        "text_field": "",
        "place": "text",
        "low": 0.25,
        "high": 0.75,
        "alpha": 1.0,
        "weight": 1.0,
        "smoothing": 0.1,
        "soft": 0.0,
        "width": 128,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    reference = type("TiMix", (TiMix,), {"width": 128})
    golden("timix", reference, views=("weak",))
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-4, 0.02, (0.9, 0.999))
    assert (r.schedule, r.warmup_steps, r.clip) == ("cosine", 2000, 1.0)
    assert (r.batch_size, r.epochs) == (1024, 30.0)
