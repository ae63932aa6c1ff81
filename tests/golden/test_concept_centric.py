"""A concept-centric approach, Geng and Tang 2024, arXiv:2412.13847: concepts as probabilistic boxes,
learnt by their entailments, and a projection of each modality onto them. Boxes are smoothed as by
Li et al. 2019 and Dasgupta et al. 2020, arXiv:2010.04831; where they begin is the page's own."""

import math

import pytest
import torch

from tests.golden.harness import Reference, assert_same, defaults, golden, gradients
from tests.methods.bench import batch, exact, method

VIEWS = {"picture": ("weak",), "words": ("weak",), "signal": ("weak",), "facts": ("plain",)}
CONCEPTS = ("colour", "colour=blue", "colour=red")
COLOUR = 1
"""The column of the bench's table that has categories; the other one has numbers."""


def softplus(x):
    return torch.log1p((-x.abs()).exp()) + x.clamp(min=0)


def log_volume(side, softness):
    """Sides are smoothed, so that none is 0."""
    return (softness * softplus(side / softness)).log().sum()


def log_entailment(a, b, softness):
    """log P(a | b): the share of the volume of b that both have. Corners of the intersection are
    smooth maxima and minima, whose temperature is a tenth of that of sides."""
    (low_a, side_a), (low_b, side_b) = a, b
    t, both = softness / 10, lambda x, y: torch.stack([x, y])
    low = t * (both(low_a, low_b) / t).logsumexp(0)
    high = -t * (-both(low_a + side_a, low_b + side_b) / t).logsumexp(0)
    return log_volume(high - low, softness) - log_volume(side_b, softness)


def cross_entropy(log_p, target):
    """Binary, of a probability of which the logarithm is known."""
    return -(target * log_p + (1 - target) * torch.log(-torch.expm1(log_p)))


def annotations(cells):
    """Of each record which concepts hold: what has a colour, and which one. Nothing is known of one
    whose colour is not."""
    return [
        [1.0, float(code == 0), float(code == 1)] if not math.isnan(code) else [math.nan] * 3
        for code in cells[:, COLOUR].tolist()
    ]


class Concepts(Reference):
    dims, softness, steps = 16, 0.1, 1000

    def __init__(self, page):
        super().__init__(page)
        self.w |= dict(self.encoder.named_parameters()) | dict(self.encoder.named_buffers())

    def parameters(self):
        return {f"encoder.{n}": p for n, p in self.encoder.named_parameters()}

    def state(self):
        return {f"encoder.{n}": v for n, v in self.encoder.state_dict().items()}

    def check_start(self):
        """Projections are perceptrons; the boxes of concepts are no parameters of theirs."""
        width = self.encoder.width
        assert self.min_batch_size == 1
        for f in self.encoder.fields:
            self.assert_shapes(
                **{
                    f"heads__{f}__to_box__0__weight": (width, width),
                    f"heads__{f}__to_box__2__weight": (2 * self.dims, width),
                    f"heads__{f}__low": (len(CONCEPTS), self.dims),
                    f"heads__{f}__side": (len(CONCEPTS), self.dims),
                }
            )
            low, side = self.concepts(f)
            assert not low.requires_grad and not side.requires_grad
            assert low.min() >= 0 and low.max() < 1 and 0.2 < low.std() < 0.4
            assert torch.equal(side, torch.full_like(side, 0.5))
            assert torch.equal(low, self.concepts(next(iter(self.encoder.fields)))[0])

    def concepts(self, f):
        return self.w[f"heads.{f}.low"], self.w[f"heads.{f}.side"]

    def linear(self, f, i, x):
        name = f"heads.{f}.to_box.{i}"
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def box(self, f, x):
        """Corners begin in the middle of the space, sides at a tenth of it or so."""
        hidden = self.linear(f, 0, x)
        out = self.linear(f, 2, hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2)
        return out[: self.dims] + 0.5, softplus(out[self.dims :] - 2)

    def losses(self, batch):
        """Each modality by itself: what is annotated is to follow from the box of its value."""
        tokens = self.encoder.encode(self.encoder.tokenize(batch))
        table = batch["facts"]
        known = dict(zip(table.rows.tolist(), annotations(table.values)))
        terms = {}
        for f, t in tokens.items():
            total, n = 0 * sum(p.sum() for p in self.encoder.heads[f].parameters()), 0
            for row in sorted(set(t.row.tolist()) & set(known)):
                box = self.box(f, t.x[t.row == row].mean(0))
                for low, side, target in zip(*self.concepts(f), known[row]):
                    if not math.isnan(target):
                        log_p = log_entailment((low, side), box, self.softness)
                        total, n = total + cross_entropy(log_p, target), n + 1
            terms[f"entail/{f}"] = total / max(n, 1) / len(tokens)
        return terms


