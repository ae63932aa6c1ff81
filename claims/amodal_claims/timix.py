"""TiMix (row 79): pasting what fits one caption over what fits another least teaches more from the
same pairs. Jiang et al., AAAI 2024, arXiv:2312.08846. Tux Paint's stamps, all 618 training pairs or
a quarter of them, drawn by the seed. Every arm takes the same steps of the same batch at the
learning rate that the library uses for this size; the arms that mix compute one more pass of
pictures a step. How well a patch fits its caption is predicted by the encoder that is being trained."""

from functools import partial

import numpy as np

from amodal import methods
from amodal_claims import Comparison, _stamps
from amodal_claims._arms import Budget, trained

CLAIM = (
    "From the same pairs and steps, mixing guided by captions finds held-out pictures and captions better than no mixing, mixup and CutMix "
    "at random places with targets by area, and its gain over no mixing is larger from a quarter of the pairs than from all."
)
DATA = _stamps.DATA
SEEDS = 5
BUDGET = Budget(steps=100, batch=64, rates=(2e-3,))
SHARES = {"all": 1.0, "quarter": 0.25}
ARMS = {
    "none": {"weight": 0.0},
    "mixup": {"place": "everywhere"},
    "cutmix": {"place": "random"},
    "timix": {"place": "text"},
}
METRIC = "Recall@10, mean of both directions, 238 held-out pairs"
COMPARISONS = (
    *(
        Comparison(
            f"{share} of the pairs: TiMix against {words}",
            METRIC,
            f"{share}: timix",
            f"{share}: {arm}",
        )
        for share in SHARES
        for arm, words in (("none", "no mixing"), ("mixup", "mixup"), ("cutmix", "CutMix"))
    ),
    Comparison("gain over no mixing: a quarter against all", METRIC, "quarter: gain", "all: gain"),
)


def measure(seed, dataset):
    stamps, found = _stamps.stamps(dataset), {}
    parts = _stamps.parts(stamps, seed)
    order = np.random.default_rng([seed, 79]).permutation(parts["train"])
    for name, share in SHARES.items():
        rows = np.sort(order[: round(share * len(order))])
        for arm, options in ARMS.items():
            make = partial(methods.build, "timix", width=64, **options)
            method = trained(stamps, rows, make, BUDGET, seed, *BUDGET.rates)
            found[f"{name}: {arm}"] = _stamps.recall(method, stamps, parts["test"])
        found[f"{name}: gain"] = found[f"{name}: timix"] - found[f"{name}: none"]
    return found
