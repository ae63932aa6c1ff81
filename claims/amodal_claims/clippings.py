"""CLIPPINGS (row 48): crop and noisy text pooled, with labels, link records better than either
modality, than no labels, than edit distance. Arora et al., arXiv:2304.03464. Real names of towns,
GENERATED clippings of them, because no scanned set comes with its truth here: pictures in nine
typefaces with blur and specks, texts from a channel of OCR errors, both of the noise rate that is
asked for. Three clippings of each name at 15 % noise are learnt from and are its exemplars; new
ones at 5, 15 and 30 % are linked to the nearest. All arms have the same steps, batch and rate, and
start from no weights. Beside it, of names never seen, single-linkage clusters whose threshold other
such names chose (adjusted Rand index)."""

from functools import partial
from statistics import mean

import numpy as np

from amodal import methods
from amodal.evaluate import embed_records
from amodal.evaluate.linkage import adjusted_rand, best_threshold, nearest_exemplar, single_linkage
from amodal.methods.embedding_retrieval.clippings import pooled
from amodal.stats.string_similarity import edit_similarity, jaccard, ngrams
from amodal_claims import Comparison, _names
from amodal_claims._arms import Budget, trained

CLAIM = (
    "Top-1 linkage of noisy clippings of 300 names to exemplars (mean of three noise rates): pooled vectors of crop and text trained with "
    "labels beat those trained without, crops alone and texts alone with labels; those without labels beat edit distance; and the lead "
    "of the former over edit distance is larger at 30 % noise than at 5 %."
)
DATA = "globe"
SEEDS = 5
BUDGET = Budget(steps=200, batch=126, rates=(2e-3,))
NAMES, EXEMPLARS, QUERIES, UNSEEN, LEARNT, RATES = 300, 3, 2, 100, 0.15, (0.05, 0.15, 0.30)
ARMS = {
    "pooled": {"label": "label"},
    "crop": {"label": "label", "image_weight": 1.0},
    "text": {"label": "label", "image_weight": 0.0},
    "no labels": {},
}
METRIC = "top-1 accuracy, 300 names, mean of 3 noise rates"
COMPARISONS = (
    Comparison("with labels against without", METRIC, "top-1: pooled", "top-1: no labels"),
    Comparison("pooled against crop alone", METRIC, "top-1: pooled", "top-1: crop"),
    Comparison("pooled against text alone", METRIC, "top-1: pooled", "top-1: text"),
    Comparison(
        "without labels against edit distance", METRIC, "top-1: no labels", "top-1: edit distance"
    ),
    Comparison(
        "lead over edit distance, 30 % and 5 % noise",
        "top-1 accuracy",
        "lead at 30 %",
        "lead at 5 %",
    ),
)


def vectors(method, dataset):
    """(N, D), one pooled vector for each clipping."""
    return pooled(
        embed_records(method.encoder, dataset, range(len(dataset))).aligned, method.weights
    ).values


def clustered(method, chosen, tested):
    """Adjusted Rand index of unseen names. chosen, tested: (dataset, whose)."""
    z = vectors(method, chosen[0])
    candidates = np.linspace(0.5, 1.0, 51)
    threshold = best_threshold(lambda t: adjusted_rand(chosen[1], single_linkage(z, t)), candidates)
    return adjusted_rand(tested[1], single_linkage(vectors(method, tested[0]), threshold))


def measure(seed, dataset):
    rng, found = np.random.default_rng([seed, 1]), {}
    drawn = rng.permutation(_names.towns(dataset))[: NAMES + 2 * UNSEEN].tolist()
    names, others = drawn[:NAMES], (drawn[NAMES : NAMES + UNSEEN], drawn[NAMES + UNSEEN :])
    columns, whose = _names.clippings(names, EXEMPLARS, LEARNT, rng)
    exemplars, owner = _names.opened(columns, whose), np.array(whose)
    queries = {rate: _names.clippings(names, QUERIES, rate, rng) for rate in RATES}
    opened = {rate: _names.opened(*made) for rate, made in queries.items()}
    truth = {rate: np.array(of) for rate, (_, of) in queries.items()}
    unseen = [
        (_names.opened(*made), made[1])
        for made in (_names.clippings(o, 4, LEARNT, rng) for o in others)
    ]
    for arm, options in ARMS.items():
        make = partial(methods.build, "clippings", width=64, group=BUDGET.batch, **options)
        method = trained(exemplars, range(len(exemplars)), make, BUDGET, seed, BUDGET.rates[0])
        keys = vectors(method, exemplars)
        for rate in RATES:
            at = nearest_exemplar(vectors(method, opened[rate]), keys).numpy()
            found[f"{arm} at {rate:.0%}"] = float((owner[at] == truth[rate]).mean())
        found[f"ARI: {arm}"] = clustered(method, *unseen)
    texts = columns["ocr"]
    grams = [ngrams(t) for t in texts]
    scores = {
        "edit distance": partial(edit_similarity, keys=texts),
        "trigrams": partial(jaccard, keys=grams),
    }
    for arm, score in scores.items():
        for rate in RATES:
            at = [int(score(q).argmax()) for q in queries[rate][0]["ocr"]]
            found[f"{arm} at {rate:.0%}"] = float((owner[at] == truth[rate]).mean())
    for arm in (*ARMS, *scores):
        found[f"top-1: {arm}"] = mean(found[f"{arm} at {rate:.0%}"] for rate in RATES)
    for rate in (0.05, 0.30):
        found[f"lead at {100 * rate:.0f} %"] = (
            found[f"pooled at {rate:.0%}"] - found[f"edit distance at {rate:.0%}"]
        )
    return found
