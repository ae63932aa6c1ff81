"""CLaMR (row 162): late interaction over all modalities of a record, against a retriever for each modality
and the mean of these. Wan et al., 2025, arXiv:2506.06144. GENERATED records, put together from
scenes: a picture, what is said and what is written come from three scenes that have nothing to do
with each other, and a query names the things of one of them, in another order. No video, no sound.
The other arm is three retrievers of the same page, each with one modality alone and trained on the
queries about that modality; each has as many steps as CLaMR, at the same rate and batch. Single
retrievers see all test queries, as does the mean of their scores; the best single one is chosen on
validation records. Apart from that, CLaMR is trained with scores of all tokens at once (LI_context)
in place of those of the modality that fits best. The entry in the ledger is of an earlier page, whose
loss was InfoNCE of all tokens at once and one over all modalities of all records, by a label."""

from functools import partial

import numpy as np
import torch

from amodal import methods
from amodal.data import Loader
from amodal.data import open as open_data
from amodal.methods.embedding_retrieval.clamr import interaction_scores, token_vectors
from amodal.modalities import make
from amodal_claims import Comparison, _scenes
from amodal_claims._arms import Budget, trained
from amodal_claims.sets import scenes

CLAIM = (
    "On queries that each need one unknown modality, late interaction over all modalities with the modality-aware loss has a higher nDCG@10 than "
    "the best retriever of a single modality and than the mean of three such; the mean is below the best single one."
)
DATA = _scenes.DATA
SEEDS = 5
BUDGET = Budget(steps=100, batch=64, rates=(6e-3,))
RECORDS, VALID, TEST = 1800, 200, 400
FIELDS = ("image", "said", "written")
METRIC = "nDCG@10, 400 queries and records"
COMPARISONS = (
    Comparison("CLaMR against the best single modality", METRIC, "clamr", "best single"),
    Comparison("CLaMR against the mean of single modalities", METRIC, "clamr", "mean of singles"),
    Comparison(
        "the best single modality against the mean", METRIC, "best single", "mean of singles"
    ),
    Comparison(
        "with the modality-aware loss against without", METRIC, "clamr", "clamr, records alone"
    ),
)


def mixed(dataset, seed):
    """Records of three scenes each, and which of them their query is about."""
    rng = np.random.default_rng([seed, 162])
    order = np.stack([rng.permutation(len(dataset))[:RECORDS] for _ in FIELDS], 1)
    about, things = rng.integers(len(FIELDS), size=RECORDS), scenes.objects(dataset)
    asked = [things[int(order[i, k])] for i, k in enumerate(about)]
    query = [" ".join(" ".join(each[j]) for j in rng.permutation(len(each))) for each in asked]
    text = scenes.words(dataset).fields["text"]
    columns = {
        "key": [f"{i:04d}" for i in range(RECORDS)],
        "query": query,
        "image": [dataset.raw(int(i), "image") for i in order[:, 0]],
        "said": [dataset.raw(int(i), "text") for i in order[:, 1]],
        "written": [dataset.raw(int(i), "text") for i in order[:, 2]],
        "about": [FIELDS[k] for k in about],
    }
    picture = make(
        "image", size=scenes.SIDE, channels=3, patch=scenes.SIDE // scenes.CELLS, flip=False
    )
    fields = {"query": text, "image": picture, "said": text, "written": text}
    return open_data(columns, name="mixed", fields=fields), about


def build(encoder, **options):
    method = methods.build("clamr", encoder, text_field="query", width=64, **options)
    method.views = ("plain",)
    return method


def measure(seed, dataset):
    records, about = mixed(dataset, seed)
    train, valid, test = np.split(np.arange(RECORDS), (RECORDS - VALID - TEST, RECORDS - TEST))
    joint = {"trunk": "joint"}
    arms = {"clamr": {}, "clamr, records alone": {"score": "tokens"}}
    values, rate = {}, BUDGET.rates[0]
    for arm, options in arms.items():
        method = trained(records, train, partial(build, **options), BUDGET, seed, rate, **joint)
        values[arm] = ndcg(fits(method, records, test)[0])
    single, checked = {}, {}
    for k, field in enumerate(FIELDS):
        own = records.select(["query", field])
        method = trained(own, train[about[train] == k], build, BUDGET, seed, rate, **joint)
        single[field], checked[field] = (
            fits(method, own, test)[0],
            ndcg(fits(method, own, valid)[0]),
        )
        values[f"{field} alone, its own queries"] = ndcg(single[field], about[test] == k)
    values |= {f"{field} alone": ndcg(score) for field, score in single.items()}
    values["best single"] = values[f"{max(checked, key=checked.get)} alone"]
    values["mean of singles"] = ndcg(torch.stack(list(single.values())).mean(0))
    return values


@torch.no_grad()
def fits(method, dataset, rows):
    """(N, N) how well query i fits record j, and (N, N, F) each of its modalities."""
    (whole,) = Loader(dataset, rows, batch=len(rows), shuffle=False)
    return interaction_scores(
        token_vectors(method.encoder, whole, method.query_field).columns,
        len(whole.keys),
        method.query_field,
        method.record_fields,
    )[:2]


def ndcg(score, selected=None, k=10):
    """Mean over queries (those `selected`) of 1 / log2(1 + rank) of the one right record, 0 beyond
    `k`. Ties count against it."""
    rank = (score >= score.diagonal()[:, None]).sum(1).double()
    gain = torch.where(rank <= k, 1 / (1 + rank).log2(), 0.0)
    return float(gain.mean() if selected is None else gain[torch.from_numpy(selected)].mean())
