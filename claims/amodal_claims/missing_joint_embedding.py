"""Missing modality prediction (row 37): what a record lacks is predicted as an embedding, and predicted
from. Kim and Kim, ECCV 2024, arXiv:2407.12616.

Emoji as frozen models see them (EfficientNet-lite0's vectors of pictures, MiniLM's of names), eleven
groups, 20 labelled emoji of each, drawn by the seed; 1,000 to test on. The two trunks are trained apart,
each to predict the groups from its own modality, and every arm goes on from those same weights:
biases tuned, the same linear head of both vectors, complete labelled records to train on, the same
steps and rate. Arms: `vicreg`, as in the paper; `mse`, the same without variance and covariance;
`zero`, which sees complete records only and later gets zeros where a modality is missing; `dropout`,
zeros, but also while training, as often as the paper's modalities are hidden. Judged are records that
lack one modality or the other, against `dropout`, which was the strongest baseline in an earlier
claim (stamps and halves of digits, trunks of 60 steps of SimCLR). Simple features are of the one
modality that is left. Left out of that claim are shares of lacking records between none and all,
which lie between the two, and the mean in the place of zeros."""

import copy
from functools import partial
from statistics import mean

import numpy as np
import torch

from amodal import data, methods
from amodal.data import Loader, sets
from amodal.data.loader import class_numbers
from amodal.nn.heads.supervised import targets_of
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit, untrained
from amodal_claims._floors import simple_probe
from amodal_claims.m3col import emoji

CLAIM = (
    "Encoders trained apart, tuned by their biases and fused late: where test records lack a modality, predicting its embedding (read-only "
    "prompts, VICReg) predicts classes better than modality dropout, zeros and plain squared error do; on complete records it is as good as "
    "training on complete records alone (within .02)."
)
DATA = "frozen_pairs"
ORIGINALS, LABEL = "openmoji", "category"
FIELDS = {"image": "image", "words": "annotation"}  # and what they are of the emoji themselves
STEPS = (100, 200, 400)
ALONE, BATCH, RATE = 150, 64, 4e-3
FEW, TEST, FEWEST = 20, 1000, 50
ARMS = {
    "vicreg": {},
    "mse": {"variance": 0.0, "covariance": 0.0},
    "dropout": {"weight": 0.0},
    "zero": {"weight": 0.0, "drop": 0.0},
}
LACKING = "accuracy, one modality missing, mean over which"
PRIMARY = Comparison(
    "one missing: against modality dropout",
    LACKING,
    "lacking: vicreg",
    "lacking: dropout",
    # Of practice: five records of a hundred.
    interest=0.05,
)
SECONDARY = (
    Comparison("one missing: against zeros", LACKING, "lacking: vicreg", "lacking: zero"),
    Comparison("one missing: against squared error", LACKING, "lacking: vicreg", "lacking: mse"),
    Comparison(
        "complete: against complete training, at most .02 less",
        "accuracy, complete records",
        "complete: vicreg",
        "complete: zero",
        margin=-0.02,
    ),
)
FLOORS = ("chance", "untrained", "simple features")


def parts(two, seed):
    """Emoji to train on, of groups of 50 or more, and to test on."""
    groups = two.label(LABEL).astype(str)
    names, counts = np.unique(groups, return_counts=True)
    order = np.random.default_rng([seed, 37]).permutation(len(two))
    order = order[np.isin(groups[order], names[counts >= FEWEST])]
    train = np.concatenate([order[groups[order] == c][:FEW] for c in np.unique(groups[order])])
    return np.sort(train), np.sort(order[~np.isin(order, train)][:TEST])


def made(arm, classes, encoder):
    method = methods.build(
        "missing_joint_embedding", encoder, label=LABEL, classes=classes, **ARMS[arm]
    )
    if not ARMS[arm].get("weight", 1.0):
        vector = torch.zeros(method.fusion.width)
        method.fusion.lacking = lambda field, z, predicted, present: vector.expand(z.size, -1)
    return method


def apart(two, train, seed):
    """An encoder each of whose trunks predicts the groups by itself."""
    whole = untrained(two, partial(methods.build, "simclr"), Budget(1, BATCH), seed).encoder
    for field in FIELDS:
        alone = two.select([field])
        how = {"label": LABEL, "targets": targets_of(alone, train, LABEL), "view": "plain"}
        budget = Budget(ALONE, BATCH, (RATE,))
        method = untrained(alone, partial(methods.build, "finetune", **how), budget, seed)
        fit(method, alone, train, budget, seed, RATE)
        for part in ("tokenizers", "trunks"):
            state = getattr(method.encoder, part)[field].state_dict()
            getattr(whole, part)[field].load_state_dict(state)
    return whole


@torch.no_grad()
def accuracies(method, two, rows):
    """Of complete records, and with one modality alone, which is the mean of both."""
    numbers, _ = class_numbers(two.label(LABEL))

    def right(fields):
        batches = Loader(two, rows, batch=256, shuffle=False)
        guess = torch.cat([method.predict(b.only(*fields)).values.argmax(1) for b in batches])
        return float((guess.numpy() == numbers[rows]).mean())

    each = {field: right([field]) for field in FIELDS}
    return {"complete": right(FIELDS), "lacking": mean(each.values())} | {
        f"{field} alone": value for field, value in each.items()
    }


def originals():
    """The emoji themselves, in the set's order."""
    sets.ensure(ORIGINALS)
    home = data.open(ORIGINALS)
    both = np.flatnonzero(home.present("image") & home.present("annotation"))
    return home.select(list(FIELDS.values())).subset(both)


def floors(seed, dataset):
    two, simple = emoji(dataset), originals()
    train, test = parts(two, seed)
    groups = two.label(LABEL).astype(str)
    _, counts = np.unique(groups[test], return_counts=True)
    encoder = untrained(two, partial(methods.build, "simclr"), Budget(1, BATCH), seed).encoder
    fresh = made("dropout", len(class_numbers(two.label(LABEL))[1]), encoder).eval()
    probes = [
        simple_probe(simple.select([field]), train, groups[train], test, groups[test])
        for field in FIELDS.values()
    ]
    return {
        "chance": counts.max() / counts.sum(),  # of calling all by the largest group
        "untrained": accuracies(fresh, two, test)["lacking"],
        "simple features": mean(probes),
    }


def arms(seed, dataset, steps, wanted):
    two, found = emoji(dataset), {}
    train, test = parts(two, seed)
    classes = len(class_numbers(two.label(LABEL))[1])
    encoder, budget = apart(two, train, seed), Budget(steps, BATCH, (RATE,))
    for arm in wanted:
        torch.manual_seed(seed)
        method = made(arm, classes, copy.deepcopy(encoder).train())
        fit(method, two, train, budget, seed, RATE)
        found |= {f"{what}: {arm}": v for what, v in accuracies(method, two, test).items()}
    return found


def control(seed, dataset, steps):
    return arms(seed, dataset, steps, ["dropout"])


def measure(seed, dataset, steps):
    return arms(seed, dataset, steps, list(ARMS))
