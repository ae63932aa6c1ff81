"""Robustness to modalities (row 120): labels come with some modalities, at test there are others. McKinzie
et al., ICML 2023, arXiv:2304.04385.

Emoji as frozen models see them (EfficientNet-lite0's vectors of pictures, MiniLM's of names), eleven
groups, 20 labelled emoji of each, drawn by the seed; 300 to choose by, 1,000 to test on. A joint trunk
is trained without labels on all others (masked tokens of both modalities, `mae`); then a linear
head learns on the frozen trunk; then both are fine-tuned. Labels are learnt from the picture alone,
from the text alone, or from both; each of these three networks is tested with the picture alone,
the text alone, and both: nine cells. All training records have both modalities, so that distillation
sees both whatever the labels are learnt from, as in the paper's framework, where modalities can be
there without labels that were made for them. Arms, all from the same probe with the same steps and
rate: `plain`, fine-tuning; `masd`, with self-distillation of weight 1; and `wise` and `both`,
plain and masd with the weights interpolated between probe and fine-tuned network, by a share of .25,
.5, .75 or 1 that is best on validation records with the modalities that labels were learnt from (of
equal ones the largest). A cell is an accuracy; the mean and the worst are over the nine cells.

The control is plain fine-tuning. What it has to do better than chance, than untrained and than simple
features of the emoji themselves are the three cells with the modalities that labels came with: that it
fails in the others is what the remedies are for. Over all nine cells simple features had more than
the control on a seed of the pilot (.389 for .336; one of two modalities that is left is probed as if
labels had come with it, and where the other one is left the largest group is called), so the arms
are compared with that, too.
An earlier form of this claim began from scratch, had no floors and six comparisons that decided
together: mean .310 for both remedies, .293 for plain, .304 for plain with random modalities left
out, which is left out here for time, worst .219 and .176.
"""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from amodal import methods
from amodal.data import Loader
from amodal.data.loader import class_numbers
from amodal.nn.adapters.wise import interpolate
from amodal.nn.fusion.modality_subsets import subset_features
from amodal.nn.heads.supervised import targets_of
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit, untrained
from amodal_claims._floors import simple_probe
from amodal_claims.m3col import emoji
from amodal_claims.missing_joint_embedding import originals

CLAIM = (
    "Of networks that learn groups of emoji from the picture, the text or both, and predict them from the picture, the text or both, those "
    "tuned with self-distillation over modalities and weights averaged with the probe's have a higher mean accuracy than those plainly "
    "fine-tuned."
)
DATA = "frozen_pairs"
LABEL = "category"
FIELDS = {"image": "image", "words": "annotation"}  # and what they are of the emoji themselves
SETS = {"picture": ("image",), "text": ("words",), "both": ("image", "words")}
STEPS = (100, 200, 400)
ALONE = Budget(steps=100, batch=64, rates=(2e-3,))
PROBE = Budget(steps=60, batch=64, rates=(1e-2,))
BATCH, RATE = 64, 1e-3
FEW, VALID, TEST, FEWEST = 20, 300, 1000, 50
SHARES = (0.25, 0.5, 0.75, 1.0)
MEAN, WORST = "mean accuracy of nine cells", "worst accuracy of nine cells"
PRIMARY = Comparison(
    "both remedies against plain fine-tuning",
    MEAN,
    "mean: both",
    "mean: plain",
    # Of practice: three records of a hundred. The paper's gains are of some points.
    interest=0.03,
)
CONTROL = "as learnt: plain"
SECONDARY = (
    Comparison("both remedies against plain fine-tuning", WORST, "worst: both", "worst: plain"),
    Comparison("both remedies against simple features", MEAN, "mean: both", "mean: simple"),
    Comparison("self-distillation against plain", MEAN, "mean: masd", "mean: plain"),
    Comparison("averaged weights against plain", MEAN, "mean: wise", "mean: plain"),
    Comparison(
        "all modalities in training and at test: both remedies, at most .02 less",
        "accuracy",
        "both>both: both",
        "both>both: plain",
        margin=-0.02,
    ),
)
FLOORS = ("chance", "untrained", "simple features")


def split(two, seed):
    """Emoji of groups of 50 or more: with labels, without, to choose by, to test on."""
    groups = two.label(LABEL).astype(str)
    names, counts = np.unique(groups, return_counts=True)
    order = np.random.default_rng([seed, 120]).permutation(len(two))
    order = order[np.isin(groups[order], names[counts >= FEWEST])]
    train = np.concatenate([order[groups[order] == c][:FEW] for c in np.unique(groups[order])])
    rest = np.split(order[~np.isin(order, train)], [VALID, VALID + TEST])
    return dict(zip(("train", "valid", "test", "unlabelled"), map(np.sort, (train, *rest))))


def only(fields):
    """What each batch shows of its records."""
    return lambda method, batch, step: hidden(
        batch, {s: c.rows >= 0 if s in fields else c.rows < 0 for s, c in batch.columns.items()}
    )


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


