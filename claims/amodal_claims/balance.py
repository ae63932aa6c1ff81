"""Balancing (row 42): scaling a table to known marginals takes variance off what is estimated from
it, and two steps in CLIP's loss serve zero-shot classification better than its one. Liu et al.,
NeurIPS 2024, arXiv:2408.15065.

The variance part is on GENERATED tables, where the truth is known: P = (1 - s) p q' + s (a permuted
diagonal), so that s is the second singular value. The loss part is on real pictures and captions.
"""

import numpy as np
import torch

from amodal import methods
from amodal.diagnose.balance import balance, variances
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained
from amodal_claims._captions import halves, small, zero_shot

CLAIM = (
    "On generated 10 x 10 tables the error of an estimate falls with each of the first two steps of balancing and, over steps 0 to 4, is "
    "the predicted one within 5 %; the plateau is reached later where the second singular value is larger; and on pictures and captions "
    "the doubly centred loss (two steps) gives higher zero-shot accuracy than CLIP's (one step) and the jointly centred one (none) at "
    "batches of 32."
)
DATA = "tuxpaint"
SEEDS = 5
BUDGET = Budget(steps=300, batch=32, rates=(2e-3,))
SAMPLES, DRAWS, CELLS, STEPS = 4000, 5000, 10, 4
LOW, HIGH = 0.3, 0.8
MSE = "n times mean squared error"
ACCURACY = "accuracy, category of held-out pictures, zero-shot"
COMPARISONS = (
    Comparison("no step against one", MSE, "mse, 0 steps", "mse, 1 steps"),
    Comparison("one step against two", MSE, "mse, 1 steps", "mse, 2 steps"),
    Comparison(
        "measured over predicted", "ratio, mean over 0 to 4 steps", "ratio", 1.0, within=0.05
    ),
    Comparison(
        "steps to the plateau, s = .8 against s = .3",
        "steps",
        f"plateau, {HIGH}",
        f"plateau, {LOW}",
    ),
    Comparison("doubly centred against CLIP", ACCURACY, "2 steps", "1 steps"),
    Comparison("doubly centred against jointly centred", ACCURACY, "2 steps", "0 steps"),
)


def table(seed, s):
    """(the joint table, the function h whose mean is estimated)."""
    rng = np.random.default_rng(seed)
    p, order = rng.dirichlet(np.full(CELLS, 5.0)), rng.permutation(CELLS)
    joint = ((1 - s) * np.outer(p, p) + s * np.diag(p))[:, order]
    return torch.from_numpy(joint), torch.from_numpy(rng.normal(size=(CELLS, CELLS)))


def errors(seed, s):
    """(STEPS + 1,) n times the mean squared error over many samples, and what is predicted."""
    joint, h = table(seed, s)
    counts = np.random.default_rng([seed, 1]).multinomial(SAMPLES, joint.flatten(), size=DRAWS)
    found = torch.zeros(STEPS + 1, dtype=torch.float64)
    for drawn in torch.from_numpy(counts).view(DRAWS, CELLS, CELLS):
        for k in range(STEPS + 1):
            estimate = (balance(drawn, joint.sum(1), joint.sum(0), steps=k) * h).sum()
            found[k] += SAMPLES / DRAWS * (estimate - (joint * h).sum()) ** 2
    return found, variances(joint, h, steps=STEPS)


def plateau(seed, s):
    """The first step whose predicted variance is within 1 % of the last."""
    predicted = variances(*table(seed, s), steps=200)
    return int((predicted <= 1.01 * predicted[-1]).nonzero()[0])


def measure(seed, dataset):
    measured, predicted = errors(seed, LOW)
    found = {f"mse, {k} steps": float(measured[k]) for k in range(STEPS + 1)}
    found |= {"ratio": float((measured / predicted).mean())}
    found |= {f"plateau, {s}": plateau(seed, s) for s in (LOW, HIGH)}
    pictures = small(dataset)
    train, test = halves(pictures, seed)
    for steps in (0, 1, 2, 4):
        make = lambda encoder, steps=steps: methods.build("balance", encoder, steps=steps)  # noqa: E731
        method = trained(pictures, train, make, BUDGET, seed, *BUDGET.rates)
        found[f"{steps} steps"] = zero_shot(method, pictures, train, test)
    return found
