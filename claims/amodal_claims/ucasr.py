"""UCASR (row 74): music that is not paired prepares towers for finding sheet music by sound, above
all where sound and print are real. Carvalho, Washuttl & Widmer, ACM MMSys 2023, arXiv:2309.12134.

Notes are real, prints and sounds are made of them (`score_snippets`), because no package holds
recordings with scans: pairs are clean, unpaired snippets of other pieces are worn prints or noisy
sounds of other instruments; tests are snippets of still other pieces in either condition. The arm
from scratch takes, on pairs, as many steps as the others take in both stages.
"""

from functools import partial
from statistics import mean

import numpy as np

from amodal import methods
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.evaluate.protocols.track_identification import track_identification
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit, trained

CLAIM = (
    "With clean pairs of 154 pieces, towers that have learnt from unpaired real music find score by sound and sound by score with a higher "
    "mean reciprocal rank than towers from scratch, on clean and on real snippets of other pieces, and gain more, as a share, on real ones."
)
DATA = "score_snippets"
SEEDS = 5
BUDGET = Budget(steps=150, batch=64, rates=(2e-3,))
CONDITIONS = ("clean", "real")
ALONE = ("sound", "score")  # roles of what is learnt from without pairs
MRR = "MRR, mean of both directions, held-out pieces"
COMPARISONS = (
    *(Comparison(f"{c} snippets: pre-trained against scratch", MRR, f"{c}, pre-trained", f"{c}, scratch") for c in CONDITIONS),
    Comparison("gain on real against clean snippets", f"logarithm of the ratio of {MRR}", "gain, real", "gain, clean"),
)  # fmt: skip


def scores(method, dataset, rows, piece):
    """MRR of snippets, and of pieces by the votes of their snippets."""
    embedded = embed_records(method.encoder, dataset, rows)
    snippets = [r["value"] for r in retrieval(None, embedded).rows if r["metric"] == "MRR"]
    pieces = [
        r["value"]
        for r in track_identification(None, embedded, whole=piece).rows
        if r["metric"].startswith("MRR")
    ]
    return mean(snippets), mean(pieces)


def tuned(start, dataset, pairs, steps, seed):
    """The second stage, from the encoder that a first one made, if there was one."""
    make = partial(methods.build, "ucasr", pretrain=0.0)
    budget = Budget(steps, BUDGET.batch)
    if start is None:
        return trained(dataset, pairs, make, budget, seed, *BUDGET.rates)
    return fit(make(start), dataset, pairs, budget, seed, *BUDGET.rates)


def measure(seed, dataset):
    role, condition = dataset.label("role"), dataset.label("condition")
    pairs, alone = np.flatnonzero(role == "pairs"), np.flatnonzero(np.isin(role, ALONE))
    tests = {c: np.flatnonzero((role == "test") & (condition == c)) for c in CONDITIONS}
    first = trained(
        dataset, alone, partial(methods.build, "ucasr", pretrain=1.0), BUDGET, seed, *BUDGET.rates
    )
    start = first.encoder.requires_grad_(True)
    arms = {"scratch": tuned(None, dataset, pairs, 2 * BUDGET.steps, seed)}
    arms["pre-trained"] = tuned(start, dataset, pairs, BUDGET.steps, seed)
    found = {}
    for arm, method in arms.items():
        for c, rows in tests.items():
            found[f"{c}, {arm}"], found[f"{c}, pieces, {arm}"] = scores(
                method, dataset, rows, "piece"
            )
    return found | {
        f"gain, {c}": float(np.log(found[f"{c}, pre-trained"] / found[f"{c}, scratch"]))
        for c in CONDITIONS
    }
