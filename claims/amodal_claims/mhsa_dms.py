"""Masked self-attention for driver monitoring (row 56): fusing sensors by attention, and tokens
left out so that a dead sensor costs less. Ma et al., CVPR 2023 workshops, arXiv:2304.06370.

Handwritten digits cut into four quadrants, which stand for four cameras (a driver's cabin is in no
package), split anew for each seed: 300 labelled digits to train on, 700 to test on. All arms have
the same trunks, contrast, classifier, steps and learning rate and differ in the fusion alone. A run
here is about a hundredth of the paper's, so the encoder of keys follows faster (.9) and the queue
is shorter (512), in all arms. The attention arms have the paper's two blocks, eight heads and
dropout .5; `masked` leaves out half of the tokens while training. Tested are all 15 subsets of
quadrants; the plain fusions get zeros for what is absent, which is recorded and not compared."""

from functools import partial
from itertools import combinations
from statistics import mean

import numpy as np
import torch

from amodal import data, methods
from amodal.data import Loader
from amodal.data.loader import class_numbers
from amodal.modalities.image import Image
from amodal.stats.auroc import auroc
from amodal_claims import Comparison, _digits
from amodal_claims._arms import Budget, trained

CLAIM = (
    "With all sensors present self-attention over their tokens predicts classes with a higher AUC-ROC than sum, convolution, squeeze and "
    "excitation and attentional feature fusion; and self-attention trained with half of the tokens left out loses less of it than without "
    "when one sensor is removed at test time, and on average over all ways to remove some."
)
DATA = _digits.DATA
SEEDS = 5
BUDGET = Budget(steps=100, batch=64, rates=(3e-3,))
TRAIN, TEST = 300, 700
ARMS = {
    "attention": {"ratio": 0.0},
    "masked": {"ratio": 0.5},
    **{name: {"fuse": name} for name in ("sum", "conv", "se", "aff")},
}
SCALE = {"queue": 512, "momentum": 0.9}
PLACES = {"top left": (0, 0), "top right": (0, 8), "bottom left": (8, 0), "bottom right": (8, 8)}
AUC, CHANGE = (
    "AUC-ROC, mean over digits, held out",
    "change of AUC-ROC against all quadrants, held out",
)
COMPARISONS = tuple(
    Comparison(f"all quadrants: attention against {arm}", AUC, "attention, all", f"{arm}, all") for arm in ("sum", "conv", "se", "aff")
) + tuple(
    Comparison(f"{n} removed: tokens left out against none", CHANGE, f"masked, lost with {n} removed", f"attention, lost with {n} removed")
    for n in ("one", "some")
)  # fmt: skip


def quadrants(digits):
    """A dataset of four fields and the label."""
    ink = _digits.ink(digits, 16)
    raw = {name: [p[y : y + 8, x : x + 8] for p in ink] for name, (y, x) in PLACES.items()}
    fields = {s: Image.infer(v, channels=1, size=8, patch=4, flip=False) for s, v in raw.items()}
    return data.open(
        raw | {"digit": list(digits.label("digit"))}, name="quadrants of digits"
    ).with_fields(fields)


def made(arm, encoder):
    method = methods.build("mhsa_dms", encoder, label="digit", classes=10, **SCALE, **ARMS[arm])
    method.views = ("weak", "weak")
    return method


@torch.no_grad()
def auc(method, dataset, rows, truth, fields):
    batches = Loader(dataset, rows, batch=256, shuffle=False)
    predicted = torch.cat(
        [method.predict(b.only(*fields)).values.softmax(1) for b in batches]
    ).numpy()
    return mean(auroc(predicted[:, c], truth == c) for c in np.unique(truth))


def measure(seed, dataset):
    chosen = quadrants(dataset)
    numbers, _ = class_numbers(chosen.label("digit"))
    order = np.random.default_rng([seed, 56]).permutation(len(chosen))
    train, test, _ = (np.sort(part) for part in np.split(order, [TRAIN, TRAIN + TEST]))
    found = {}
    for arm in ARMS:
        method = trained(chosen, train, partial(made, arm), BUDGET, seed, *BUDGET.rates)
        subsets = [s for n in range(1, len(PLACES) + 1) for s in combinations(PLACES, n)]
        value = {s: auc(method, chosen, test, numbers[test], s) for s in subsets}
        whole = found[f"{arm}, all"] = value.pop(subsets[-1])
        found |= {
            f"{arm}, {n} of 4": mean(v for s, v in value.items() if len(s) == n) for n in (1, 2, 3)
        }
        found[f"{arm}, lost with one removed"] = found[f"{arm}, 3 of 4"] - whole
        found[f"{arm}, lost with some removed"] = mean(value.values()) - whole
    return found
