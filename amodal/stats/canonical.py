"""Canonical directions of two or more fields in closed form, from one pass over records.

Hotelling 1936; with a penalty for each field Vinod 1976, "Canonical ridge and econometrics of joint
production"; for more than two fields the sum of all correlations under a joint norm (SUMCOR,
Kettenring 1971; Hardoon et al. 2004, section 6). Directions are weighted by a power of their
correlation (Gong et al. 2014, arXiv:1212.4522, section 3.3). A large penalty leaves a field
unwhitened: one such field is the target of a ridge regression of low rank. `amodal.stats.cca` is
the layer with a gradient.

Ours: scikit-learn's `CCA` takes no penalty, two fields, and all records at once and complete.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core.column import Column, shared_rows
from amodal.core.embeddings import vectors as vectors_of
from amodal.stats.ranking import ranks, reciprocal_ranks

PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0)
"""In mean variances of a field."""
POWERS = (0.5, 1.0, 2.0)
"""Of the correlations, as weights of directions."""
TIE = 1e-6
"""Scores that differ by less are equal but for rounding, and the first one counts."""
MIN_PAIRS = 2
"""Of two fields, below which their covariance is taken as zero."""


class Sums:
    """Sums over records of which each has some fields; two of them can be added."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self.count: dict[tuple[str, str], int] = {}
        self.first: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self.second: dict[tuple[str, str], Tensor] = {}

    def add(self, z: Mapping[str, Column]) -> None:
        """Add the rows of some columns (N, F)."""
        for a, b in itertools.combinations_with_replacement(self.names, 2):
            if a in z and b in z:
                at_a, at_b = shared_rows(z[a], z[b])
                x, y = (vectors_of(z[n])[at].double().cpu() for n, at in ((a, at_a), (b, at_b)))
                self._add((a, b), len(x), (x.sum(0), y.sum(0)), x.T @ y)

    def _add(
        self, pair: tuple[str, str], n: int, first: tuple[Tensor, Tensor], second: Tensor
    ) -> None:
        if pair in self.count:
            n, second = n + self.count[pair], second + self.second[pair]
            a, b = self.first[pair]
            first = first[0] + a, first[1] + b
        self.count[pair], self.first[pair], self.second[pair] = n, first, second

    def __add__(self, other: Sums) -> Sums:
        whole = Sums(self.names)
        for part in (self, other):
            for pair, n in part.count.items():
                whole._add(pair, n, part.first[pair], part.second[pair])
        return whole

    def of(self, names: Sequence[str]) -> Sums:
        """The sums of some of the fields."""
        some = Sums(names)
        for (a, b), n in self.count.items():
            if a in some.names and b in some.names:
                some._add((a, b), n, self.first[a, b], self.second[a, b])
        return some

    def mean(self, name: str) -> Tensor:
        """(F,) the mean of a field, over all of its values."""
        return self.first[name, name][0] / max(self.count[name, name], 1)

    def covariance(self, a: str, b: str) -> Tensor:
        """(F, G) the covariance of two fields over the records that have both."""
        n = self.count[a, b]
        if n < MIN_PAIRS:
            return torch.zeros_like(self.second[a, b])
        x, y = self.first[a, b]
        return self.second[a, b] / n - torch.outer(x / n, y / n)


@dataclass(frozen=True)
class Directions:
    """The directions of each field, the most correlated ones first.

    Args:
        maps: Field -> (F, k), to be multiplied with centred rows from the right.
        correlation: (k,) of the penalised problem, from 0 to 1; of more than two fields a mean.
    """

    maps: dict[str, Tensor]
    correlation: Tensor

    def weighted(self, power: float, width: int) -> dict[str, Tensor]:
        """Field -> (F, k), the first `width` directions times powers of their correlations."""
        weight = self.correlation[:width] ** power
        return {name: w[:, :width] * weight for name, w in self.maps.items()}


class Spectra:
    """Covariances in the principal axes of each field, whatever the penalties are then.

    Args:
        within: Field -> (F, F) covariance.
        cross: Two fields, in the order of `within` -> (F, G) covariance; pairs that are not there
            have none.
    """

    def __init__(self, within: Mapping[str, Tensor], cross: Mapping[tuple[str, str], Tensor]):
        spectra = {name: torch.linalg.eigh(c) for name, c in within.items()}
        self.values = {name: values.clamp_min(0) for name, (values, _) in spectra.items()}
        self.axes = {name: axes for name, (_, axes) in spectra.items()}
        self.cross = {(a, b): self.axes[a].T @ c @ self.axes[b] for (a, b), c in cross.items()}

    @staticmethod
    def of(sums: Sums) -> Spectra:
        """Those of sums in which every field has a value."""
        pairs = itertools.combinations(sums.names, 2)
        cross = {pair: sums.covariance(*pair) for pair in pairs if sums.count.get(pair, 0)}
        return Spectra({name: sums.covariance(name, name) for name in sums.names}, cross)

    def directions(self, penalties: Mapping[str, float]) -> Directions:
        """The directions for a penalty of each field, in its mean variances."""
        roots = {
            # 1e-12: a field that does not vary has directions too, of no correlation
            name: (v + penalties[name] * v.mean() + 1e-12).rsqrt()
            for name, v in self.values.items()
        }
        whitened = {(a, b): roots[a][:, None] * c * roots[b] for (a, b), c in self.cross.items()}
        sizes = {name: len(root) for name, root in roots.items()}
        blocks, correlation = _leading([*roots], sizes, whitened)
        return Directions(
            {name: self.axes[name] @ (roots[name][:, None] * u) for name, u in blocks.items()},
            correlation,
        )


