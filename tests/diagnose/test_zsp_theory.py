"""zsp_theory: each term against its definition written as loops, and what each is for."""

import itertools

import numpy as np
import pytest
import torch

from amodal.diagnose.zsp_theory import (
    Canonical,
    cca_spectrum,
    indirect,
    limit,
    prompt_bias,
    prompt_curve,
    residual_dependence,
    terms,
    two_stage,
)


def table(seed=0, leak=0.0, shape=(6, 5, 3)):
    """p(x, z, y) in which y depends on z alone but for a share `leak`."""
    rng = np.random.default_rng(seed)
    x, z, y = shape
    p_xz = rng.dirichlet(np.full(x * z, 0.3)).reshape(x, z)
    conditional_z, conditional_xz = (
        rng.dirichlet(np.full(y, 0.3), z),
        rng.dirichlet(np.full(y, 0.3), (x, z)),
    )
    return torch.from_numpy(
        p_xz[:, :, None] * ((1 - leak) * conditional_z[None] + leak * conditional_xz)
    )


def test_the_terms_of_a_table_are_their_definitions():
    p, rho = table(leak=0.6), torch.from_numpy(np.random.default_rng(1).dirichlet(np.ones(5), 3))
    found, expected = (
        terms(p * 100, rho),
        dict.fromkeys(("residual", "floor", "bias", "excess"), 0.0),
    )
    p_y = p.sum((0, 1))
    for x, y in itertools.product(range(6), range(3)):
        p_x = p[x].sum()
        best = p[x, :, y].sum() / p_x
        through = sum(p[x, z].sum() / p_x * p[:, z, y].sum() / p[:, z].sum() for z in range(5))
        prompted = p_y[y] * sum(rho[y, z] * p[x, z].sum() / (p_x * p[:, z].sum()) for z in range(5))
        for name, square in (
            ("floor", best - through), ("bias", through - prompted), ("excess", best - prompted)
        ):  # fmt: skip
            expected[name] += float(p_x * square**2)
        for z in range(5):
            own = p[x, z, y] / p[x, z].sum() - p[:, z, y].sum() / p[:, z].sum()
            expected["residual"] += float(p[x, z].sum() * own**2)
    assert found == pytest.approx(expected)
    assert found["floor"] <= found["residual"]


def test_without_leakage_captions_are_a_sufficient_bridge():
    p = table(leak=0.0)
    rho = (p.sum(0) / p.sum((0, 1))).T
    found = terms(p, rho)
    assert max(found.values()) < 1e-12
    torch.testing.assert_close(
        indirect(p.sum(2), rho, p.sum((0, 1))), p.sum(1) / p.sum((1, 2))[:, None]
    )


def test_the_spectrum_is_that_of_the_angles_between_two_spaces():
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(200, 2, generator=g)
    x = torch.cat([shared + torch.randn(200, 2, generator=g), torch.randn(200, 3, generator=g)], 1)
    z = torch.cat(
        [shared * 2 + torch.randn(200, 2, generator=g), torch.randn(200, 2, generator=g)], 1
    )
    qx, qz = (np.linalg.qr((t - t.mean(0)).double().numpy())[0] for t in (x, z))
    expected = np.linalg.svd(qx.T @ qz, compute_uv=False)
    np.testing.assert_allclose(cca_spectrum(x, z, ridge=1e-9), expected, atol=1e-6)
    held = cca_spectrum(x[:60], z[:60], held_out=(x[60:], z[60:]))
    assert held[:2].min() > 0.3 and held[2:].abs().max() < 0.3 < float(
        cca_spectrum(x[:60], z[:60])[2:].max()
    )


def test_the_density_of_categories_is_their_table():
    """One-hot values span all functions, so the low-rank R is p(x, z) / p(x) p(z)."""
    p = table(3).sum(2)
    counts = (p * 4000).round().long()
    at = [(i, j) for i in range(6) for j in range(5) for _ in range(int(counts[i, j]))]
    x, z = (torch.eye(n)[[a[k] for a in at]] for k, n in ((0, 6), (1, 5)))
    found = Canonical.of(x, z, ridge=1e-9).density(torch.eye(6), torch.eye(5))
    q = counts.double() / counts.sum()
    seen = q.sum(1) > 0
    torch.testing.assert_close(
        found[seen], (q / (q.sum(1, keepdim=True) * q.sum(0)))[seen], atol=1e-3, rtol=1e-3
    )


