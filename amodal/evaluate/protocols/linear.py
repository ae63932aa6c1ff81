"""The linear probe: how much of a label can be read off frozen features by a linear map.

Categories: logistic regression (see `_logistic.py`), because ridge regression on one-hot targets,
though faster, loses two to four points of accuracy to it on real features (scikit-learn's digits:
.93 against .96). Numbers: ridge regression whose penalty is chosen among many by exact
leave-one-out errors, from one eigendecomposition (Hastie et al., The Elements of Statistical
Learning, eq. 7.64).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.evaluate.labels import Predict, label_spec, measure
from amodal.evaluate.needs import LABEL
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded
from amodal.stats.logistic import PENALTIES, Scaled, logistic

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
) -> Result:
    """A linear classifier (or regression, for a number) on frozen features, for each field alone
    and for the fused vectors; of classes also whether its probabilities can be taken at their word.

    few, draws, seed: see `measure`. sources: all unless given.
    """
    y_train, y_test = train.label(label), test.label(label)
    columns, others = train.probed(), test.probed()
    rows = []
    for source in sources or columns:
        some = dict(few=few, draws=draws, seed=seed, calibrated=True)
        found = measure(fit, columns[source], y_train, {source: others[source]}, y_test, **some)
        rows += [{"source": source, **row} for row in found.get(source, [])]
    spec = label_spec(label, y_train, few, draws, seed)
    if spec["kind"] == "number":
        solver = {"solver": "ridge", "penalties": [float(f"{p:.4g}") for p in RIDGE]}
    else:
        solver = {"solver": "logistic", "penalties": list(PENALTIES)}
    return Result(
        "linear",
        spec | solver | {"space": "features", "train": len(train), "test": len(test)},
        rows,
    )


def fit(x_ND: Tensor, y_N: Tensor, classes: int) -> Predict:
    """The linear predictor for classes, or for a number where classes is 0."""
    if not classes:
        w, b = ridge(x_ND, y_N.to(x_ND.dtype))
        return lambda x: x @ w + b
    w, b, _ = logistic(x_ND, y_N, classes)
    return Logistic(w, b)


@dataclass(frozen=True)
class Logistic:
    """Weights (D, K), biases (K,)."""

    w: Tensor
    b: Tensor

    def __call__(self, x_MD: Tensor) -> Tensor:
        return (x_MD @ self.w + self.b).argmax(1)

    def probabilities(self, x_MD: Tensor) -> Tensor:
        """(M, K)"""
        return (x_MD @ self.w + self.b).softmax(1)


def ridge(x_ND: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (D,) and bias () of the ridge regression with the smallest leave-one-out error."""
    scaled = Scaled.of(x_ND)
    middle = y_N.mean()
    residual = y_N - middle
    turned = scaled.z @ scaled.v  # (N, R), orthogonal columns of length sqrt(s)
    inner = turned.T @ residual
    shrink = 1 / (scaled.s[:, None] + RIDGE.to(x_ND.dtype))  # (R, L)
    fitted = turned @ (inner[:, None] * shrink)
    leverage = turned.square() @ shrink + 1 / len(y_N)
    errors = ((residual[:, None] - fitted) / (1 - leverage).clamp_min(1e-6)).square().mean(0)
    w = scaled.v @ (inner * shrink[:, errors.argmin()])
    w, b = scaled.unscaled(w[:, None], middle[None])
    return w[:, 0], b[0]


class Linear(Protocol):
    """The linear probe."""

    name, needs = "linear", (LABEL,)
    rank = 30
    measure = staticmethod(linear)


PROTOCOL = Linear()
