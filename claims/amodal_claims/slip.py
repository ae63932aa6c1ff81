"""SLIP (row 103): names and augmented views together teach a common space better than names alone. Mu
et al., ECCV 2022, arXiv:2112.12750.

Linear heads on frozen vectors of emoji's pictures and names, with 1,600 pairs to learn from: with
400 the control was hardly above simple features on other seeds (.22 and .21). Views are of the
vectors: a tenth of noise, a fifth of the values missing. Both arms have CLIP's loss on the same mild
view; SLIP adds SimCLR's on two strong views of both, behind a perceptron of its own. The control is
CLIP, which has to do better than chance, than itself before the first step and than a CCA of simple
features. Each arm takes the better of two rates on validation emoji.

An earlier form of this claim trained from scratch on 618 pairs of Tux Paint, without floors, and was
inconclusive (zero-shot .208 against .174, linear probe .478 against .470).
"""

import numpy as np
import torch

from amodal import methods
from amodal_claims import Comparison, _frozen
from amodal_claims._arms import Budget, fit
from amodal_claims._captions import recall
from amodal_claims._floors import simple_recall

CLAIM = (
    "On the same pairs of frozen vectors and steps, CLIP with SimCLR's loss on augmented views finds held-out emoji by name and the reverse "
    "better than CLIP alone."
)
DATA = _frozen.DATA
STEPS = (150, 300)
BATCH, RATES = 128, (1e-3, 4e-3)
TRAIN, VALID, TEST, WIDTH = 1600, 300, 500, 128
RECALL = "Recall@10, mean of both directions, 500 held-out emoji"
PRIMARY = Comparison(
    "SLIP against CLIP",
    RECALL,
    "slip",
    "clip",
    # Of practice: one query more in thirty.
    interest=0.03,
)
FLOORS = ("chance", "untrained", "simple features")
ARMS = {"clip": {}, "slip": {"hidden": 4 * WIDTH, "projection": WIDTH}}


def parts_of(dataset, seed):
    """Emoji to train on, to choose by, to test on."""
    emoji = _frozen.of_source(dataset, _frozen.EMOJI)
    order = np.random.default_rng([seed, 103]).permutation(emoji)[: TRAIN + VALID + TEST]
    return [np.sort(part) for part in np.split(order, [TRAIN, TRAIN + VALID])]


def built(arm, two, seed):
    torch.manual_seed(seed)
    method = methods.build(arm, _frozen.copying(two.fields), width=WIDTH, **ARMS[arm])
    if arm == "clip":
        method.views = ("weak",)
    return method


def floors(seed, dataset):
    two = _frozen.vectors(dataset)
    train, _, test = parts_of(dataset, seed)
    both = _frozen.originals(dataset, np.concatenate([train, test]))
    return {
        "chance": 10 / TEST,
        "untrained": recall(built("clip", two, seed).eval(), two, test),
        "simple features": simple_recall(both, range(TRAIN), range(TRAIN, len(both))),
    }


def arm(name, seed, dataset, steps):
    two = _frozen.vectors(dataset)
    train, valid, test = parts_of(dataset, seed)
    budget = Budget(steps, BATCH, RATES)
    tried = [fit(built(name, two, seed), two, train, budget, seed, rate) for rate in RATES]
    best = max(tried, key=lambda one: recall(one, two, valid))
    return {name: recall(best, two, test)}


def control(seed, dataset, steps):
    return arm("clip", seed, dataset, steps)


def measure(seed, dataset, steps):
    return {key: value for name in ARMS for key, value in arm(name, seed, dataset, steps).items()}