def test_prompt_bias_is_the_discrepancy_of_definition():
    g = torch.Generator().manual_seed(0)
    captions, y = torch.randn(12, 3, generator=g), torch.arange(12) % 2
    prompts, of = torch.randn(5, 3, generator=g) + 1, torch.tensor([0, 0, 1, 1, 1])
    found = prompt_bias(prompts, of, captions, y, width=1.5)
    for c in (0, 1):
        p, q = prompts[of == c].double(), captions[y == c].double()

        def k(a, b):
            return float((-(a - b).square().sum() / 1.5**2).exp())

        pp = np.mean([k(a, b) for a in p for b in p])
        qq = np.mean([k(q[i], q[j]) for i in range(len(q)) for j in range(len(q)) if i != j])
        assert found[c] == pytest.approx(pp + qq - 2 * np.mean([k(a, b) for a in p for b in q]))


def test_prompts_of_another_kind_are_biased_and_captions_are_not():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    captions = torch.randn(400, 4, generator=g) + y[:, None]
    more, one = (
        torch.randn(200, 4, generator=g) + y[:200, None],
        torch.tensor([[0.0] * 4, [1.0] * 4]),
    )
    same = max(map(abs, prompt_bias(more, y[:200], captions, y).values()))
    assert same < 0.02 < 0.1 < min(prompt_bias(one, torch.tensor([0, 1]), captions, y).values())


def test_residual_dependence_sees_what_captions_leave_out():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=g)
    z, y = x[:, :1] + 0.1 * torch.randn(400, 1, generator=g), (x[:, 0] > 0).long()
    left, explained = residual_dependence(x, z, (x[:, 1] > 0).long()), residual_dependence(x, z, y)
    assert left["dependence"] > 0.3 and abs(explained["dependence"]) < 0.05
    assert left["dependence"] == left["captions"] - left["both"] and left["direct"] < 0.15
    number = residual_dependence(x, z, x[:, 1])
    assert (
        number["captions"] == pytest.approx(float(x[:, 1].var()), rel=0.1) and number["both"] < 0.1
    )


def test_the_curve_is_the_nearest_mean_and_ends_at_its_limit():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    centres = torch.randn(3, 8, generator=g)
    seen, pool = (centres[y] + torch.randn(300, 8, generator=g) * 2 for _ in range(2))
    curve = prompt_curve(seen, y, pool, y, sizes=(1, 4, 16, 100), draws=30)
    errors = [row["error"] for row in curve]
    assert errors == sorted(errors, reverse=True)
    unit = torch.nn.functional.normalize(pool, dim=1)
    means = [unit[y == c].mean(0) for c in range(3)]
    guess = [
        max(range(3), key=lambda c: float(torch.cosine_similarity(v, means[c], dim=0)))
        for v in seen
    ]
    assert (
        errors[-1] == pytest.approx(float((torch.tensor(guess) != y).double().mean()))
        and curve[-1]["std"] < 1e-6
    )
    assert [row["prompts"] for row in prompt_curve(seen, y, pool[:30], y[:30], draws=2)] == [
        1,
        2,
        4,
        8,
    ]
    a, b, r2 = limit([{"prompts": m, "error": 0.2 + 0.3 / m**0.5} for m in (1, 4, 9, 50)])
    assert (a, b, r2) == (pytest.approx(0.2), pytest.approx(0.3), pytest.approx(1))
    slope, middle = np.polyfit([m**-0.5 for m in (1, 4, 16, 100)], errors, 1)
    assert limit(curve)[:2] == (pytest.approx(middle), pytest.approx(slope))
    with pytest.raises(ValueError, match="one has 10"):
        prompt_curve(seen, y, pool[:30], y[:30], sizes=(11,))
    with pytest.raises(ValueError, match="three numbers"):
        limit(curve[:2])


def test_two_stages_predict_without_a_labelled_picture():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(300, 2, generator=g)
    x = torch.cat([z + 0.3 * torch.randn(300, 2, generator=g), torch.randn(300, 1, generator=g)], 1)
    prompts = torch.randn(150, 2, generator=g)
    predict = two_stage(x[:200], z[:200], prompts, (prompts[:, 0] * prompts[:, 1] > 0).long())
    right = (predict(x[200:]).argmax(1) == (z[200:, 0] * z[200:, 1] > 0).long()).double().mean()
    assert right > 0.75
