"""How good prompts can get: what separates prompting a pair of towers from the best predictor, term
by term.

Mehta and Harchaoui, ICML 2025, arXiv:2507.09128. Row 54 of the catalogue.

X is the input, Z a caption, Y the label. The best predictor is E[r(Y) | X]. Prompts go through Z:
g(z) = E[r(Y) | Z = z] under the prompts' law rho, then E[g(Z) | X = x] = E_Z[g(Z) R(x, Z)], R =
dP(x, z) / dP(x) dP(z). The terms of the loss:

- Y depends on X beyond Z (`residual_dependence`);
- prompts are not distributed like captions of the class (`prompt_bias`);
- there are few of them, at a cost of 1 / sqrt(M) (`prompt_curve`, `limit`);
- R is learnt (`cca_spectrum`, whose sum of squares is the mean square contingency).

`indirect` and `terms` are exact for tables, `two_stage` is the plug-in estimator.

`amodal evaluate RUN --data DIR --protocols prompts --label NAME` measures all of it on a trained
model or on a pretrained CLIP (docs/evaluating.md).

Differs:

- residual dependence is the fall of cross-validated squared risk, of kernel ridge regression, when
  X is added to Z; the paper has the population's quantity and conditional means in a reproducing
  kernel space.
- the distance of prompts from captions is a kernel's (maximum mean discrepancy), in place of a
  distance of the predictors that they give; `terms` has that one, for tables.
- classes by captions are the nearest mean of unit vectors, as CLIP's prompts are used. `two_stage`
  is the paper's predictor by kernel ridge regression, in Python.
- the limit for prompts without end is a line in 1 / sqrt(M), fitted to the sizes that were drawn.
- constants and confidence of the bounds are left out; a bound that holds for all kernels says
  little about one encoder. Captions of ImageNet and the authors' experiments are not bundled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from amodal.stats.cca import covariance, whitener
from amodal.stats.kernel_ridge import Gaussian, kernel_ridge

WEIGHTS = (0.0, 0.25, 1.0, 4.0)
"""How much of X may count beside Z; 0 is among them, so that X can only help."""


@dataclass(frozen=True)
class Canonical:
    """A low-rank R(x, z) = 1 + sum_k s_k u_k(x) v_k(z), of canonical variates of two spaces.

    Args:
        mean_x: (D,)
        mean_z: (E,)
        u: (D, K) directions of x.
        v: (E, K) directions of z.
        s: (K,) correlations, largest first.
    """

    mean_x: Tensor
    mean_z: Tensor
    u: Tensor
    v: Tensor
    s: Tensor

    @staticmethod
    def of(x_ND: Tensor, z_NE: Tensor, *, ridge: float = 1e-3) -> Canonical:
        """Fit to paired rows.

        Args:
            x_ND: Vectors of one space.
            z_NE: Vectors of the other.
            ridge: Share of the mean variance added to each direction's.
        """
        x, z = x_ND.double(), z_NE.double()
        wx, wz = (whitener(covariance(t, t), ridge) for t in (x, z))
        u, s, vh = torch.linalg.svd(wx.T @ covariance(x, z) @ wz, full_matrices=False)
        return Canonical(x.mean(0), z.mean(0), wx @ u, wz @ vh.T, s)

    def variates(self, x_ND: Tensor, z_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Canonical variates, (N, K) each."""
        return (x_ND.double() - self.mean_x) @ self.u, (z_NE.double() - self.mean_z) @ self.v

    def density(self, x_ND: Tensor, z_ME: Tensor) -> Tensor:
        """(N, M) R of every x with every z. It may be below 0, as low-rank densities are."""
        u, v = self.variates(x_ND, z_ME)
        return 1 + (u * self.s) @ v.T


def cca_spectrum(
    x_ND: Tensor,
    z_NE: Tensor,
    *,
    held_out: tuple[Tensor, Tensor] | None = None,
    ridge: float = 1e-3,
) -> Tensor:
    """Correlations of the canonical directions: singular values of the operator of conditional
    means between linear functions.

    With few rows for the width they come out too large. On held-out pairs, in the order of the
    fitted ones, they are not. The sum of squares is the mean square contingency that the two spaces
    hold.

    Args:
        x_ND: Vectors of one space.
        z_NE: Vectors of the other.
        held_out: Pairs to measure on, those of the fit unless given.
        ridge: See `Canonical.of`.

    Returns:
        (min(D, E),) float64.
    """
    canonical = Canonical.of(x_ND, z_NE, ridge=ridge)
    if held_out is None:
        return canonical.s.clamp(max=1)
    u, v = (t - t.mean(0) for t in canonical.variates(*held_out))
    length = torch.linalg.vector_norm(u, dim=0) * torch.linalg.vector_norm(v, dim=0)
    correlation: Tensor = (u * v).sum(0) / length.clamp_min(1e-12)
    return correlation


