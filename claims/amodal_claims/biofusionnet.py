"""BioFusionNet (row 47): fusion by cross-attention, weights of events, and risk sets by time, each
against what it is said to better. Mondal et al., 2024, arXiv:2402.10717.

Fusion: real data, 76 genes and four clinical findings of the women of GSE7390 whose tumour has
oestrogen receptors, in place of slides, genes and clinical variables. Each seed divides them anew
into three folds; every fold is predicted once from the two others, and a seed's number is the mean
concordance of its folds. Arms: the page on both modalities, on the genes, on the clinical findings; and
both modalities' vectors side by side into a perceptron, which is fine-tuning from a fresh encoder. All
learn from labels alone, with the same weighted loss, encoder, steps, batch and rate. The
autoencoder has no part in it: there are no slides.

Loss: 600 people of FLCHAIN, whose follow-up ends when one in twenty has died, so that events are
rare; 3,000 others, with their whole follow-up, are predicted. The page with events weighing 5, as in the
paper; 1, which is Cox's own loss; and 5 with the public code's risk sets, those of higher predicted
risk instead of those still there. For comparison, a ridge-penalised Cox regression on the columns
of both sets.
"""

from functools import partial
from statistics import mean

import numpy as np
import torch

from amodal import data, methods
from amodal.data import Loader, sets
from amodal.nn.heads.supervised import targets_of
from amodal.objectives.cox import cox
from amodal.stats.survival import concordance, survival
from amodal_claims import Comparison
from amodal_claims._arms import Budget, raw, trained

CLAIM = (
    "Genes and clinical findings fused by cross-attention foretell metastasis with a higher concordance than either alone and than both "
    "side by side; where events are rare a Cox loss in which they weigh 5 foretells better than the plain one, and with risk sets by time "
    "better than with those by predicted risk."
)
DATA = "gse7390"
SEEDS = 5
BUDGET = Budget(steps=50, batch=64, rates=(1e-3,))
FOLDS, TRAIN, TEST, RARE = 3, 600, 3000, 0.05
LABELS = "time,event"
SMALL = {"hidden": 128, "depth": 1}
ARMS = {
    "both": ["genes", "clinical"],
    "genes": ["genes"],
    "clinical": ["clinical"],
    "side by side": ["genes", "clinical"],
}
C = "concordance index, held out"
COMPARISONS = (
    Comparison("GSE7390: both modalities against genes", C, "gse7390: both", "gse7390: genes"),
    Comparison(
        "GSE7390: both modalities against clinical findings",
        C,
        "gse7390: both",
        "gse7390: clinical",
    ),
    Comparison(
        "GSE7390: cross-attention against side by side", C, "gse7390: both", "gse7390: side by side"
    ),
    Comparison(
        "FLCHAIN, rare events: weighted against plain", C, "flchain: weighted", "flchain: plain"
    ),
    Comparison(
        "FLCHAIN, rare events: by time against by risk", C, "flchain: weighted", "flchain: by risk"
    ),
)


def by_risk(risk, time, event, weight=5.0):
    """The public code's loss: the risk set of an event is everybody whose predicted risk is not
    lower."""
    order = risk.argsort(descending=True)
    r, came = risk[order], event[order]
    w = torch.where(came, weight, 1.0)
    log_sum = (r + w.log()).logcumsumexp(0)
    return ((log_sum - r) * w)[came].sum() / w[came].sum().clamp(min=1)


def page(dataset, rows, loss=None, weight=5.0):
    """Encoder -> the method. loss: in the place of its own."""
    targets = targets_of(dataset, rows, LABELS, "survival")

    def make(encoder):
        method = methods.build(
            "biofusionnet", encoder, targets=targets, event_weight=weight, **SMALL
        )
        if loss is not None:
            method.survival = loss
        return method

    return make


