"""MMA-DFER (row 15): frozen encoders of single modalities, joined by adapters between their blocks.
Chumachenko et al., CVPR 2024 workshops, arXiv:2404.09010. No faces and voices are in any package:
the accelerometer and the gyroscope of a smartwatch, seven exercises of ten people, split by people
anew for each seed (three to test on, two to choose by).

Masked autoencoders learn each modality by itself on the windows of the five other people, which are
also the labelled ones. All arms go on from those weights with the same head over time, steps and
two learning rates; kept is the rate with the best unweighted recall of the people to choose by.
`fused` has prompts and adapters that exchange, `prompts` the prompts alone, `late` neither (two
frozen encoders and the head); `apart` (adapters that do not exchange) and `full` (everything
trained) are recorded and not compared. Widths are to the nano encoder about what the paper's are to
theirs: 8 in the adapters, 32 over time. The accelerometer leads."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from amodal import methods
from amodal.data import Loader
from amodal.data.loader import class_numbers
from amodal.nn.encoder import Encoder
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit, trained

CLAIM = (
    "With frozen encoders of single modalities, an exchange through adapters at every block predicts exercises of unseen people with a higher "
    "unweighted recall than late fusion of the two and than prompts alone, while less than 10 % of the weights are trained; and dropping "
    "the modality that joins costs less at test time than dropping the one that leads."
)
DATA = "watch"
SEEDS = 5
ALONE = Budget(steps=100, batch=64, rates=(2e-3,))
BUDGET = Budget(steps=100, batch=64, rates=(2e-3, 6e-3))
LEAD, OTHER = "accelerometer", "gyroscope"
SMALL = {"bottleneck": 8, "hidden": 32}
ARMS = {
    "fused": {},
    "late": {"prompts": 0, "bottleneck": 0},
    "prompts": {"bottleneck": 0},
    "apart": {"meet": False},
    "full": {"prompts": 0, "bottleneck": 0, "frozen": False},
}
UAR = "unweighted average recall, held-out people"
COMPARISONS = (
    Comparison("exchange at every block against late fusion", UAR, "UAR, fused", "UAR, late"),
    Comparison("exchange at every block against prompts alone", UAR, "UAR, fused", "UAR, prompts"),
    Comparison("weights that stay frozen", "share of all weights", "frozen, fused", 0.9),
    Comparison("without the modality that joins against without the lead", UAR, f"UAR, without {OTHER}", f"UAR, without {LEAD}"),
)  # fmt: skip


@torch.no_grad()
def recalls(method, dataset, rows, truth, fields=(LEAD, OTHER)):
    """Unweighted and weighted average recall (the latter is accuracy)."""
    batches = Loader(dataset, rows, batch=256, shuffle=False)
    guess = torch.cat([method.predict(b.only(*fields)).values.argmax(1) for b in batches]).numpy()
    right = guess == truth
    return float(np.mean([right[truth == c].mean() for c in np.unique(truth)])), float(right.mean())


def each_alone(motion, rows, seed):
    """An encoder of both modalities, whose weights a masked autoencoder of each modality has learnt by
    itself."""
    weights, make = {}, partial(methods.build, "mae")
    for field in motion.fields:
        weights |= trained(
            motion.select([field]), rows, make, ALONE, seed, *ALONE.rates
        ).encoder.state_dict()
    encoder = Encoder(motion.fields, size=ALONE.size)
    encoder.load_state_dict(weights)
    return encoder


def measure(seed, dataset):
    fields = dataset.select([LEAD, OTHER])
    motion = fields.with_fields({s: replace(fields.fields[s], patch=25) for s in (LEAD, OTHER)})
    numbers, names = class_numbers(dataset.label("exercise"))
    people = dataset.label("subject")
    order = np.random.default_rng([seed, 15]).permutation(sorted(set(people)))
    test, valid, train = (
        np.flatnonzero(np.isin(people, some)) for some in (order[:3], order[3:5], order[5:])
    )
    alone = each_alone(motion, train, seed)
    found = {}
    for arm, options in ARMS.items():
        tried = []
        for rate in BUDGET.rates:
            torch.manual_seed(seed)
            task = {"label": "exercise", "classes": len(names), "lead": LEAD}
            method = methods.build(
                "mma_dfer", copy.deepcopy(alone).train(), **task, **(SMALL | options)
            )
            fit(method, motion, train, BUDGET, seed, rate)
            tried.append((recalls(method, motion, valid, numbers[valid])[0], -rate, method))
        method = max(tried, key=lambda one: one[:2])[2]
        found[f"UAR, {arm}"], found[f"WAR, {arm}"] = recalls(method, motion, test, numbers[test])
        sizes = [(p.numel(), p.requires_grad) for p in method.parameters()]
        found[f"frozen, {arm}"] = sum(n for n, learns in sizes if not learns) / sum(
            n for n, _ in sizes
        )
        if arm == "fused":
            for gone, left in ((LEAD, OTHER), (OTHER, LEAD)):
                found[f"UAR, without {gone}"] = recalls(
                    method, motion, test, numbers[test], (left,)
                )[0]
    return found
