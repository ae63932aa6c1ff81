"""Missing modality prediction (row 37): what a record lacks is predicted as an embedding, and predicted
from. Kim and Kim, ECCV 2024, arXiv:2407.12616.

Stamps (picture and caption, categories) and handwritten digits (left half and right half), split
anew for each seed. The two trunks are trained without labels, each modality by itself (SimCLR), and
every arm goes on from those same weights: biases tuned, the same linear head of both vectors,
complete labelled records to train on, the same steps and the same two learning rates; kept is the
rate with the best mean of validation accuracies with everything, with the first modality alone and
with the second alone. Arms: `vicreg`, as in the paper; `mse`, the same without variance and
covariance; `zero` and `mean`, which see complete records only and later get zeros, or the mean
vector of the training records, where a modality is missing; `dropout`, zeros, but also while training,
as often as the paper's modalities are hidden. Two numbers, the second learning rate and how the digits
are split, were set by what the arm trained on complete records gave on validation records of
another seed, before any other arm was looked at.

Tested is the whole curve: 0, 30, 70 and 100 % of the test records lack one modality (those that lack
it at a lower rate do at a higher); accuracies are means of the curve of the first modality and that of
the second, which are also kept one by one."""

import copy
from functools import partial
from statistics import mean

import numpy as np
import torch

from amodal import data, methods
from amodal.core import row_seeds
from amodal.data import Loader
from amodal.data.loader import class_numbers
from amodal.masking.hashing import uniform
from amodal.modalities.image import Image
from amodal_claims import Comparison, _digits, _stamps
from amodal_claims._arms import Budget, features, fit, untrained

CLAIM = (
    "Encoders trained apart, tuned by their biases and fused late: with 70 and 100 % of the test records lacking a modality, predicting its "
    "embedding (read-only prompts, VICReg) predicts classes better than filling in zeros or the mean and than modality dropout, and better "
    "than with plain squared error; on complete records it is as good as training on complete records alone (within .02)."
)
DATA = "tuxpaint"
SEEDS = 5
ALONE = Budget(steps=60, batch=96, rates=(2e-3,))
BUDGET = Budget(steps=50, batch=64, rates=(4e-3, 1e-2))
DIGITS = (
    300,
    600,
    800,
)  # the first 300 are labelled, 600 train without labels, 200 are chosen by, the others tested
RATES = (0.0, 0.3, 0.7, 1.0)
TRAINED = {
    "vicreg": {},
    "mse": {"variance": 0.0, "covariance": 0.0},
    "dropout": {"weight": 0.0},
    "complete": {"weight": 0.0, "drop": 0.0},
}
ARMS = {
    "vicreg": "vicreg",
    "mse": "mse",
    "dropout": "dropout",
    "zero": "complete",
    "mean": "complete",
}
SETS = {"stamps": (_stamps.IMAGE, _stamps.TEXT), "digits": ("left", "right")}
BASELINES = {
    "zero": "zeros",
    "mean": "the mean",
    "dropout": "modality dropout",
    "mse": "squared error",
}
METRIC = "accuracy, mean over which modality is missing"
COMPARISONS = tuple(
    Comparison(f"{where}, {rate:.0%} missing: against {words}", METRIC, f"{where}, {rate:.0%}: vicreg", f"{where}, {rate:.0%}: {arm}")
    for where in SETS
    for rate in (0.7, 1.0)
    for arm, words in BASELINES.items()
) + tuple(
    Comparison(f"{where}, complete: against complete training", METRIC, f"{where}, 0%: vicreg", f"{where}, 0%: zero", margin=-0.02)
    for where in SETS
)  # fmt: skip


def constant(vectors, field, z, predicted, present):
    """In place of `FilledFusion.lacking`: the vector of the modality for every row."""
    return vectors[field].expand(z.size, -1)


def filled(method, arm, dataset, rows):
    """The method as the arm has it at a test: with its predictions, zeros, or means of the records
    `rows`."""
    if arm in BASELINES and arm != "mse":
        means = {s: torch.zeros(method.fusion.width) for s in method.encoder.fields}
        if arm == "mean":
            seen = features(method.encoder, dataset, rows)
            means = {s: seen[s].values.mean(0) for s in means}
        method.fusion.lacking = partial(constant, means)
    return method


