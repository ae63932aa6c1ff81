"""MultiMat (row 46): what a structure encoder learns from the modalities around it, by fine-tuning and
by search. Moro, Loh, Dangovski et al., Newton 2025, arXiv:2312.00111.

Generated lattices, because no package holds crystals with densities of states and because
properties must be exact: periodic 8 x 8 lattices, their tight-binding density of states, charge
density (a quarter missing) and description. Nothing is augmented, for a crop of a lattice is
another lattice. Fine-tuning trains the whole structure encoder and a linear map to both properties;
from scratch it may take as many steps more as the others were pre-trained for.
"""

import copy
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from amodal import methods
from amodal.core import Column, Embeddings
from amodal.evaluate import embed_records
from amodal.methods.contract import Method
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit, trained, untrained

CLAIM = (
    "Pre-trained against density of states, charge density and text, the structure encoder has a lower error after fine-tuning with 50 "
    "labels than from scratch, and gains more with 50 labels than with 800; with four modalities its error is at most .02 above that with "
    "two; and the structure found by a held-out density of states has properties nearer to the query's than a random one or one of "
    "the same elements."
)
DATA = "lattices"
SEEDS = 5
BUDGET = Budget(steps=150, batch=64, rates=(2e-3,))
TUNING = Budget(steps=80, batch=32, rates=(1e-3, 4e-3))
PROPERTIES = ("gap", "energy")
FEW, MANY = 50, 800
ARMS = {
    "two modalities": ("anchored", ("structure", "dos")),
    "anchored": ("anchored", ("structure", "dos", "charge", "text")),
    "all_pairs": ("all_pairs", ("structure", "dos", "charge", "text")),
    "tensor": ("tensor", ("structure", "dos", "charge", "text")),
}
ERROR = "absolute error in deviations, mean of gap and energy, held out"
COMPARISONS = (
    Comparison("pre-trained against scratch, 50 labels", f"reduction of {ERROR}", f"scratch, {FEW}", f"anchored, {FEW}"),
    Comparison("gain with 50 labels against 800", f"reduction of {ERROR}", f"gain, {FEW}", f"gain, {MANY}"),
    Comparison("four modalities against two, 50 labels", f"reduction of {ERROR}", f"two modalities, {FEW}", f"anchored, {FEW}", margin=-0.02),
    Comparison("search by density of states, against random", f"reduction of {ERROR}", "search: random", "search: anchored"),
    Comparison("search, against the same elements", f"reduction of {ERROR}", "search: same elements", "search: anchored"),
)  # fmt: skip


class Properties(Method):
    """The structure alone, and a linear map to the standardised properties; absolute error."""

    labels = PROPERTIES

    def __init__(self, encoder, centre, spread):
        super().__init__()
        self.encoder, self.map = encoder, nn.Linear(encoder.width, len(PROPERTIES))
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)

    def features(self, batch):
        z = self.encoder.features(batch)["structure"]
        truth = {name: batch.labels[name] for name in PROPERTIES}
        return Embeddings({"guess": Column(self.map(z.values), z.rows)} | truth, batch.size)

    def losses(self, features):
        truth = torch.stack([features[name].values for name in PROPERTIES], 1)
        return {
            "error": (features["guess"].values - (truth - self.centre) / self.spread).abs().mean()
        }

    @torch.no_grad()
    def error(self, dataset, rows):
        z = embed_records(self.encoder, dataset, rows, labels=False).features["structure"].values
        return float(
            (self.map(z) - (properties(dataset, rows) - self.centre) / self.spread).abs().mean()
        )


def properties(dataset, rows):
    """(n, 2)."""
    return torch.from_numpy(
        np.stack([dataset.label(name)[rows] for name in PROPERTIES], 1).astype(np.float32)
    )


def build(loss, encoder):
    method = methods.build("multimat", encoder, loss=loss)
    method.views = ("plain",)
    return method


def tuned(encoder, structures, rows, steps, seed):
    """Held-out error after fine-tuning at the rate with the smaller validation error."""
    all_train = properties(structures, structures.split("train"))
    found = []
    for rate in TUNING.rates:
        torch.manual_seed(seed)
        start = Properties(copy.deepcopy(encoder), all_train.mean(0), all_train.std(0))
        method = fit(start, structures, rows, Budget(steps, TUNING.batch), seed, rate)
        found.append(
            [method.error(structures, structures.split(part)) for part in ("valid", "test")]
        )
    return min(found)[1]


def search(method, dataset, rng):
    """Mean difference of properties between held-out lattices and what is found for each among the
    other held-out ones."""
    rows = np.sort(np.concatenate([dataset.split("valid"), dataset.split("test")]))
    z = embed_records(method.encoder, dataset, rows, labels=False).aligned
    like = normalize(z["dos"].values, dim=1) @ normalize(z["structure"].values, dim=1).T
    elements = np.sort(
        np.stack([dataset.label(n)[rows].astype(str) for n in ("first", "second")]), 0
    )
    same = torch.from_numpy((elements[:, :, None] == elements[:, None]).all(0))
    own = torch.eye(len(rows), dtype=torch.bool)
    asked = (same & ~own).any(1)  # those for which there is another lattice of the same elements
    chance = torch.from_numpy(rng.random((len(rows), len(rows)), dtype=np.float32))
    ways = {"anchored": like, "random": chance, "same elements": chance + same}
    truth, spread = properties(dataset, rows), properties(dataset, dataset.split("train")).std(0)
    picks = {way: score.masked_fill(own, -2).argmax(1) for way, score in ways.items()}
    return {
        f"search: {way}": float(((truth - truth[p]) / spread).abs()[asked].mean())
        for way, p in picks.items()
    }


def measure(seed, dataset):
    rng, train = np.random.default_rng(seed), dataset.split("train")
    labelled = {n: np.sort(rng.permutation(train)[:n]) for n in (FEW, MANY)}
    structures, found = dataset.select(["structure"]), {}
    new = untrained(structures, partial(methods.build, "simclr"), BUDGET, seed).encoder
    for n, rows in labelled.items():
        found[f"scratch, {n}"] = tuned(new, structures, rows, TUNING.steps + BUDGET.steps, seed)
    for arm, (loss, fields) in ARMS.items():
        chosen = dataset.select(fields)
        method = trained(chosen, train, partial(build, loss), BUDGET, seed, *BUDGET.rates)
        for n, rows in labelled.items():
            found[f"{arm}, {n}"] = tuned(method.encoder, structures, rows, TUNING.steps, seed)
        if arm == "anchored":
            found |= search(method, chosen, rng)
    return found | {
        f"gain, {n}": found[f"scratch, {n}"] - found[f"anchored, {n}"] for n in labelled
    }