def side_by_side(dataset, rows):
    """Fine-tuning with the page's loss."""
    targets = targets_of(dataset, rows, LABELS, "survival")

    def weighted(risk, time, event):
        return cox(risk, time, event, torch.where(event, 5.0, 1.0))

    def make(encoder):
        method = methods.build("finetune", encoder, targets=targets, hidden=SMALL["hidden"])
        method.head.losses = partial(method.head.losses, survival=weighted)
        return method

    return make


@torch.no_grad()
def log_hazards(method, dataset, rows):
    """(n,) log hazards."""
    found = []
    for batch in Loader(dataset, rows, batch=512, shuffle=False):
        z = (
            method.head(method.encoder.features(batch))
            if not hasattr(method, "outputs_and_elbo")
            else method.outputs_and_elbo(batch)[0]
        )
        found.append(z.values.squeeze(1))
    return torch.cat(found).double().numpy()


def columns_of(dataset, rows):
    """(n, columns) of all modalities, a missing cell at the mean."""
    values = raw(dataset, rows, list(dataset.fields)).values
    known = values.isfinite()
    return torch.where(known, values, (torch.where(known, values, 0).sum(0) / known.sum(0)))


def judged(dataset, patients, train, test, make, seed):
    method = trained(dataset, train, make, BUDGET, seed, *BUDGET.rates)
    return concordance(log_hazards(method, dataset, test), *(y[test] for y in patients))


def outcomes(dataset):
    return dataset.label("time"), dataset.label("event") == "1"


def fusion(dataset, seed):
    clinical = dataset.fields["clinical"]
    receptor = raw(dataset, range(len(dataset)), ["clinical"]).values[
        :, clinical.columns.index("er")
    ]
    women = np.flatnonzero(receptor.numpy() == clinical.categories["er"].index("positive"))
    patients, found = outcomes(dataset), {}
    for test in map(
        np.sort, np.array_split(np.random.default_rng([seed, 47]).permutation(women), FOLDS)
    ):
        train = np.setdiff1d(women, test)
        for arm, fields in ARMS.items():
            some = dataset.select(fields)
            make = (side_by_side if arm == "side by side" else page)(some, train)
            found.setdefault(arm, []).append(judged(some, patients, train, test, make, seed))
        parts = (
            (columns_of(dataset, rows), *(y[rows] for y in patients)) for rows in (train, test)
        )
        found.setdefault("ridge", []).append(survival(*parts))
    return {f"gse7390: {arm}": mean(each) for arm, each in found.items()}


def until(dataset, day, name, *, required=False):
    """In place of `Dataset.label`: as they are when the follow-up ends at a day."""
    values, time = dataset.label(name, required=required), dataset.label("time")
    if name == "event":
        return np.where(time > day, "0", values).astype(object)
    return np.minimum(values, day) if name == "time" else values


def rare(dataset, seed):
    order = np.random.default_rng([seed, 48]).permutation(len(dataset))
    train, test = np.sort(order[:TRAIN]), np.sort(order[TRAIN : TRAIN + TEST])
    patients = outcomes(dataset)
    time, event = (y[train] for y in patients)
    ended = dataset.select(list(dataset.fields))
    ended.label = partial(until, dataset, float(np.sort(time[event])[int(RARE * TRAIN) - 1]))
    arms = {"weighted": {}, "plain": {"weight": 1.0}, "by risk": {"loss": by_risk}}
    found = {
        f"flchain: {arm}": judged(ended, patients, train, test, page(ended, train, **how), seed)
        for arm, how in arms.items()
    }
    seen = outcomes(ended)
    parts = (
        (columns_of(dataset, rows), *(y[rows] for y in ys))
        for rows, ys in ((train, seen), (test, patients))
    )
    return found | {
        "flchain: ridge": survival(*parts),
        "flchain: events": float(seen[1][train].mean()),
    }


def measure(seed, dataset):
    sets.ensure("flchain")
    return fusion(dataset, seed) | rare(data.open("flchain"), seed)
