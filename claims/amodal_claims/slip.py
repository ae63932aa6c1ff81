"""SLIP (row 103): captions and augmented views together teach pictures better than either. Mu et
al., ECCV 2022, arXiv:2112.12750. Tux Paint's stamps: 618 pairs to learn from, which is scarce
indeed. Each arm takes the same steps of the same batch at the learning rate that the library uses
for this size; SLIP sees three views of a picture where CLIP sees one."""

from functools import partial

from amodal import methods
from amodal_claims import Comparison, _stamps
from amodal_claims._arms import Budget, trained

CLAIM = (
    "On the same pairs and steps, CLIP with SimCLR's loss beats CLIP alone on zero-shot and on linear-probe accuracy of held-out "
    "pictures, and beats SimCLR alone on linear-probe accuracy."
)
DATA = _stamps.DATA
SEEDS = 5
BUDGET = Budget(steps=200, batch=64, rates=(2e-3,))
WIDTH = 64
ZERO_SHOT, PROBE = (
    "balanced accuracy, zero-shot, 10 categories",
    "accuracy, linear probe, 10 categories",
)
COMPARISONS = (
    Comparison("zero-shot: SLIP against CLIP", ZERO_SHOT, "zero-shot: slip", "zero-shot: clip"),
    Comparison("probe: SLIP against CLIP", PROBE, "probe: slip", "probe: clip"),
    Comparison("probe: SLIP against SimCLR", PROBE, "probe: slip", "probe: simclr"),
)
OPTIONS = {
    "clip": {"width": WIDTH},
    "slip": {"width": WIDTH, "hidden": 4 * WIDTH, "projection": WIDTH},
    "simclr": {"width": WIDTH, "temperature": 0.1},
}


def measure(seed, dataset):
    stamps = _stamps.stamps(dataset)
    parts, found = _stamps.parts(stamps, seed), {}
    for arm, options in OPTIONS.items():
        data = stamps.select([_stamps.IMAGE]) if arm == "simclr" else stamps
        make = partial(methods.build, arm, **options)
        method = trained(data, parts["train"], make, BUDGET, seed, BUDGET.rates[0])
        found[f"probe: {arm}"] = _stamps.linear(method, data, parts["train"], parts["test"])
        if arm != "simclr":
            found[f"zero-shot: {arm}"] = _stamps.zero_shot(method, data, parts["test"])
    return found
