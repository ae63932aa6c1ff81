"""CLIPRocket (row 87): losses without negatives help a naive CLIP. Fini et al., TMLR 2023,
arXiv:2305.08675. Heads on frozen vectors of emoji's pictures and names, with 1,600 pairs to learn from.
The naive recipe has one view of each vector, as it is, and five losses: CLIP's alone, or with BarLIP,
SiamLIP, ByoLIP or SwALIP beside it, on projectors of their own. All take the same steps of the same
batch at one rate, which was chosen for the control on other seeds.

What decides is the mean of the four that add a loss against CLIP alone, the control, which has to do
better than chance, than itself before the first step and than a CCA of simple features. An earlier
form of this claim trained from scratch on 618 pairs of Tux Paint, without floors: zero-shot accuracy
.142 with an added loss, .128 without. The strong recipe, which that form had too (.145 and .159),
is left out for time.
"""

from statistics import mean

import numpy as np
import torch

from amodal import methods
from amodal_claims import Comparison, _frozen
from amodal_claims._arms import Budget, fit
from amodal_claims._captions import recall
from amodal_claims._floors import simple_recall

CLAIM = (
    "With the naive recipe on frozen vectors, CLIP with a non-contrastive loss added (mean of four) finds held-out emoji by name and the reverse "
    "better than CLIP alone."
)
DATA = _frozen.DATA
STEPS = (150, 300)
BATCH, RATE = 128, 1e-3
TRAIN, TEST, WIDTH = 1600, 500, 128
ADDED = ("barlip", "siamlip", "byolip", "swalip")
RECALL = "Recall@10, mean of both directions, 500 held-out emoji"
PRIMARY = Comparison(
    "four added losses (mean) against CLIP",
    RECALL,
    "added",
    "none",
    # Of practice: one query more in thirty.
    interest=0.03,
)
SECONDARY = tuple(Comparison(f"{add} against CLIP", RECALL, add, "none") for add in ADDED)
FLOORS = ("chance", "untrained", "simple features")
SHAPE = {"width": WIDTH, "local_views": 0, "added_width": WIDTH, "added_hidden": 4 * WIDTH}


def parts_of(dataset, seed):
    """Emoji to train on and to test on."""
    emoji = _frozen.of_source(dataset, _frozen.EMOJI)
    order = np.random.default_rng([seed, 87]).permutation(emoji)[: TRAIN + TEST]
    return np.sort(order[:TRAIN]), np.sort(order[TRAIN:])


def built(add, two, seed):
    torch.manual_seed(seed)
    method = methods.build("clip_rocket", _frozen.copying(two.fields), add=add, **SHAPE)
    method.views = ("plain",)
    return method


def floors(seed, dataset):
    two = _frozen.vectors(dataset)
    train, test = parts_of(dataset, seed)
    both = _frozen.originals(dataset, np.concatenate([train, test]))
    return {
        "chance": 10 / TEST,
        "untrained": recall(built("none", two, seed).eval(), two, test),
        "simple features": simple_recall(both, range(TRAIN), range(TRAIN, len(both))),
    }


def arm(add, seed, dataset, steps):
    two = _frozen.vectors(dataset)
    train, test = parts_of(dataset, seed)
    method = fit(built(add, two, seed), two, train, Budget(steps, BATCH, (RATE,)), seed, RATE)
    return {add: recall(method, two, test)}


def control(seed, dataset, steps):
    return arm("none", seed, dataset, steps)


def measure(seed, dataset, steps):
    found = control(seed, dataset, steps)
    for add in ADDED:
        found |= arm(add, seed, dataset, steps)
    return found | {"added": mean(found[add] for add in ADDED)}
