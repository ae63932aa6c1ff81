"""AMDIM (row 95): predicting local features of another view, at several scales, against a view's
own and against vectors only. Bachman et al., NeurIPS 2019, arXiv:1906.00910. Real photographs of
clothes (Fashion-MNIST), 2,000 to learn from, drawn anew for each seed. All arms have the same
encoder, views, batch, steps and rate (the library's for this size); AMDIM looks at pieces too and
so computes about twice as much a step as SimCLR, as in the paper."""

from dataclasses import replace
from functools import partial

import numpy as np

from amodal import methods
from amodal_claims import Comparison
from amodal_claims._arms import Budget, features, probe, trained

CLAIM = (
    "AMDIM's features of held-out photographs give a higher linear-probe accuracy than those of local DIM, which predicts a view's parts "
    "from itself, and of SimCLR, which compares global vectors only; without the middle scale (5 -> 5), and without the soft clip, "
    "accuracy is lower."
)
DATA = "fashion_mnist"
SEEDS = 5
BUDGET = Budget(steps=100, batch=64, rates=(2e-3,))
ROWS = {"train": 2000, "test": 1000}
ARMS = {
    "amdim": ("amdim", {}),
    "local DIM": ("amdim", {"same_view": True}),
    "simclr": ("simclr", {}),
    "no middle": ("amdim", {"middle": False}),
    "no clip": ("amdim", {"bound": 0.0}),
}
ACCURACY = "accuracy of a linear probe, held-out photographs"
COMPARISONS = (
    Comparison("AMDIM against local DIM", ACCURACY, "amdim", "local DIM"),
    Comparison("AMDIM against SimCLR", ACCURACY, "amdim", "simclr"),
    Comparison("AMDIM against no 5 -> 5", ACCURACY, "amdim", "no middle"),
    Comparison("AMDIM against no soft clip", ACCURACY, "amdim", "no clip"),
)


def clothes(dataset, seed):
    """Pictures of 28 pixels in 16 patches, so that a region is four; and the records of each part."""
    image = dataset.fields["image"]
    small = dataset.with_fields({"image": replace(image, patch=7)})
    rng = np.random.default_rng(seed)
    return small, {
        part: np.sort(rng.permutation(small.split(part))[:n]) for part, n in ROWS.items()
    }


def measure(seed, dataset):
    data, rows = clothes(dataset, seed)
    label, found = data.label("class"), {}
    for arm, (name, options) in ARMS.items():
        method = trained(
            data,
            rows["train"],
            partial(methods.build, name, **options),
            BUDGET,
            seed,
            *BUDGET.rates,
        )
        seen, held = (
            features(method.encoder, data, rows[part])["image"] for part in ("train", "test")
        )
        found[arm] = probe(seen, label[rows["train"]], held, label[rows["test"]])
    return found
