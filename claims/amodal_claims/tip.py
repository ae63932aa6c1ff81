"""TIP (row 22): a picture and a table, of which more and more cells are missing when it counts. Du
et al., ECCV 2024, arXiv:2407.07582. Real handwritten digits: the picture is the upper half of a
digit, the table has 24 cells about its lower half, 16 zones of ink in four levels (categories) and
the ink of 8 rows (numbers). Training sees complete records; of each held-out record a share of the
cells, drawn by the seed, is missing, the same for all arms, and what is missing at 25 % is missing
at 50 %. TIP's arms and the contrast alone learn from 1,200 records without labels, then a linear
probe from 300 with labels, of the vectors of picture, table and (but for the contrast alone) both
fused. Late fusion by concatenation learns from the 300 labels end to end and gets the mean (of
categories the mode) of the training records for a missing cell; the same is also done for the
contrast alone. Every arm takes the same steps of the same batch at the learning rate that the
library uses for this size, the same views, and an interaction module of two blocks. With every cell
missing, the probe gets the mean training vector for that of the table."""

from functools import partial

import numpy as np
import torch

from amodal import data, methods
from amodal.core.embeddings import Embeddings
from amodal.data import Loader
from amodal.evaluate.protocols.linear import fit
from amodal.modalities.image import Image
from amodal.modalities.table import Table
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained
from amodal_claims._digits import DATA as DIGITS
from amodal_claims._digits import ink

CLAIM = (
    "With 25, 50 and 75 % of the cells missing, TIP loses less accuracy than supervised late fusion with imputed means and than contrast "
    "of both alone; without reconstruction it loses more where much is missing, without matching it is worse on complete records."
)
DATA = DIGITS
SEEDS = 5
BUDGET = Budget(steps=120, batch=64, rates=(2e-3,))
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
LABELLED = 300
TIP = {
    "tip": {},
    "no reconstruction": {"fill": 0.0},
    "no matching": {"match": 0.0},
    "contrast": {"fill": 0.0, "match": 0.0},
}
CHANGE = "change of accuracy against complete records, held out"
COMPARISONS = (
    *(
        Comparison(f"{p:.0%} of cells missing: what is lost, against {words}", CHANGE, f"tip, lost at {p:.0%}", f"{arm}, lost at {p:.0%}")
        for p in RATES[1:-1]
        for arm, words in (("supervised", "late fusion with imputed means"), ("contrast", "contrast alone"))
    ),
    Comparison("what reconstruction gives: 75 % missing against none", "accuracy, TIP less TIP without", "gain at 75%", "gain at 0%"),
    Comparison("complete records: matching", "accuracy, held out", "tip, 0%", "no matching, 0%"),
)  # fmt: skip


def halves(digits):
    """(pictures, tables): the upper half of each digit, and what is known about the ink of the
    lower."""
    whole = ink(digits)
    upper = [np.repeat(p[:8], 2, axis=0) for p in whole]
    lower = np.stack([p[8:] for p in whole]).astype(float) / 255
    zones = lower.reshape(-1, 4, 2, 4, 4).mean((2, 4)).reshape(len(lower), 16)
    levels = np.minimum((zones * 4).astype(int), 3)
    tables = [
        {f"zone {k}": str(v) for k, v in enumerate(z)}
        | {f"row {k}": float(v) for k, v in enumerate(r)}
        for z, r in zip(levels, lower.mean(2))
    ]
    return upper, tables


def usual(tables):
    """column -> its mean, of a category its commonest value."""
    found = {}
    for name in tables[0]:
        cells = [t[name] for t in tables]
        found[name] = (
            max(sorted(set(cells)), key=cells.count)
            if isinstance(cells[0], str)
            else float(np.mean(cells))
        )
    return found