def singular(matrix_FG: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The thin singular value decomposition, also where LAPACK's fast one does not converge, as
    happens with many singular values at rounding level.

    Args:
        matrix_FG: Finite.

    Returns:
        (F, k), (k,) from the largest, (k, G).
    """
    try:
        u, s, vh = torch.linalg.svd(matrix_FG, full_matrices=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of gesdd; gesvd converges
        from scipy.linalg import svd

        parts = svd(matrix_FG.cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
        u, s, vh = (torch.from_numpy(part).to(matrix_FG) for part in parts)
    return u, s, vh


def _leading(
    names: Sequence[str], sizes: Mapping[str, int], whitened: Mapping[tuple[str, str], Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """The unit directions that agree most, of whitened fields: field -> (F, k), and (k,)."""
    if len(names) == 2 and whitened:
        u, s, vh = singular(whitened[names[0], names[1]])
        # above 1 only where records lack a field, so that covariances are of different ones
        return {names[0]: u, names[1]: vh.T}, s.clamp(max=1)
    starts = dict(zip(names, itertools.accumulate(sizes.values(), initial=0)))
    whole = torch.zeros(sum(sizes.values()), sum(sizes.values()), dtype=torch.float64)
    for (a, b), c in whitened.items():
        i, j = starts[a], starts[b]
        whole[i : i + sizes[a], j : j + sizes[b]] = c
        whole[j : j + sizes[b], i : i + sizes[a]] = c.T
    values, axes = torch.linalg.eigh(whole)
    # positive ones alone: along the others fields disagree
    order = [i for i in range(len(values) - 1, -1, -1) if values[i] > 0][: min(sizes.values())]
    axes = axes[:, order] * len(names) ** 0.5
    blocks = {name: axes[starts[name] : starts[name] + sizes[name]] for name in names}
    return blocks, (values[order] / max(len(names) - 1, 1)).clamp(max=1)


@dataclass(frozen=True)
class HeldOut:
    """Records that choose penalties and the power: by how well they find each other.

    Args:
        mean: Field -> (F,), of the records that the maps are fitted to.
        columns: Field -> (N, F).
    """

    mean: Mapping[str, Tensor]
    columns: Mapping[str, Column]

    def score(self, maps: Mapping[str, Tensor]) -> float:
        """The mean reciprocal rank over both ways of all pairs of fields; 0 without a pair."""
        found = [reciprocal_ranks(*ranks(q, g)).mean() for q, g in self.pairs(maps)]
        return float(torch.stack(found).mean()) if found else 0.0

    def pairs(self, maps: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The mapped vectors (n, k) of the records that have both of two fields, both ways."""
        z = {
            name: Column((vectors_of(c).double() - self.mean[name]) @ maps[name], c.rows)
            for name, c in self.columns.items()
        }
        for a, b in itertools.permutations(z, 2):
            at_a, at_b = shared_rows(z[a], z[b])
            if len(at_a) >= MIN_PAIRS:
                yield vectors_of(z[a])[at_a], vectors_of(z[b])[at_b]


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Args:
        penalties: Field -> penalty.
        power: Of the correlations.
        score: See `HeldOut.score`.
    """

    penalties: dict[str, float]
    power: float
    score: float


def choose(spectra: Spectra, held_out: HeldOut, width: int) -> Choice:
    """Choose the penalty of each field, and the power.

    First one penalty for all fields, then field by field: a field that is whitened less is a target
    of a regression.

    Args:
        spectra: Of the other records.
        held_out: Records to choose by.
        width: Directions at most.
    """
    names = [*spectra.values]
    best = Choice(dict.fromkeys(names, 1.0), 1.0, -1.0)
    for penalty in PENALTIES:
        best = _better(best, spectra, held_out, width, dict.fromkeys(names, penalty))
    for name in names:
        around = best.penalties
        for penalty in PENALTIES:
            if penalty != around[name]:
                best = _better(best, spectra, held_out, width, around | {name: penalty})
    return best


def _better(
    best: Choice, spectra: Spectra, held_out: HeldOut, width: int, penalties: dict[str, float]
) -> Choice:
    directions = spectra.directions(penalties)
    for power in POWERS:
        score = held_out.score(directions.weighted(power, width))
        if score > best.score + TIE:
            best = Choice(penalties, power, score)
    return best
