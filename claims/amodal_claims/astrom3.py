"""AstroM3 (row 39): alignment of all modalities first makes a classifier of one modality better, most
where labels are few. Rizhko and Bloom, arXiv:2411.08842. Real spectra, photometry and astrometry of
cool stars and brown dwarfs in place of their variable stars; the classes are half-classes of the
spectral type (M0-M4, M5-M9, …). Both arms are fine-tuned with the same labels, steps, batch and
rates; one starts from the weights that astrom3 learnt on the training part, the other from none.
Spectra of a source are in one part of the split. Outliers: a tenth of the test objects exchange
their spectra, or get another class; ten draws."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from amodal import methods
from amodal.core import Column, Embeddings
from amodal.diagnose.disagreement import disagreement, unlike_class
from amodal.evaluate import embed_records
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained, untrained
from amodal_claims._tuned import tuned

CLAIM = (
    "Aligning spectrum, photometry and astrometry first raises the balanced accuracy of a fine-tuned classifier that sees photometry, or "
    "spectra, alone, over training from scratch, with 10 % of the labels; the gain is larger with 10 % than with all of them; and the "
    "disagreement of an object's modalities finds exchanged spectra with an AUC above .6."
)
DATA = "splat"
SEEDS = 5
BUDGET = Budget(steps=150, batch=128, rates=(2e-3,))
TUNING = Budget(steps=60, batch=64, rates=(1e-3, 4e-3))
WIDTH, HALF, CLASSES, MOVED, DRAWS = 64, 5, 6, 0.1, 10
FIELDS = ("photometry", "spectrum")
METRIC = "balanced accuracy, 6 half-classes, held out"
COMPARISONS = (
    *(
        Comparison(f"{s}, 10 % of labels", METRIC, f"{s}, 10 %: aligned", f"{s}, 10 %: scratch")
        for s in FIELDS
    ),
    *(
        Comparison(
            f"{s}, gain with 10 % and 100 %", METRIC, f"{s}, 10 %: gain", f"{s}, 100 %: gain"
        )
        for s in FIELDS
    ),
    Comparison("exchanged spectra against others", "AUC", "AUC: exchanged", 0.6),
)


def half_class(subtype):
    """Of subtypes from 0 (M0) to 29 (T9), as a tensor."""
    return (subtype / HALF).long().clamp(0, CLASSES - 1)


def auc(score: np.ndarray, moved: np.ndarray) -> float:
    above = score[moved][:, None] - score[~moved]
    return float((above > 0).mean() + (above == 0).mean() / 2)


def outliers(vectors: Embeddings, truth: np.ndarray, seed: int) -> dict[str, float]:
    """AUC of disagreement for exchanged spectra, and of `unlike_class` (of spectra) for wrong
    classes, means of DRAWS draws."""
    rng, found = np.random.default_rng([seed, 2]), {"AUC: exchanged": [], "AUC: mislabelled": []}
    rows, both = vectors.complete(FIELDS)
    n = len(rows)
    for _ in range(DRAWS):
        chosen = rng.choice(n, round(MOVED * n), replace=False)
        moved = np.isin(np.arange(n), chosen)
        spectra = both[1].clone()
        spectra[chosen] = both[1][np.roll(chosen, 1)]
        columns = {s: Column(v, torch.arange(n)) for s, v in zip(FIELDS, (both[0], spectra))}
        found["AUC: exchanged"].append(
            auc(disagreement(Embeddings(columns, n)).values.numpy(), moved)
        )
        wrong = truth[rows.numpy()].copy()
        wrong[chosen] = (wrong[chosen] + rng.integers(1, CLASSES, len(chosen))) % CLASSES
        found["AUC: mislabelled"].append(
            auc(unlike_class(both[1], torch.from_numpy(wrong)).numpy(), moved)
        )
    return {name: float(np.mean(values)) for name, values in found.items()}


def measure(seed, dataset):
    stars = dataset.with_fields(
        dataset.fields | {"spectrum": replace(dataset.fields["spectrum"], patch=16)}
    )
    make = partial(methods.build, "astrom3", width=WIDTH)
    aligned = trained(stars, stars.split("train"), make, BUDGET, seed, BUDGET.rates[0]).encoder
    fresh = untrained(stars, make, BUDGET, seed).encoder
    subtype, found = stars.label("subtype"), {}
    truth = half_class(torch.from_numpy(np.nan_to_num(subtype))).numpy()
    for field in FIELDS:
        parts = {p: stars.split(p) for p in ("train", "valid", "test")}
        parts = {
            p: rows[np.isfinite(subtype[rows]) & stars.present(field)[rows]]
            for p, rows in parts.items()
        }
        order = np.random.default_rng([seed, 1]).permutation(parts["train"])
        for share in (0.1, 1.0):
            some = parts | {"train": np.sort(order[: round(share * len(order))])}
            name = f"{field}, {share:.0%}".replace("%", " %")
            for arm, encoder in (("aligned", aligned), ("scratch", fresh)):
                fit = dict(label="subtype", code=half_class, budget=TUNING, seed=seed)
                found[f"{name}: {arm}"] = tuned(encoder, stars, field, some, truth, **fit)
            found[f"{name}: gain"] = found[f"{name}: aligned"] - found[f"{name}: scratch"]
    test = stars.split("test")
    test = test[np.isfinite(subtype[test])]
    return found | outliers(
        embed_records(aligned, stars, test, labels=False).aligned, truth[test], seed
    )