def residual_dependence(
    x_ND: Tensor, z_NE: Tensor, y_N: Tensor, *, folds: int = 5, most: int = 1000, seed: int = 0
) -> dict[str, float]:
    """How much of Y depends on X beyond Z: cross-validated squared errors of kernel ridge
    regression.

    The fall from "captions" to "both" is E |E[r | X, Z] - E[r | Z]|^2. It is 0 if Y is independent
    of X given Z, and bounds what any prompts must lose. As an estimate it may be a little below 0.

    Args:
        x_ND: Inputs.
        z_NE: Captions.
        y_N: int64 classes (r one-hot) or floats.
        folds: Of cross-validation.
        most: Records at most, drawn by `seed`.
        seed: Of that draw.

    Returns:
        "captions": risk from Z alone; "both": from X and Z; "direct": from X alone; "dependence":
        "captions" less "both".
    """
    order = torch.randperm(len(y_N), generator=torch.Generator().manual_seed(seed))[:most]
    x, z, r = x_ND[order].double(), z_NE[order].double(), targets(y_N[order])
    fold, total = torch.arange(len(order)) % folds, {"captions": 0.0, "both": 0.0, "direct": 0.0}
    for number in range(folds):
        train, test = (part.nonzero().squeeze(1) for part in (fold != number, fold == number))
        inputs = {
            "captions": [(1.0, 0.0)],
            "both": [(1.0, w) for w in WEIGHTS],
            "direct": [(0.0, 1.0)],
        }
        both = torch.cat([z, x], 1)
        for name, weights in inputs.items():
            fits = [
                kernel_ridge(both[train], r[train], Gaussian.of(z[train], x[train], weights=pair))
                for pair in weights
            ]
            predict = min(fits, key=lambda fit: fit[1])[0]
            total[name] += float((predict(both[test]) - r[test]).square().sum()) / len(order)
    return total | {"dependence": total["captions"] - total["both"]}


def prompt_bias(
    prompts_MD: Tensor,
    prompt_y_M: Tensor,
    captions_ND: Tensor,
    y_N: Tensor,
    *,
    width: float | None = None,
) -> dict[int, float]:
    """The squared maximum mean discrepancy between the prompts of each class and its captions.

    Prompts are all there are, captions a sample; unbiased in the latter (Gretton et al. 2012, JMLR
    13, lemma 6). Prompts drawn from the captions' law have about 1 / M left, the price of their
    number. Classes without a prompt or with one caption are left out.

    Args:
        prompts_MD: Prompts.
        prompt_y_M: Their classes.
        captions_ND: Captions.
        y_N: Their classes.
        width: Of the Gaussian kernel, the captions' median distance unless given.

    Returns:
        class -> 0 where prompts are like captions, at most 2.
    """
    kernel = Gaussian.of(captions_ND)
    if width is not None:
        kernel = Gaussian(((0, captions_ND.shape[1], width, 1.0),))
    discrepancy = {}
    for c in sorted(set(prompt_y_M.tolist())):
        p, q = prompts_MD[prompt_y_M == c], captions_ND[y_N == c]
        if len(q) > 1:
            within = kernel(q, q)
            pairs = (within.sum() - within.diagonal().sum()) / (len(q) * (len(q) - 1))
            discrepancy[c] = float(kernel(p, p).mean() + pairs - 2 * kernel(p, q).mean())
    return discrepancy


def prompt_curve(
    seen_ND: Tensor,
    y_N: Tensor,
    pool_MD: Tensor,
    pool_y_M: Tensor,
    *,
    sizes: Sequence[int] = (),
    draws: int = 20,
    seed: int = 0,
) -> list[dict[str, float]]:
    """The error of classifying by the nearest mean of M prompts of a class, over M.

    Args:
        seen_ND: Vectors to classify; scaled to length one inside.
        y_N: Their classes, 0 to K - 1.
        pool_MD: Prompts, vectors of the same space.
        pool_y_M: Their classes.
        sizes: M: 1, 2, 4, … up to the smallest class of the pool unless given.
        draws: Draws of different prompts.
        seed: Of the draws.

    Returns:
        "prompts" M, "error" the mean and "std" the deviation over draws, for each M.

    Raises:
        ValueError: For more prompts than a class has.
    """
    classes = int(pool_y_M.max()) + 1
    members = [(pool_y_M == c).nonzero().squeeze(1) for c in range(classes)]
    smallest = min(map(len, members))
    sizes = list(sizes) or [2**k for k in range(smallest.bit_length()) if 2**k <= smallest]
    if not sizes or max(sizes) > smallest:
        raise ValueError(
            f"each class needs {max(sizes, default=1)} prompts or more, and one has {smallest}."
        )
    g = torch.Generator().manual_seed(seed)
    rows: list[dict[str, float]] = []
    seen, pool = normalize(seen_ND.float(), dim=1), normalize(pool_MD.float(), dim=1)
    errors = torch.empty(draws, len(sizes))
    for draw in range(draws):
        order = [index[torch.randperm(len(index), generator=g)] for index in members]
        for column, size in enumerate(sizes):
            means = torch.stack([normalize(pool[index[:size]].mean(0), dim=0) for index in order])
            errors[draw, column] = ((seen @ means.T).argmax(1) != y_N).float().mean()
    spread = errors.std(0) if draws > 1 else torch.zeros(len(sizes))
    for size, error, std in zip(sizes, errors.mean(0).tolist(), spread.tolist()):
        rows.append({"prompts": size, "error": error, "std": std})
    return rows