def with_holes(tables, rate, seed, filled=None):
    """The tables with a share of the cells of each missing, or as in `filled`; None where no cell
    is left."""
    luck, names = (
        np.random.default_rng([seed, 22]).random((len(tables), len(tables[0]))),
        list(tables[0]),
    )
    gone = luck.argsort(1).argsort(1) < round(rate * len(names))
    other = filled or dict.fromkeys(names)
    made = [
        {n: other[n] if g else t[n] for n, g in zip(names, row)} for t, row in zip(tables, gone)
    ]
    return [t if any(cell is not None for cell in t.values()) else None for t in made]


def dataset_of(pictures, tables, labels, fields):
    return data.open({"picture": pictures, "facts": tables, "digit": labels}).with_fields(fields)


@torch.no_grad()
def vectors(method, dataset, rows):
    """What the probe reads, NaN where a record lacks it."""
    parts = []
    for batch in Loader(dataset, rows, batch=256, shuffle=False):
        seen: Embeddings = method.encoder.features(batch)
        columns = [seen[s] for s in ("picture", "facts")]
        columns += [method.fused(batch)] if method.match or method.fill else []
        empty = columns[0].values.new_full((batch.size, columns[0].values.shape[1]), torch.nan)
        parts.append(torch.cat([empty.index_copy(0, c.rows, c.values) for c in columns], 1))
    return torch.cat(parts)


def probed(method, whole, labelled, labels, tests, test):
    """Accuracy on each dataset of `tests`."""
    x = vectors(method, whole, labelled)
    predict = fit(x, torch.from_numpy(labels[labelled]), 10)
    found = []
    for dataset in tests:
        v = vectors(method, dataset, test)
        guess = predict(torch.where(v.isnan(), x.mean(0), v)).numpy()
        found.append(float((guess == labels[test]).mean()))
    return found


@torch.no_grad()
def accuracy(method, dataset, rows, labels):
    guess = [
        method.predict(b).values.argmax(1) for b in Loader(dataset, rows, batch=256, shuffle=False)
    ]
    return float((torch.cat(guess).numpy() == labels[rows]).mean())


def arms(seed, dataset, names):
    pictures, tables = halves(dataset)
    labels = dataset.label("digit").astype(int)
    order = np.random.default_rng(seed).permutation(len(labels))
    train, test = np.sort(order[:1200]), np.sort(order[1200:])
    few = np.sort(order[:LABELLED])
    fields = {
        "picture": Image.infer(
            [pictures[i] for i in train], channels=1, size=16, patch=4, flip=False
        ),
        "facts": Table.infer([tables[i] for i in train]),
    }
    texts, mean = [f"{d}" for d in labels], usual([tables[i] for i in train])
    whole = dataset_of(pictures, tables, texts, fields)
    holes = [dataset_of(pictures, with_holes(tables, p, seed), texts, fields) for p in RATES]
    filled = [dataset_of(pictures, with_holes(tables, p, seed, mean), texts, fields) for p in RATES]

    found = {}
    for name in names:
        if name == "supervised":
            method = trained(whole, few, late_fusion, BUDGET, seed, *BUDGET.rates)
            found[name] = [accuracy(method, d, test, labels) for d in filled]
            continue
        make = partial(methods.build, "tip", view="weak", depth=2, corruption=0.0, **TIP[name])
        method = trained(whole, train, make, BUDGET, seed, *BUDGET.rates)
        found[name] = probed(method, whole, few, labels, holes, test)
        if name == "contrast":
            found["contrast, imputed"] = probed(method, whole, few, labels, filled, test)
    return found


def late_fusion(encoder):
    method = methods.build("m3col", encoder, label="digit", classes=10, weight=0.0)
    method.views = {"picture": ("weak",), "facts": ("plain",)}
    return method


def measure(seed, dataset):
    curves = arms(seed, dataset, (*TIP, "supervised"))
    found = {
        f"{arm}, {p:.0%}": value for arm, curve in curves.items() for p, value in zip(RATES, curve)
    }
    for arm, curve in curves.items():
        found |= {f"{arm}, lost at {p:.0%}": value - curve[0] for p, value in zip(RATES, curve)}
    for p, with_it, without in zip(RATES, curves["tip"], curves["no reconstruction"]):
        found[f"gain at {p:.0%}"] = with_it - without
    return found
