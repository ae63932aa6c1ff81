"""MedFLIP (row 51): pictures seen in part, so that the same time pays for more steps. Li et al.,
2024, arXiv:2403.04626. Tux Paint's stamps in 64 patches: 618 pairs to learn from, drawn anew for
each seed, as are those to test on. All arms are one dual encoder at the learning rate that the
library uses for this size; they differ in the share of patches that is dropped and in their number
of steps, which makes the time equal: a step with 50 and 75 % dropped takes .60 and .455 of the time
of a whole one here (processor time of one thread, measured before the first run; what each arm took
is in the ledger). Targets are hard: soft ones would be made of the categories that are asked for.
One arm has as many steps as the whole one and is reported without a verdict."""

import time
from dataclasses import replace
from functools import partial

from amodal import methods
from amodal_claims import Comparison, _stamps
from amodal_claims._arms import Budget, trained

CLAIM = (
    "In the same time, training on 50 and on 25 % of the patches reaches a zero-shot accuracy and a Recall@10 at most .02 below "
    "those of training on all patches; and at 50 % the term in the leading singular value raises zero-shot accuracy."
)
DATA = _stamps.DATA
SEEDS = 5
BUDGET = Budget(steps=120, batch=64, rates=(2e-3,))
STEPS = {0.0: 120, 0.5: 200, 0.75: 264}
ARMS = {  # share dropped, weight of the spectral term, steps
    "all": (0.0, 0.0, STEPS[0.0]),
    "50 %": (0.5, 0.0, STEPS[0.5]),
    "25 %": (0.75, 0.0, STEPS[0.75]),
    "50 %, spectral": (0.5, 1.0, STEPS[0.5]),
    "50 %, as many steps": (0.5, 0.0, STEPS[0.0]),
}
ZERO_SHOT, RECALL = (
    "balanced accuracy, zero-shot, 10 categories",
    "Recall@10, mean of both directions, 238 held-out pairs",
)
COMPARISONS = (
    Comparison(
        "50 % of the patches against all",
        ZERO_SHOT,
        "zero-shot: 50 %",
        "zero-shot: all",
        margin=-0.02,
    ),
    Comparison(
        "25 % of the patches against all",
        ZERO_SHOT,
        "zero-shot: 25 %",
        "zero-shot: all",
        margin=-0.02,
    ),
    Comparison(
        "50 % of the patches against all", RECALL, "recall: 50 %", "recall: all", margin=-0.02
    ),
    Comparison(
        "25 % of the patches against all", RECALL, "recall: 25 %", "recall: all", margin=-0.02
    ),
    Comparison(
        "with the spectral term against without",
        ZERO_SHOT,
        "zero-shot: 50 %, spectral",
        "zero-shot: 50 %",
    ),
)


def measure(seed, dataset):
    stamps = _stamps.stamps(dataset, size=64, tile=8)
    parts, found = _stamps.parts(stamps, seed), {}
    for arm, (ratio, spectral, steps) in ARMS.items():
        make = partial(methods.build, "medflip", width=64, ratio=ratio, spectral=spectral)
        begun = time.process_time()
        method = trained(
            stamps, parts["train"], make, replace(BUDGET, steps=steps), seed, BUDGET.rates[0]
        )
        found[f"seconds: {arm}"] = time.process_time() - begun
        found[f"zero-shot: {arm}"] = _stamps.zero_shot(method, stamps, parts["test"])
        found[f"recall: {arm}"] = _stamps.recall(method, stamps, parts["test"])
    return found
