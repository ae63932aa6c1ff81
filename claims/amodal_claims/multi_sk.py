"""Multi-assignment Sinkhorn (row 69): what is alike to frozen models stays alike in the common
space, which helps in another domain. Swetha, Rizve, Shvetsova, Kuehne & Shah, ICCV 2023,
arXiv:2308.13077.

Trained on OpenMoji's pictures and names, searched in Tux Paint's photographs, drawings and
captions, which nothing was trained or chosen on. Modalities are vectors of frozen models, as in the
paper. Galleries of both domains have the same size, so chance is the same.
"""

from dataclasses import replace
from functools import partial
from statistics import mean

import numpy as np

from amodal import methods
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best
from amodal_claims._captions import recall

CLAIM = (
    "At equal training on emoji, the consistency of several anchors raises Recall@10 between pictures and captions of stamps over InfoNCE "
    "alone and over the same with one anchor each (Sinkhorn), and it raises it more there than among held-out emoji."
)
DATA = "frozen_pairs"
SEEDS = 5
BUDGET = Budget(steps=250, batch=128, rates=(1e-3, 4e-3))
FIELDS = ("image", "words")
ANCHORS, QUEUE = 64, 512
ARMS = {
    "several": {"assigned": 0.5},
    "one": {"assigned": 1 / ANCHORS},
    "none": {"weight": 0.0},
}
RECALL = "Recall@10, mean of both directions, galleries of one size"
COMPARISONS = (
    Comparison(
        "stamps: several anchors against InfoNCE alone", RECALL, "stamps, several", "stamps, none"
    ),
    Comparison("stamps: several anchors against one", RECALL, "stamps, several", "stamps, one"),
    Comparison(
        "gain over InfoNCE: stamps against emoji",
        f"gain in {RECALL}",
        "gain, stamps",
        "gain, emoji",
    ),
)


def measure(seed, dataset):
    chosen = dataset.select(
        FIELDS
    )  # vectors as they are: the models' own scale says how much a direction matters
    pairs = chosen.with_fields({s: replace(chosen.fields[s], mean=(), std=()) for s in FIELDS})
    source = dataset.label("source")
    emoji = {
        part: np.array([i for i in dataset.split(part) if source[i] == "openmoji"])
        for part in ("train", "valid", "test")
    }
    stamps = np.random.default_rng(seed).permutation(np.flatnonzero(source == "tuxpaint"))
    size = len(emoji["test"])
    galleries = [np.sort(stamps[i : i + size]) for i in range(0, len(stamps) - size + 1, size)]
    found = {}
    for arm, options in ARMS.items():
        make = partial(methods.build, "multi_sk", anchors=ANCHORS, queue=QUEUE, **options)
        method = best(
            pairs, emoji["train"], make, BUDGET, seed, lambda m: recall(m, pairs, emoji["valid"])
        )
        found[f"emoji, {arm}"] = recall(method, pairs, emoji["test"])
        found[f"stamps, {arm}"] = mean(recall(method, pairs, rows) for rows in galleries)
    return found | {
        f"gain, {d}": found[f"{d}, several"] - found[f"{d}, none"] for d in ("stamps", "emoji")
    }