def limit(curve: Sequence[Mapping[str, float]], power: float = 0.5) -> tuple[float, float, float]:
    """Fit error = a + b / M^power by least squares.

    a is the error with prompts of this kind without end.

    Args:
        curve: See `prompt_curve`.
        power: See above.

    Returns:
        a, b, the share of variance explained.

    Raises:
        ValueError: For fewer than three sizes.
    """
    if len(curve) < 3:
        raise ValueError(
            f"a curve of three numbers of prompts or more is needed, got {len(curve)}."
        )
    t = torch.tensor([row["prompts"] ** -power for row in curve], dtype=torch.float64)
    error = torch.tensor([row["error"] for row in curve], dtype=torch.float64)
    spread = t - t.mean()
    b = (spread @ error) / (spread @ spread)
    residual = error - error.mean() - b * spread
    total = (error - error.mean()).square().sum()
    explained = 1 - float(residual.square().sum() / total) if float(total) > 0 else 0.0
    return float(error.mean() - b * t.mean()), float(b), explained


def two_stage(
    x_ND: Tensor, z_NE: Tensor, prompts_ME: Tensor, prompt_y_M: Tensor, classes: int = 0
) -> Callable[[Tensor], Tensor]:
    """The plug-in predictor of prompting.

    Kernel ridge regression from prompts to labels gives g; kernel ridge from x to g(z) over
    unlabelled pairs gives E[g(Z) | X].

    Args:
        x_ND: Inputs of the pairs.
        z_NE: Captions of the pairs.
        prompts_ME: Prompts.
        prompt_y_M: Their labels.
        classes: K where labels are classes, of which prompts may lack some.

    Returns:
        (N, D) -> (N, K).
    """
    first, _ = kernel_ridge(prompts_ME, targets(prompt_y_M, classes), Gaussian.of(prompts_ME))
    return kernel_ridge(x_ND, first(z_NE), Gaussian.of(x_ND))[0]


def indirect(joint_XZ: Tensor, prompts_YZ: Tensor, prior_Y: Tensor) -> Tensor:
    """p(y) sum_z R(x, z) rho(z | y): what prompts with the law rho say of each x.

    For M drawn prompts rho is how often each came, over M. Rows sum to one only if the prompts
    together are distributed like all captions.

    Args:
        joint_XZ: p(x, z).
        prompts_YZ: rho.
        prior_Y: p(y).

    Returns:
        (X, Y)
    """
    p = joint_XZ.double() / joint_XZ.double().sum()
    density = p / (p.sum(1, keepdim=True) * p.sum(0)).clamp_min(torch.finfo(torch.float64).tiny)
    return density @ prompts_YZ.double().T * prior_Y.double()


def terms(joint_XZY: Tensor, prompts_YZ: Tensor | None = None) -> dict[str, float]:
    """Exact squared distances for a table, r one-hot.

    Args:
        joint_XZY: p(x, z, y).
        prompts_YZ: The law of prompts, None for the true one.

    Returns:
        "residual": E |P(Y | X, Z) - P(Y | Z)|^2. "floor": E |best(X) - the prediction through Z|^2,
        at most the residual. With prompts also "bias": E |prediction with theirs - with the true
        law|^2, and "excess": E |best - theirs|^2.
    """
    p = joint_XZY.double() / joint_XZY.double().sum()
    tiny = torch.finfo(torch.float64).tiny
    p_xz, p_x, p_zy = p.sum(2), p.sum((1, 2)), p.sum(0)
    p_y_xz = p / p_xz.clamp_min(tiny)[:, :, None]  # p(y | x, z)
    p_y_z = p_zy / p_zy.sum(1, keepdim=True).clamp_min(tiny)  # p(y | z)
    best = p.sum(1) / p_x.clamp_min(tiny)[:, None]
    prior = p_zy.sum(0)
    true = indirect(p_xz, (p_zy / prior.clamp_min(tiny)).T, prior)
    distances = {
        "residual": float((p_xz[:, :, None] * (p_y_xz - p_y_z).square()).sum()),
        "floor": float((p_x[:, None] * (best - true).square()).sum()),
    }
    if prompts_YZ is not None:
        prompted = indirect(p_xz, prompts_YZ, prior)
        distances["bias"] = float((p_x[:, None] * (prompted - true).square()).sum())
        distances["excess"] = float((p_x[:, None] * (best - prompted).square()).sum())
    return distances


def targets(y_N: Tensor, classes: int = 0) -> Tensor:
    """r(y), (N, K) float64: one-hot for int64 classes, the number itself for floats.

    Args:
        y_N: Classes or numbers.
        classes: K, as many as there are unless given.
    """
    if y_N.is_floating_point():
        return y_N.double()[:, None]
    return one_hot(y_N, classes or int(y_N.max()) + 1).double()