def made(name, classes, label, encoder):
    method = methods.build(
        "missing_joint_embedding", encoder, label=label, classes=classes, **TRAINED[name]
    )
    return filled(method, "zero", None, ()) if name in ("dropout", "complete") else method


@torch.no_grad()
def guesses(method, dataset, rows, field=None):
    """(n,) class numbers as predicted from all modalities, or without `modality`."""
    remaining = [s for s in dataset.fields if s != field]
    batches = Loader(dataset, rows, batch=256, shuffle=False)
    return torch.cat([method.predict(b.only(*remaining)).values.argmax(1) for b in batches]).numpy()


def halves(digits):
    """A dataset of the left and the right half of each digit, stretched to a square, and the label."""
    ink = _digits.ink(digits, 16)
    raw = {
        "left": [p[:, :8].repeat(2, 1) for p in ink],
        "right": [p[:, 8:].repeat(2, 1) for p in ink],
    }
    fields = {s: Image.infer(v, channels=1, size=16, patch=4, flip=False) for s, v in raw.items()}
    return data.open(
        raw | {"class": list(digits.label("digit"))}, name="halves of digits"
    ).with_fields(fields)


def parts_of(where, dataset, seed):
    """The dataset of two modalities, the records to train on without labels, and with labels, to choose
    by and to test on; the label."""
    if where == "stamps":
        chosen = _stamps.stamps(dataset).select(SETS[where])
        every = _stamps.parts(chosen, seed)
        return (
            chosen,
            every["train"],
            {p: _stamps.classed(chosen, r)[0] for p, r in every.items()},
            _stamps.LABEL,
        )
    chosen = halves(data.open(_digits.DATA))
    order = np.random.default_rng([seed, 37]).permutation(len(chosen))
    bounds = [order[: DIGITS[0]], order[DIGITS[1] : DIGITS[2]], order[DIGITS[2] :]]
    parts = {p: np.sort(rows) for p, rows in zip(("train", "valid", "test"), bounds)}
    return chosen, np.sort(order[: DIGITS[1]]), parts, "class"


def measure(seed, dataset):
    found = {}
    for where, fields in SETS.items():
        chosen, unlabelled, parts, label = parts_of(where, dataset, seed)
        numbers, names = class_numbers(chosen.label(label))
        truth = {part: numbers[rows] for part, rows in parts.items()}
        found[f"{where}: most frequent class"] = float(
            np.bincount(truth["test"]).max() / len(truth["test"])
        )
        alone = untrained(chosen, partial(methods.build, "simclr"), ALONE, seed)
        encoder = fit(alone, chosen, unlabelled, ALONE, seed, *ALONE.rates).encoder
        every = {}
        for name in TRAINED:
            for rate in BUDGET.rates:
                torch.manual_seed(seed)
                method = made(name, len(names), label, copy.deepcopy(encoder).train())
                every[name, rate] = fit(method, chosen, parts["train"], BUDGET, seed, rate)

        def right(method, part):
            """modality that is missing, or None -> (n,) bool."""
            return {
                s: guesses(method, chosen, parts[part], s) == truth[part]  # noqa: B023
                for s in (None, *fields)  # noqa: B023
            }

        hidden = uniform(
            row_seeds([chosen.reader.keys[i] for i in parts["test"]], salt=seed)
        ).numpy()
        for arm, name in ARMS.items():
            own = {
                r: filled(copy.deepcopy(every[name, r]), arm, chosen, parts["train"])
                for r in BUDGET.rates
            }
            rate = max(
                own, key=lambda r: mean(float(v.mean()) for v in right(own[r], "valid").values())
            )  # noqa: B023
            found[f"{where}, learning rate: {arm}"], seen = rate, right(own[rate], "test")
            for share in RATES:
                each = {
                    s: float(np.where(hidden < share, seen[s], seen[None]).mean()) for s in fields
                }
                found |= {f"{where}, {share:.0%} without {s}: {arm}": v for s, v in each.items()}
                found[f"{where}, {share:.0%}: {arm}"] = mean(each.values())
    return found
