"""CPP, Chu et al. 2024, arXiv:2306.05272: rate reduction with doubly stochastic memberships, as in the
authors' code."""

import math

import pytest
import torch

from tests.golden.harness import (
    Reference,
    assert_same,
    batch_norm,
    defaults,
    golden,
    gradients,
    unit,
)
from tests.methods.bench import batch, exact, method


class Cpp(Reference):
    width, hidden, distortion, epsilon, iterations, weight = 8, 16, 0.1, 0.175, 5, 0.05
    warming = False

    def check_start(self):
        """The encoder is frozen; the head of the authors' code is trained."""
        for name, p in self.encoder.named_parameters():
            assert p.requires_grad == name.startswith("heads."), name
        shapes = {n: tuple(p.shape) for n, p in self.encoder.heads["picture"].named_parameters()}
        assert shapes == {
            "trunk.0.weight": (self.hidden, self.encoder.width),
            "trunk.0.bias": (self.hidden,),
            "trunk.1.weight": (self.hidden,),
            "trunk.1.bias": (self.hidden,),
            "trunk.3.weight": (self.hidden, self.hidden),
            "trunk.3.bias": (self.hidden,),
            "subspace.weight": (self.width, self.hidden),
            "subspace.bias": (self.width,),
            "member.weight": (self.width, self.hidden),
            "member.bias": (self.width,),
        }
        head = self.encoder.heads["picture"]
        assert torch.equal(head.member.weight, head.subspace.weight)
        assert self.min_batch_size == 2

    def losses(self, batch):
        with torch.no_grad():
            tokens = self.encoder.encode(self.encoder.tokenize(batch))
        terms = {}
        for field, t in tokens.items():
            rows = sorted(set(t.row.tolist()))
            x = torch.stack([t.x[t.row == r].mean(0) for r in rows]) if rows else t.x
            z, c = self.head(field, x)
            parts = {"spread": -self.rate(z) if rows else 0 * z.sum()}
            if not rows and not self.warming:
                parts |= {"compress": 0 * z.sum(), "norm": 0 * c.sum()}
            elif not self.warming:
                members = self.members(c)
                parts["compress"] = self.compressed(z, members)
                parts["norm"] = self.weight / 2 * (members**2).sum()
            terms |= {f"{name}/{field}": p / len(tokens) for name, p in parts.items()}
        return terms

    def head(self, field, x):
        """Linear, BatchNorm, ReLU, linear, ReLU; a linear branch for subspaces and one for
        memberships, both of unit length."""
        module = self.encoder.heads[field]
        w = module.state_dict(keep_vars=True)
        linear = lambda name, x: x @ w[f"{name}.weight"].T + w[f"{name}.bias"]  # noqa: E731
        x = batch_norm(w, "trunk.1", linear("trunk.0", x)).relu()
        for name, buffer in module.named_buffers():
            buffer.copy_(w[name])
        x = linear("trunk.3", x).relu()
        return unit(linear("subspace", x)), unit(linear("member", x))

    def rate(self, z):
        n, d = z.shape
        identity = torch.eye(d).double()
        return torch.logdet(identity + d / (n * self.distortion) * z.T @ z) / 2

    def compressed(self, z, members):
        """Each column of memberships is a group that rows belong to by degrees."""
        n, d = z.shape
        total = 0
        for pi in members.T:
            size = pi.sum()
            covariance = z.T @ torch.diag(pi) @ z
            scaled = torch.eye(d).double() + d / (size * self.distortion) * covariance
            total = total + size / (2 * n) * torch.logdet(scaled)
        return total

    def members(self, c):
        """Sinkhorn's scaling of |cosines|, half a step at a time; as in the authors' code the
        factors of columns are constants to the gradient."""
        n = len(c)
        kernel = (c @ c.T).abs() / self.epsilon
        u, v = torch.zeros(n).double(), torch.zeros(n).double()
        for i in range(self.iterations):
            if i % 2 == 0:
                u = -math.log(n) - (kernel + v[None]).logsumexp(1)
            else:
                v = (-math.log(n) - (kernel + u[:, None]).logsumexp(0)).detach()
        return n * (kernel + u[:, None] + v[None]).exp()

    def end_warmup(self):
        """Memberships begin as a copy of the subspaces' branch."""
        self.warming = False
        for head in self.encoder.heads.values():
            head.member.load_state_dict(head.subspace.state_dict())


def cpp(**options):
    return type("Cpp", (Cpp,), options)


SMALL = {"width": 8, "hidden": 16}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"distortion": 0.5, "weight": 0.7},
        {"epsilon": 0.6, "iterations": 4},
        {"iterations": 1},
        {"iterations": 2},
    ],
)
def test_two_steps(options):
    fixed = {"views": ("plain",), "fields": ("picture",), "warmup": 0.0}
    golden("cpp", cpp(**options), **fixed, **SMALL, **options)


def test_two_steps_of_two_fields():
    golden("cpp", Cpp, views=("plain",), fields=("picture", "words"), rows=7, warmup=0.0, **SMALL)


def test_two_steps_of_warmup():
    reference = cpp(warming=True)
    golden("cpp", reference, views=("plain",), fields=("picture",), warmup=0.5, **SMALL)


def test_the_warmup_ends_with_a_copy():
    page = exact(method("cpp", sources=("picture",), warmup=0.3, **SMALL)).train()
    assert tuple(page.stages) == (0.3, 1.0) and not page.refresh_first
    expected = cpp(warming=True)(page)
    rows = exact(batch(("plain",), size=6, sources=("picture",)))
    page.on_stage_start(0)
    assert_same(page.losses(page.features(rows)), expected.losses(rows), "warm-up")
    page.refresh(1, None)
    page.on_stage_start(1)
    expected.end_warmup()
    terms, wanted = page.losses(page.features(rows)), expected.losses(rows)
    assert_same(terms, wanted, "memberships")
    sum(terms.values()).backward()
    sum(wanted.values()).backward()
    trained = {n: p for n, p in page.named_parameters() if p.requires_grad}
    assert_same(gradients(trained), gradients(expected.parameters()), "gradient")
    assert not any(t.requires_grad for t in page.features(rows)["picture"].flat[None])


def test_without_warmup_there_is_one_stage():
    assert tuple(method("cpp", sources=("picture",), warmup=0.0, **SMALL).stages) == (1.0,)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_row_and_none(rows):
    fixed = {"views": ("plain",), "fields": ("picture",), "warmup": 0.0}
    golden("cpp", Cpp, rows=rows, **fixed, **SMALL)


def test_defaults():
    """Authors' code; the warm-up is 0 to a few hundred steps there."""
    assert defaults("cpp") == {
        "width": 128,
        "hidden": 4096,
        "distortion": 0.1,
        "epsilon": 0.175,
        "iterations": 5,
        "weight": 0.05,
        "warmup": 0.07,
    }
