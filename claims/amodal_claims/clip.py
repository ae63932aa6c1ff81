"""CLIP as it is here: linear heads on frozen vectors, against the closed form that has the same job.
Radford et al. 2021, arXiv:2103.00020. No row of its own: a claim about the library.

Emoji by name and the reverse. The heads learn by InfoNCE at the better of two rates on validation
emoji; the control is the regularised CCA of the same vectors of the same pairs, which needs no
training and has the library's own strength. Emoji are divided by the seed. An earlier form of this
claim trained on three modalities of the Earth from scratch and asked for more than chance (.22,
chance .02), which says little.
"""

import numpy as np
import torch

from amodal import methods
from amodal_claims import Comparison, _frozen
from amodal_claims._arms import Budget, fit
from amodal_claims._captions import recall
from amodal_claims._floors import simple_recall

CLAIM = (
    "Linear heads that learn by contrast on frozen vectors of pictures and names find held-out emoji by name and the reverse better than "
    "the regularised CCA of the same vectors."
)
DATA = _frozen.DATA
STEPS = (150, 300)
BATCH, RATES = 256, (1e-3, 4e-3)
VALID, TEST, WIDTH = 300, 500, 128
RECALL = "Recall@10, mean of both directions, 500 held-out emoji"
PRIMARY = Comparison(
    "contrast against CCA",
    RECALL,
    "clip",
    "cca",
    # less would not pay for a loop where a closed form does
    interest=0.03,
)
FLOORS = ("chance", "untrained", "simple features")


def parts_of(dataset, seed):
    """Emoji to train on, to choose by, to test on."""
    emoji = _frozen.of_source(dataset, _frozen.EMOJI)
    order = np.random.default_rng([seed, 0]).permutation(emoji)
    return [np.sort(part) for part in np.split(order, [-VALID - TEST, -TEST])]


def built(two, seed):
    torch.manual_seed(seed)
    method = methods.build("clip", _frozen.copying(two.fields), width=WIDTH)
    method.views = ("plain",)
    return method


def floors(seed, dataset):
    two = _frozen.vectors(dataset)
    train, _, test = parts_of(dataset, seed)
    both = _frozen.originals(dataset, np.concatenate([train, test]))
    seen = range(len(train))
    return {
        "chance": 10 / TEST,
        "untrained": recall(built(two, seed).eval(), two, test),
        "simple features": simple_recall(both, seen, range(len(train), len(both))),
    }


def control(seed, dataset, steps):
    train, _, test = parts_of(dataset, seed)
    return {"cca": _frozen.cca(_frozen.vectors(dataset), train, [test])}


def measure(seed, dataset, steps):
    two = _frozen.vectors(dataset)
    train, valid, test = parts_of(dataset, seed)
    budget = Budget(steps, BATCH, RATES)
    tried = [fit(built(two, seed), two, train, budget, seed, rate) for rate in RATES]
    best = max(tried, key=lambda one: recall(one, two, valid))
    return {"clip": recall(best, two, test)} | control(seed, dataset, steps)
