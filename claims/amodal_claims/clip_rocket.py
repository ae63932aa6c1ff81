"""CLIPRocket (row 87): losses without negatives help a naive CLIP, and a CLIP with a strong recipe
needs none of them. Fini et al., TMLR 2023, arXiv:2305.08675. Tux Paint's stamps, 618 pairs to learn
from. Two recipes (naive: one mild view; strong: two strong views more of each side on a second
projector, labels smoothed, captions edited by words) with five losses each: CLIP's alone, and with
BarLIP, SiamLIP, ByoLIP or SwALIP. Every arm takes the same steps of the same batch at the learning
rate that the library uses for this size; an arm of the strong recipe computes about twice as long.
"""

from functools import partial
from statistics import mean

from amodal import methods
from amodal_claims import Comparison, _stamps
from amodal_claims._arms import Budget, trained

CLAIM = (
    "With the naive recipe, CLIP with a non-contrastive loss added (mean of four) beats CLIP in zero-shot accuracy on held-out pictures; "
    "with the strong recipe CLIP beats naive CLIP, and is at most .02 behind the mean of the four that add a loss."
)
DATA = _stamps.DATA
SEEDS = 5
BUDGET = Budget(steps=80, batch=64, rates=(2e-3,))
ADDED = ("barlip", "siamlip", "byolip", "swalip")
METRIC = "balanced accuracy, zero-shot, 10 categories"
COMPARISONS = (
    Comparison(
        "naive: four added losses (mean) against CLIP", METRIC, "naive: added", "naive: none"
    ),
    Comparison("CLIP: strong against naive", METRIC, "strong: none", "naive: none"),
    Comparison(
        "strong: CLIP against four added losses (mean)",
        METRIC,
        "strong: none",
        "strong: added",
        margin=-0.02,
    ),
)
SHAPE = {"width": 64, "hidden": 128, "added_hidden": 128}


def measure(seed, dataset):
    stamps = _stamps.stamps(dataset, size=24, max_length=12, patch=4, strong="words")
    parts, found = _stamps.parts(stamps, seed), {}
    for recipe, options in {"naive": {"local_views": 0}, "strong": {"local_views": 2}}.items():
        for add in ("none", *ADDED):
            added_width = 256 if add == "barlip" else 64
            make = partial(
                methods.build, "clip_rocket", add=add, added_width=added_width, **SHAPE, **options
            )
            method = trained(stamps, parts["train"], make, BUDGET, seed, BUDGET.rates[0])
            found[f"{recipe}: {add}"] = _stamps.zero_shot(method, stamps, parts["test"])
            found[f"{recipe}: {add}, recall"] = _stamps.recall(method, stamps, parts["test"])
        found[f"{recipe}: added"] = mean(found[f"{recipe}: {add}"] for add in ADDED)
    return found
