"""The linear probe: how much of a label a linear map reads off frozen features.

Categories: logistic regression (`amodal.stats.logistic`). Ridge regression on one-hot targets is
faster, but loses two to four points of accuracy on real features (scikit-learn's digits: .93
against .96). Numbers: ridge regression. Its penalty is chosen among many by exact leave-one-out
errors from one eigendecomposition (Hastie et al., The Elements of Statistical Learning, eq. 7.64).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from amodal.evaluate.labels import Predict, measure_sources
from amodal.evaluate.needed_records import drawn, labelled
from amodal.evaluate.needs import LABEL
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded
from amodal.stats.logistic import PENALTIES, Scaled, logistic

ClassWeight = Literal["none", "balanced"]
RIDGE = torch.logspace(-3, 6, 28)


def linear(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
    sources: Sequence[str] | None = None,
    class_weight: ClassWeight = "none",
) -> Result:
    """Fit a linear classifier, or regression for a number, on each field and on the fused vectors.

    For classes it also measures calibration of the probabilities.

    Args:
        train: Training records.
        test: Test records.
        label: What is predicted.
        few: See `measure`.
        draws: See `measure`.
        seed: See `measure`.
        sources: All unless set.
        class_weight: "balanced" for classes that weigh the same, however many records they have:
            for balanced accuracy. "none" for probabilities that are calibrated.
    """
    spec, rows = measure_sources(
        partial(fit, balanced=class_weight == "balanced"),
        train,
        test,
        label,
        sources=sources,
        few=few,
        draws=draws,
        seed=seed,
        calibrated=True,
    )
    if spec["kind"] == "number":
        solver = {"solver": "ridge", "penalties": [float(f"{p:.4g}") for p in RIDGE]}
    else:
        solver = {"solver": "logistic", "penalties": list(PENALTIES), "class_weight": class_weight}
    return Result("linear", spec | solver, rows)


def fit(x_ND: Tensor, y_N: Tensor, classes: int, *, balanced: bool = False) -> Predict:
    """Fit the linear probe.

    Args:
        x_ND: Features.
        y_N: Classes by number, or numbers.
        classes: How many, 0 where `y_N` are numbers.
        balanced: Whether classes weigh the same.
    """
    if not classes:
        w, b = ridge(x_ND, y_N.to(x_ND.dtype))
        return lambda x: x @ w + b
    w, b, _ = logistic(x_ND, y_N, classes, balanced=balanced)
    return Logistic(w, b)


@dataclass(frozen=True)
class Logistic:
    """A linear classifier.

    Args:
        w: (D, K) weights.
        b: (K,) biases.
    """

    w: Tensor
    b: Tensor

    def __call__(self, x_MD: Tensor) -> Tensor:
        return (x_MD @ self.w + self.b).argmax(1)

    def probabilities(self, x_MD: Tensor) -> Tensor:
        """(M, K), rows sum to one."""
        return (x_MD @ self.w + self.b).softmax(1)


def ridge(x_ND: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression with the smallest leave-one-out error.

    Args:
        x_ND: Features.
        y_N: Numbers.

    Returns:
        Weights (D,) and bias ().
    """
    scaled = Scaled.of(x_ND)
    mean = y_N.mean()
    residual = y_N - mean
    rotated = scaled.z @ scaled.v  # (N, R), orthogonal columns of length sqrt(s)
    inner = rotated.T @ residual
    shrink = 1 / (scaled.s[:, None] + RIDGE.to(x_ND.dtype))  # (R, L)
    fitted = rotated @ (inner[:, None] * shrink)
    # eq. 7.64: residuals over 1 - leverage, of which 1 / N is the constant's
    leverage = rotated.square() @ shrink + 1 / len(y_N)
    errors = ((residual[:, None] - fitted) / (1 - leverage).clamp_min(1e-6)).square().mean(0)
    w = scaled.v @ (inner * shrink[:, errors.argmin()])
    w, b = scaled.unscaled(w[:, None], mean[None])
    return w[:, 0], b[0]


class Linear(Protocol):
    """The linear probe."""

    name, needs, needed = "linear", (LABEL,), (drawn, labelled)
    rank = 30
    yardstick = True
    measure = staticmethod(linear)


PROTOCOL = Linear()
