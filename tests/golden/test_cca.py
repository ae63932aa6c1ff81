"""Regularised CCA as a generalised eigenproblem (Hotelling 1936; Vinod 1976; Kettenring 1971), its
directions weighted by a power of their correlation (Gong et al. 2014, arXiv:1212.4522, section 3.3)."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

from amodal.masking.hashing import uniform
from tests.golden.harness import Reference, common, defaults, golden, unit
from tests.golden.test_clip import cross_entropy
from tests.methods.bench import batch, exact, method

PENALTIES, POWERS = (1e-3, 1e-2, 0.1, 1.0, 10.0), (0.5, 1.0, 2.0)
ROWS = 60


class Cca(Reference):
    """InfoNCE of the towers' features after their maps: the step that is left to the temperature."""

    def check_start(self):
        assert self.min_batch_size == 2

    def losses(self, batch):
        z = self.vectors(batch)
        pairs = list(itertools.combinations(z, 2))
        terms = {}
        for a, b in pairs:
            x, y = (unit(v) for v in common(z, a, b))
            logits = x @ y.T * self.w["learned.log"].exp()
            terms[f"info_nce/{a}~{b}"] = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
        return {name: term / len(pairs) for name, term in terms.items()}

    def vectors(self, batch):
        return self.encoder(batch).columns


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
def test_two_steps(fields):
    golden("cca", Cca, views=("weak",), fields=fields)


def test_defaults_and_what_learns():
    assert defaults("cca") == {"temperature": 0.07, "max_scale": 100.0}
    page = method("cca", sources=("picture", "words"))
    assert page.lr_multipliers == {"encoder.": 0.0}
    assert float(page.learned().detach()) == pytest.approx(1 / 0.07)
    trained = {n for n, p in page.encoder.named_parameters() if p.requires_grad}
    assert trained == {f"heads.{f}.{p}" for f in ("picture", "words") for p in ("weight", "bias")}


def directions(x, rows, penalties):
    """Field -> map, and correlations: A w = rho B w, A the covariances between fields and B those
    within, with penalties. x: field -> {row: vector}."""
    names, mean, cov = list(x), {}, {}
    for a, b in itertools.product(names, names):
        both = [r for r in rows if r in x[a] and r in x[b]]
        u, v = (np.stack([x[f][r] for r in both]) for f in (a, b))
        cov[a, b] = (u - u.mean(0)).T @ (v - v.mean(0)) / len(both)
        mean[a] = u.mean(0) if a == b else mean.get(a)
    width = [len(mean[n]) for n in names]
    between = np.block([[cov[a, b] * (a != b) for b in names] for a in names])
    within = scipy.linalg.block_diag(
        *(
            cov[n, n] + (penalties[n] * np.trace(cov[n, n]) / len(cov[n, n]) + 1e-12) * np.eye(d)
            for n, d in zip(names, width)
        )
    )
    rho, w = scipy.linalg.eigh(between, within)
    keep = np.argsort(-rho)[: min(width)]
    keep = keep[rho[keep] > 0]
    starts = np.cumsum([0, *width])
    maps = {n: w[i : i + d, keep] * len(names) ** 0.5 for n, i, d in zip(names, starts, width)}
    return mean, maps, np.minimum(rho[keep] / (len(names) - 1), 1)


def mapped(x, rows, mean, maps, rho, power):
    return {
        n: {r: (x[n][r] - mean[n]) @ (maps[n] * rho**power) for r in rows if r in x[n]} for n in x
    }


def cosines(z, a, b):
    both = [r for r in z[a] if r in z[b]]
    u, v = (np.stack([z[f][r] / np.linalg.norm(z[f][r]) for r in both]) for f in (a, b))
    return u @ v.T


def mean_reciprocal_rank(z):
    found = []
    for a, b in itertools.permutations(z, 2):
        c = cosines(z, a, b)
        found.append(np.mean([1 / (1 + (c[i] > c[i, i]).sum()) for i in range(len(c))]))
    return np.mean(found)


def fitted(x, fit, held):
    """Penalties, power and the inverse temperature, chosen on held-out rows."""
    best = (-1.0, {}, 0.0)

    def attempt(best, penalties):
        mean, maps, rho = directions(x, fit, penalties)
        for power in POWERS:
            score = mean_reciprocal_rank(mapped(x, held, mean, maps, rho, power))
            best = (score, penalties, power) if score > best[0] + 1e-6 else best
        return best

    for p in PENALTIES:
        best = attempt(best, dict.fromkeys(x, p))
    for name in x:
        start = best[1]
        for p in PENALTIES:
            if p != start[name]:
                best = attempt(best, {**start, name: p})
    z = mapped(x, held, *directions(x, fit, best[1]), best[2])
    losses = []
    for log in np.linspace(0, np.log(100), 41):
        pairs = [np.exp(log) * cosines(z, a, b) for a, b in itertools.permutations(x, 2)]
        losses.append(sum(float(cross_entropy(torch.tensor(c))) for c in pairs))
    return best[1], best[2], np.linspace(0, np.log(100), 41)[int(np.argmin(losses))]


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
def test_the_fit_is_that_of_the_eigenproblem(fields):
    page = exact(method("cca", sources=fields)).eval()
    with torch.no_grad():  # something that fields share, which random towers would not show
        whole = exact(batch(("plain",), size=ROWS, sources=fields))
        z = {f: page.pooled(whole)[f] for f in fields}
        shared = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(0)).double()
        mix = {f: torch.randn(5, c.values.shape[1]).double() / 20 for f, c in z.items()}
    page.pooled = lambda b: type(page.encoder.features(b))(
        {f: type(z[f])(c.values + shared[[int(k.split("-")[1]) for k in b.keys]][c.rows] @ mix[f], c.rows)
         for f, c in page.encoder.features(b).columns.items()}, b.size)  # fmt: skip
    x = {
        f: {r: v for r, v in zip(c.rows.tolist(), c.values.numpy())}
        for f, c in page.pooled(whole).columns.items()
    }
    page.fit_statistics([whole.between(i, i + 16) for i in range(0, ROWS, 16)])
    held = [r for r in range(ROWS) if float(uniform(whole.seeds, 1)[r]) < 0.2]
    assert 5 < len(held) < 20
    penalties, power, log = fitted(x, [r for r in range(ROWS) if r not in held], held)
    assert float(page.learned.log.detach()) == pytest.approx(log)
    wanted = mapped(x, range(ROWS), *directions(x, range(ROWS), penalties), power)
    with torch.no_grad():
        made = page.mapped(page.pooled(whole)).columns
    for f in fields:
        assert np.allclose(page.get_buffer(f"mean/{f}"), np.mean(list(x[f].values()), 0))
    found = {f: dict(zip(c.rows.tolist(), c.values.numpy())) for f, c in made.items()}
    for a, b in itertools.combinations(fields, 2):
        # vectors are those up to a rotation of the space that all fields share
        assert np.allclose(cosines(found, a, b), cosines(wanted, a, b), atol=1e-5)
