"""CLIP on three modalities: a record is found by one modality among the records that another modality
describes. Radford et al. 2021, arXiv:2103.00020, with InfoNCE between every two modalities. No row of
its own: a claim about the library."""

from statistics import mean

from amodal import methods
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import retrieval
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best, untrained

CLAIM = (
    "After a few hundred steps on three modalities of the Earth, each modality finds held-out records by each other one far better than chance "
    "and than the untrained encoder: Recall@10 over the six directions is higher by more than .10 on the mean, and by more than .03 "
    "than chance in the worst of them."
)
DATA = "globe"
SEEDS = 5
BUDGET = Budget(steps=200, batch=256)
FIELDS = ("colour", "relief", "climate")
METRIC = "Recall@10, held-out tiles that have both modalities"
COMPARISONS = (
    Comparison("mean of six directions, against chance", METRIC, "clip", "chance", margin=0.10),
    Comparison(
        "mean of six directions, against the untrained encoder",
        METRIC,
        "clip",
        "untrained",
        margin=0.10,
    ),
    Comparison(
        "worst of six directions, lead over its chance", METRIC, "least lead", 0.0, margin=0.03
    ),
)


def measure(seed, dataset):
    globe = dataset.select(FIELDS)

    def recalls(method, part):
        """Six rows, one a direction: value and chance."""
        found = retrieval(
            None, embed_records(method.encoder, globe, globe.split(part)), recall_at=(10,)
        ).rows
        return [row for row in found if row["metric"] == "recall@10"]

    def score(method):
        return mean(row["value"] for row in recalls(method, "valid"))

    def make(encoder):
        return methods.build("clip", encoder)

    rows = recalls(best(globe, globe.split("train"), make, BUDGET, seed, score), "test")
    before = recalls(untrained(globe, make, BUDGET, seed), "test")
    return {
        "clip": mean(row["value"] for row in rows),
        "untrained": mean(row["value"] for row in before),
        "chance": mean(row["chance"] for row in rows),
        "least lead": min(row["value"] - row["chance"] for row in rows),
    }