def concepts(**options):
    return type("Concepts", (Concepts,), options)


def hold(fields=("picture", "words", "facts"), rows=6, **options):
    views = {f: VIEWS[f] for f in fields}
    reference = concepts(**options)
    golden("concept_centric", reference, views=views, fields=fields, rows=rows, **options)


@pytest.mark.parametrize(
    "fields", [("picture", "facts"), ("picture", "words", "facts"), ("signal", "words", "facts")]
)
def test_two_steps(fields):
    hold(fields)


@pytest.mark.parametrize("options", [{"dims": 5}, {"softness": 0.5}, {"softness": 1.5, "dims": 3}])
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows)


# The space of concepts, before anything else.


def shares(records):
    """P(i | j) of concepts, among the records of which j holds and i is known."""
    rows = [r for r in records if not any(math.isnan(x) for x in r)]
    table = torch.full((3, 3), math.nan).double()
    for i in range(3):
        for j in range(3):
            those = [r for r in rows if r[j]]
            if those:
                table[i, j] = sum(r[i] for r in those) / len(those)
    return table


def learned(target, dims, softness, steps):
    """Adam (Kingma and Ba), at a rate of 0.05."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(3, dims, dtype=torch.float64, generator=generator).requires_grad_()
    raw = torch.full((3, dims), math.log(math.exp(0.5) - 1)).double().requires_grad_()
    first, second = [torch.zeros(2, 3, dims).double() for _ in range(2)]
    for step in range(1, steps + 1):
        side, total, n = softplus(raw), 0, 0
        for i in range(3):
            for j in range(3):
                if not math.isnan(target[i, j]):
                    log_p = log_entailment((low[i], side[i]), (low[j], side[j]), softness)
                    total, n = total + cross_entropy(log_p, target[i, j]), n + 1
        gradient = torch.stack(torch.autograd.grad(total / n, (low, raw)))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        scale = (second / (1 - 0.999**step)).sqrt() + 1e-8
        move = 0.05 * first / (1 - 0.9**step) / scale
        with torch.no_grad():
            low -= move[0]
            raw -= move[1]
    return low.detach(), softplus(raw).detach()


@pytest.mark.parametrize("options", [{"steps": 12}, {"steps": 3, "dims": 4, "softness": 0.4}])
def test_the_space_is_learnt_first_and_then_stays(options):
    fields = ("picture", "words", "facts")
    page = exact(method("concept_centric", sources=fields, **options)).train()
    views = {f: VIEWS[f] for f in fields}
    parts = [exact(batch(views, size=n, seed=n, sources=fields)) for n in (6, 9)]
    page.fit_statistics(iter(parts))
    options = {"dims": 16, "softness": 0.1} | options
    low, side = learned(
        shares([r for p in parts for r in annotations(p["facts"].values)]), **options
    )
    expected = concepts(**options)(page)
    for f in fields:
        own = {"low": expected.w[f"heads.{f}.low"], "side": expected.w[f"heads.{f}.side"]}
        assert_same(own, {"low": low, "side": side}, f, 1e-6)
    terms, wanted = page.losses(page.features(parts[0])), expected.losses(parts[0])
    assert_same(terms, wanted, "loss")
    sum(terms.values()).backward()
    sum(wanted.values()).backward()
    trained = {n: p for n, p in page.named_parameters() if p.requires_grad}
    assert_same(gradients(trained), gradients(expected.parameters()), "gradient")


def test_of_an_unknown_cell_nothing_is_learnt():
    """Nor of a category that is new."""
    fields = ("words", "facts")
    page = exact(method("concept_centric", sources=fields)).train()
    rows = exact(batch({f: VIEWS[f] for f in fields}, size=8, sources=fields))
    cells = rows["facts"].values
    cells[0, COLOUR], cells[2, COLOUR] = math.nan, 2
    expected = Concepts(page)
    terms, wanted = page.losses(page.features(rows)), expected.losses(rows)
    assert_same(terms, wanted, "loss")
    sum(terms.values()).backward()
    sum(wanted.values()).backward()
    trained = {n: p for n, p in page.named_parameters() if p.requires_grad}
    assert_same(gradients(trained), gradients(expected.parameters()), "gradient")
    cells[:, COLOUR] = math.nan
    assert not any(page.losses(page.features(rows)).values())


def test_defaults():
    """The page's own, since nothing of the authors is public."""
    assert defaults("concept_centric") == {
        "concepts": "",
        "dims": 16,
        "softness": 0.1,
        "steps": 1000,
    }
