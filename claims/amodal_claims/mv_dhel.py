"""MV-DHEL (row 89): all views in one term against the mean of pairwise NT-Xent, on handwritten
digits and on modalities of the Earth. Koromilas et al. 2025, arXiv:2507.06979. Real data; the same
steps, batch (of records), encoder and rate in every arm, so an arm with more views computes more a
step, as in the paper."""

from statistics import mean

import numpy as np
from PIL import Image as Picture

from amodal import data, methods
from amodal.diagnose.spectrum import effective_rank
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.modalities.image import Image
from amodal_claims import Comparison
from amodal_claims._arms import Budget, features, probe, trained

CLAIM = (
    "With 3 and with 5 augmented views MV-DHEL gives features of higher probe accuracy and of higher effective rank than the mean of "
    "NT-Xent over pairs of views at the same batch and steps; it gains from 2 to 5 views; and with three modalities instead of views it finds "
    "records by another modality better."
)
DATA = "digits"
SEEDS = 5
BUDGET = Budget(steps=80, batch=64, rates=(2e-3,))
FIELDS = ("colour", "relief", "climate")
ACCURACY, RANK = (
    "accuracy of a linear probe, held-out digits",
    "effective rank of centred features, held-out digits",
)
RECALL = "Recall@5, mean of six directions, held-out tiles"
COMPARISONS = (
    *(Comparison(f"{n} views, against pairwise", ACCURACY, f"probe, mv_dhel, {n}", f"probe, pairwise, {n}") for n in (3, 5)),
    *(Comparison(f"{n} views, against pairwise", RANK, f"rank, mv_dhel, {n}", f"rank, pairwise, {n}") for n in (3, 5)),
    Comparison("5 views, against 2", ACCURACY, "probe, mv_dhel, 5", "probe, mv_dhel, 2"),
    Comparison("three modalities, against pairwise", RECALL, "recall, mv_dhel", "recall, pairwise"),
)  # fmt: skip
ARMS = (("mv_dhel", 2), ("mv_dhel", 3), ("mv_dhel", 5), ("pairwise", 3), ("pairwise", 5))


def pictures(digits):
    """The digits as 16-pixel pictures of four patches, with their labels."""
    ink = [
        digits.value(i, "pix").reshape(16, 15) * (255 / 6) for i in range(len(digits))
    ]  # 0 to 6 in the source
    wide = [np.asarray(Picture.fromarray(x.astype(np.uint8)).resize((16, 16))) for x in ink]
    field = Image.infer(wide, channels=1, size=16, patch=8, flip=False)
    return data.open(
        {"digit": wide}, name="pictures of digits", fields={"digit": field}
    ), digits.label("digit")


def train(dataset, loss, views, seed):
    def make(encoder):
        return methods.build("mv_dhel", encoder, loss=loss, views=views)

    return trained(dataset, dataset.split("train"), make, BUDGET, seed, *BUDGET.rates)


def measure(seed, dataset):
    found = {}
    digits, label = pictures(dataset)
    parts = [digits.split(part) for part in ("train", "test")]
    for loss, views in ARMS:
        encoder = train(digits, loss, views, seed).encoder
        seen, held = (features(encoder, digits, rows)["digit"] for rows in parts)
        found[f"probe, {loss}, {views}"] = probe(seen, label[parts[0]], held, label[parts[1]])
        found[f"rank, {loss}, {views}"] = float(effective_rank(held.values - held.values.mean(0)))
    globe = data.open("globe").select(FIELDS)
    for loss in ("mv_dhel", "pairwise"):
        encoder = train(globe, loss, 1, seed).encoder
        rows = retrieval(
            None, embed_records(encoder, globe, globe.split("test")), recall_at=(5,)
        ).rows
        found[f"recall, {loss}"] = mean(row["value"] for row in rows if row["metric"] == "recall@5")
    return found
