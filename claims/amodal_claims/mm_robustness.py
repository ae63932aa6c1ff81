"""Robustness to modalities (row 120): labels come with some modalities, at test there are others. McKinzie
et al., ICML 2023, arXiv:2304.04385.

Emoji, picture and English text, with their group as target, split anew for each seed. A joint trunk is
trained without labels on the training records (masked tokens of both modalities, `mae`); then a linear
head learns on the frozen trunk; then both are fine-tuned. Labels are learnt from the picture alone,
from the text alone, or from both; each of these three networks is tested with the picture alone,
the text alone, and both: nine cells. All training records have both modalities, so that distillation
sees both whatever the labels are learnt from, as in the paper's framework, where modalities can be
there without labels that were made for them. Arms, all from the same probe with the same steps and
rate: `plain`, fine-tuning; `dropout`, the same, each record showing a random non-empty subset of
the modalities that are learnt from; `masd`, with self-distillation of weight 1; and `wise` and `both`,
plain and masd with the weights interpolate probe and fine-tuned network, by a share of .25, .5, .75 or
1 that is best on validation records with the modalities that labels were learnt from (of equal ones the
largest). A cell is an accuracy; the mean and the worst are over the nine cells. Before the claim
ran, plain fine-tuning with both modalities had been looked at on validation records of another seed.
"""

import copy
from dataclasses import replace

import numpy as np
import torch

from amodal import methods
from amodal.data import Loader
from amodal.data.loader import class_numbers
from amodal.masking.modality_dropout import random_subsets
from amodal.nn.adapters.wise import interpolate
from amodal.nn.fusion.modality_subsets import subset_features
from amodal.nn.heads.supervised import targets_of
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit, untrained
from amodal_claims.missing_aware_prompts import FIELDS, LABEL, prepared, split

CLAIM = (
    "Of networks that learn groups of emoji from the picture, the text or both, and predict them from the picture, the text or both, those "
    "tuned with self-distillation over modalities and weights averaged with the probe's have a higher mean and a higher worst accuracy than "
    "those plainly fine-tuned, and a higher mean than with random modalities left out; with both modalities in training and at test they lose at "
    "most .02."
)
DATA = "openmoji"
SEEDS = 5
ALONE = Budget(steps=150, batch=64, rates=(2e-3,))
PROBE = Budget(steps=30, batch=64, rates=(1e-2,))
BUDGET = Budget(steps=50, batch=64, rates=(1e-3,))
SETS = {"picture": FIELDS[:1], "text": FIELDS[1:], "both": FIELDS}
SHARES = (0.25, 0.5, 0.75, 1.0)
MEAN, WORST = "mean accuracy of nine cells", "worst accuracy of nine cells"
COMPARISONS = (
    Comparison("both remedies against plain fine-tuning", MEAN, "mean: both", "mean: plain"),
    Comparison("both remedies against plain fine-tuning", WORST, "worst: both", "worst: plain"),
    Comparison("both remedies against leaving modalities out", MEAN, "mean: both", "mean: dropout"),
    Comparison("self-distillation against plain", MEAN, "mean: masd", "mean: plain"),
    Comparison("averaged weights against plain", MEAN, "mean: wise", "mean: plain"),
    Comparison("all modalities in training and at test: both remedies against plain", "accuracy", "both>both: both", "both>both: plain", -0.02),
)  # fmt: skip


def only(fields):
    """What each batch shows of its records."""
    return lambda method, batch, step: hidden(
        batch, {s: c.rows >= 0 if s in fields else c.rows < 0 for s, c in batch.columns.items()}
    )


def some(fields):
    def choose(method, batch, step):
        subsets = random_subsets({s: batch[s].present(batch.size) for s in fields}, batch.seeds)
        return hidden(
            batch,
            {
                s: subsets[s][c.rows] if s in subsets else c.rows < 0
                for s, c in batch.columns.items()
            },
        )

    return choose


def hidden(batch, present):
    return replace(batch, columns={s: c.at(present[s]) for s, c in batch.columns.items()})


@torch.no_grad()
def accuracy(method, dataset, rows, fields, numbers):
    guesses = []
    for batch in Loader(dataset, rows, batch=256, shuffle=False):
        z = subset_features(method.encoder, batch)(
            {s: batch[s].present(batch.size) for s in fields}
        )
        guesses.append(method.head(z).values.argmax(1))
    return float((torch.cat(guesses).numpy() == numbers[rows]).mean())


def tuned(probe, dataset, rows, fields, seed, targets):
    """Arm -> the network after fine-tuning from the probe."""
    found = {}
    for arm in ("plain", "dropout", "masd"):
        if arm == "dropout" and len(fields) == 1:
            continue
        torch.manual_seed(seed)
        weight = {"learn": ",".join(fields), "weight": float(arm == "masd")}
        method = methods.build(
            "mm_robustness",
            copy.deepcopy(probe.encoder).train().requires_grad_(True),
            targets=targets,
            **weight,
        )
        method.head.load_state_dict(probe.head.state_dict())
        shown = {"plain": only(fields), "dropout": some(fields), "masd": None}[arm]
        found[arm] = fit(method, dataset, rows, BUDGET, seed, *BUDGET.rates, choose=shown)
    return found


def measure(seed, dataset):
    emoji = prepared(dataset)
    parts, numbers = split(emoji, seed), class_numbers(emoji.label(LABEL))[0]
    targets = targets_of(emoji, parts["train"], LABEL)
    alone = untrained(emoji, lambda e: methods.build("mae", e), ALONE, seed, trunk="joint")
    encoder = fit(alone, emoji, parts["train"], ALONE, seed, *ALONE.rates).encoder
    found, cells = {}, {}
    for learn, fields in SETS.items():
        torch.manual_seed(seed)
        method = methods.build(
            "finetune", copy.deepcopy(encoder).train(), targets=targets, tuning="head"
        )
        probe = fit(method, emoji, parts["train"], PROBE, seed, *PROBE.rates, choose=only(fields))
        arms = tuned(probe, emoji, parts["train"], fields, seed, targets)
        for arm, ended in (("wise", arms["plain"]), ("both", arms["masd"])):
            start = copy.deepcopy(ended)
            start.encoder.load_state_dict(probe.encoder.state_dict())
            start.head.load_state_dict(probe.head.state_dict())
            line = {a: interpolate(start, ended, a) for a in SHARES}
            share = max(
                SHARES, key=lambda a: (accuracy(line[a], emoji, parts["valid"], fields, numbers), a)
            )  # noqa: B023
            arms[arm], found[f"{learn}, share of the fine-tuned: {arm}"] = line[share], share
        arms["probe"] = probe
        arms.setdefault("dropout", arms["plain"])
        for arm, network in arms.items():
            for deployed, others in SETS.items():
                cells[arm, learn, deployed] = accuracy(
                    network, emoji, parts["test"], others, numbers
                )
    for arm in ("plain", "dropout", "masd", "wise", "both", "probe"):
        own = [v for (a, _, _), v in cells.items() if a == arm]
        found |= {f"mean: {arm}": float(np.mean(own)), f"worst: {arm}": min(own)}
    commonest = np.bincount(numbers[parts["test"]]).max() / len(parts["test"])
    return (
        found
        | {f"{learn}>{deployed}: {a}": v for (a, learn, deployed), v in cells.items()}
        | {"most frequent": float(commonest)}
    )