def pretrained(two, parts, seed):
    """A joint trunk that has learnt from all emoji but those to choose by and to test on."""
    rows = np.sort(np.concatenate([parts["train"], parts["unlabelled"]]))
    method = untrained(two, partial(methods.build, "mae"), ALONE, seed, trunk="joint")
    return fit(method, two, rows, ALONE, seed, *ALONE.rates).encoder


def probe_of(encoder, two, parts, seed, fields, targets):
    """A linear head on the frozen trunk."""
    torch.manual_seed(seed)
    start = copy.deepcopy(encoder).train()
    method = methods.build("finetune", start, targets=targets, tuning="head")
    return fit(method, two, parts["train"], PROBE, seed, *PROBE.rates, choose=only(fields))


def tuned(arm, probe, two, parts, seed, fields, targets, steps):
    """The network after fine-tuning from the probe."""
    torch.manual_seed(seed)
    method = methods.build(
        "mm_robustness",
        copy.deepcopy(probe.encoder).train().requires_grad_(True),
        targets=targets,
        learn=",".join(fields),
        weight=float(arm == "masd"),
    )
    method.head.load_state_dict(probe.head.state_dict())
    shown = only(fields) if arm == "plain" else None
    budget = Budget(steps, BATCH, (RATE,))
    return fit(method, two, parts["train"], budget, seed, RATE, choose=shown)


def averaged(probe, ended, score):
    """The best of the networks between the probe and the fine-tuned one, and its share of the latter."""
    start = copy.deepcopy(ended)
    start.encoder.load_state_dict(probe.encoder.state_dict())
    start.head.load_state_dict(probe.head.state_dict())
    line = {a: interpolate(start, ended, a) for a in SHARES}
    share = max(SHARES, key=lambda a: (score(line[a]), a))
    return line[share], share


def cells(networks, two, rows, numbers):
    """Accuracies of nine cells, their mean and the worst. networks: what was learnt from -> method."""
    return {
        f"{learn}>{deployed}": accuracy(network, two, rows, others, numbers)
        for learn, network in networks.items()
        for deployed, others in SETS.items()
    }


def summed(arm, nine):
    of_cells = {f"{cell}: {arm}": value for cell, value in nine.items()}
    return of_cells | {
        f"mean: {arm}": float(np.mean([*nine.values()])),
        f"worst: {arm}": min(nine.values()),
        f"as learnt: {arm}": float(np.mean([nine[f"{learn}>{learn}"] for learn in SETS])),
    }


def arms(seed, dataset, steps, wanted):
    two, found, networks = emoji(dataset), {}, {}
    parts, numbers = split(two, seed), class_numbers(two.label(LABEL))[0]
    targets, encoder = targets_of(two, parts["train"], LABEL), pretrained(two, parts, seed)
    for learn, fields in SETS.items():

        def score(method, fields=fields):
            return accuracy(method, two, parts["valid"], fields, numbers)

        probe = probe_of(encoder, two, parts, seed, fields, targets)
        each = {}
        for arm in wanted:
            each[arm] = tuned(arm, probe, two, parts, seed, fields, targets, steps)
        for arm, ended in (("wise", "plain"), ("both", "masd")):
            if ended in wanted and len(wanted) > 1:
                each[arm], share = averaged(probe, each[ended], score)
                found[f"{learn}, share of the fine-tuned: {arm}"] = share
        for arm, network in each.items():
            networks.setdefault(arm, {})[learn] = network
    for arm, three in networks.items():
        found |= summed(arm, cells(three, two, parts["test"], numbers))
    return found


def floors(seed, dataset):
    two = emoji(dataset)
    parts, numbers = split(two, seed), class_numbers(two.label(LABEL))[0]
    targets, groups = targets_of(two, parts["train"], LABEL), two.label(LABEL).astype(str)
    encoder = untrained(two, partial(methods.build, "mae"), ALONE, seed, trunk="joint").encoder
    fresh = methods.build("finetune", encoder, targets=targets, tuning="head").eval()
    nine = cells(dict.fromkeys(SETS, fresh), two, parts["test"], numbers)
    _, counts = np.unique(groups[parts["test"]], return_counts=True)
    chance, home = float(counts.max() / counts.sum()), originals()
    labelled = [x for p in ("train", "test") for x in (parts[p], groups[parts[p]])]
    picture, text, both = (
        simple_probe(home.select([FIELDS[f] for f in fields]), *labelled)
        for fields in SETS.values()
    )
    return {
        "chance": chance,  # of calling all by the largest group
        "untrained": summed("", nine)["as learnt: "],
        "simple features": (picture + text + both) / 3,
        "mean: simple": (3 * picture + 3 * text + both + 2 * chance) / 9,
    }


def control(seed, dataset, steps):
    return arms(seed, dataset, steps, ["plain"])


def measure(seed, dataset, steps):
    return arms(seed, dataset, steps, ["plain", "masd"])
