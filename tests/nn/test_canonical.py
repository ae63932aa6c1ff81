"""Canonical directions from sums; the whole fit is held by tests/golden/test_cca.py."""

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge

from amodal.core import Column
from amodal.stats.canonical import HeldOut, Spectra, Sums, choose


def columns(rows=300, noise=0.5, seed=0):
    """Two fields that share three directions; each lacks some rows."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(rows, 3)) * [3, 2, 1]
    fields = {}
    for k, (name, width) in enumerate((("a", 6), ("b", 8))):
        mixing = np.random.default_rng(k).normal(size=(3, width))
        x = shared @ mixing + noise * rng.normal(size=(rows, width)) + k
        index = torch.tensor([i for i in range(rows) if (i + k) % 5])
        fields[name] = Column(torch.from_numpy(x)[index], index)
    return fields


def pieces(fields, size=70):
    return [{n: c.between(i, i + size) for n, c in fields.items()} for i in range(0, 300, size)]


def summed(parts):
    sums = Sums(["a", "b"])
    for part in parts:
        sums.add(part)
    return sums


def test_sums_of_pieces_are_those_of_the_whole():
    fields = columns()
    parts = pieces(fields)
    whole = summed(parts[:2]) + summed(parts[2:])
    both = [r for r in fields["a"].rows.tolist() if r % 5 and (r + 1) % 5]
    x, y = (np.stack([dict(zip(c.rows.tolist(), c.values.numpy()))[r] for r in both]) for c in fields.values())  # fmt: skip
    assert np.allclose(whole.covariance("a", "b"), (x - x.mean(0)).T @ (y - y.mean(0)) / len(both))
    assert np.allclose(whole.mean("b"), fields["b"].values.mean(0))
    assert whole.of(["b"]).count == {("b", "b"): len(fields["b"])}


def test_without_a_penalty_it_is_canonical_correlation_analysis():
    fields = columns()
    both = sorted({*fields["a"].rows.tolist()} & {*fields["b"].rows.tolist()})
    some = {n: c.at(torch.tensor([r in both for r in c.rows.tolist()])) for n, c in fields.items()}
    found = Spectra.of(summed([some])).directions({"a": 0.0, "b": 0.0})
    x, y = (c.values.numpy() for c in some.values())
    u, v = CCA(n_components=3, max_iter=5000, tol=1e-12).fit_transform(x, y)
    wanted = [np.corrcoef(u[:, i], v[:, i])[0, 1] for i in range(3)]
    assert np.allclose(found.correlation[:3], wanted, atol=1e-4)
    z = (some["a"].values - some["a"].values.mean(0)) @ found.maps["a"]
    assert torch.allclose(z.T @ z / len(z), torch.eye(6, dtype=z.dtype), atol=1e-9)


def test_a_large_penalty_of_one_field_makes_it_the_target_of_a_ridge_regression():
    fields = columns()
    both = sorted({*fields["a"].rows.tolist()} & {*fields["b"].rows.tolist()})
    x, y = (c.at(torch.tensor([r in both for r in c.rows.tolist()])).values for c in fields.values())  # fmt: skip
    some = {n: Column(v, torch.arange(len(both))) for n, v in (("a", x), ("b", y))}
    sums = summed([some])
    found = Spectra.of(sums).directions({"a": 0.1, "b": 1e9})
    alpha = 0.1 * float(sums.covariance("a", "a").diagonal().mean()) * len(both)
    ridge = Ridge(alpha=alpha).fit(x.numpy(), y.numpy())
    # prediction in the axes of the target: singular vectors of the whitened regression
    axes = torch.nn.functional.normalize(found.maps["b"], dim=0)
    mine = (x - x.mean(0)) @ found.maps["a"] * found.correlation
    theirs = (torch.from_numpy(ridge.predict(x.numpy())) - y.mean(0)) @ axes
    for d in range(3):
        assert np.corrcoef(mine[:, d], theirs[:, d])[0, 1] == pytest.approx(1, abs=1e-3)


def test_the_penalty_that_is_chosen_finds_held_out_records():
    fields, other = columns(), columns(seed=1)
    sums = summed([fields])
    held_out = HeldOut({n: sums.mean(n) for n in fields}, other)
    spectra = Spectra.of(sums)
    choice = choose(spectra, held_out, 8)
    worse = spectra.directions({"a": 1e-3, "b": 1e-3}).weighted(1.0, 8)
    assert choice.score >= held_out.score(worse) and choice.score > 0.2
    assert choice.score == held_out.score(
        spectra.directions(choice.penalties).weighted(choice.power, 8)
    )


def test_three_fields_agree_on_what_they_share():
    fields = columns()
    third = Column(fields["a"].values[:, :3] * 2 + 1, fields["a"].rows)
    sums = Sums(["a", "b", "c"])
    sums.add(fields | {"c": third})
    found = Spectra.of(sums).directions(dict.fromkeys("abc", 1e-6))
    assert found.maps["c"].shape == (3, len(found.correlation)) and len(found.correlation) <= 3
    assert (found.correlation <= 1).all() and (found.correlation[:-1] >= found.correlation[1:]).all()  # fmt: skip


def test_directions_are_found_where_the_fast_decomposition_does_not_converge(monkeypatch):
    spectra = Spectra.of(summed([columns()]))
    penalties = {"a": 1e-2, "b": 1e-2}
    usual = spectra.directions(penalties)

    def refuse(*_, **__):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "svd", refuse)
    other = spectra.directions(penalties)
    torch.testing.assert_close(other.correlation, usual.correlation)
    for name, w in usual.maps.items():  # a direction may point the other way
        sign = (other.maps[name] * w).sum(0).sign()
        torch.testing.assert_close(other.maps[name] * sign, w)
