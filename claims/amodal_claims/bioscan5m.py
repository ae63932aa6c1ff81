"""BIOSCAN-5M (row 28): masked barcodes against counts of letters. Gharaee, Lowe, Gong et al.,
NeurIPS 2024, arXiv:2406.12723.

Generated specimens (`phylogeny`), because no package holds pictures with barcodes: species evolve
on one tree, a quarter of them is in no training record. Barcodes have 402 sites, words of four.
Masked prediction is the library's `mae` with half of the words hidden, so the encoder sees what is
left and a decoder fills in (as the authors' later BarcodeMAE, arXiv:2502.18405), where the paper
has BERT. The nearest of two labelled barcodes a genus names the genus of an unseen species. The
control is the yardstick of a barcode itself, how often each word of four letters occurs in it. It
has to do better than chance and than the encoder before its first step.

An earlier form of this claim had, beside this, clusters of barcodes and of pictures (AMI .490 and
.356) and pictures named after barcodes (.023 for a chance of .011), and no floors; masked barcodes
had .492, counts .996, and all comparisons together decided.
"""

from functools import partial

import numpy as np
import torch

from amodal import methods
from amodal.core import Column, Embeddings
from amodal.evaluate import Embedded, embed_records
from amodal.evaluate.protocols.knn import knn
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained, untrained

CLAIM = (
    "With two labels a genus, the nearest labelled barcode names the genus of unseen species better on features of masked prediction than on "
    "counts of four letters."
)
DATA = "phylogeny"
STEPS = (150,)
BATCH, RATE = 64, 2e-3
FEW = 2
NEAREST = "accuracy, genus of unseen species by the nearest barcode, 2 labels each"
PRIMARY = Comparison(
    "masked barcodes against counts of four letters",
    NEAREST,
    "1-NN, masked",
    "1-NN, counts",
    # Of practice: one insect in ten that is named rightly.
    interest=0.1,
)
SECONDARY = (Comparison("masked barcodes against untrained", NEAREST, "1-NN, masked", "untrained"),)
FLOORS = ("chance", "untrained")


def counts(dataset, rows):
    """How often each word of four known letters occurs, at any place, in each barcode."""
    found = np.zeros((len(rows), 256), dtype=np.float32)
    for count, i in zip(found, rows):
        windows = np.lib.stride_tricks.sliding_window_view(dataset.value(int(i), "dna"), 4)
        np.add.at(count, windows[(windows < 4).all(1)] @ [64, 16, 4, 1], 1)
    return Column(torch.from_numpy(found), torch.arange(len(rows)))


def as_embedded(dataset, rows, column):
    z = Embeddings({"dna": column}, len(rows))
    return Embedded([dataset.keys[i] for i in rows], z, z, {"genus": dataset.label("genus")[rows]})


def by_nearest(vectors, seed, dataset):
    """Accuracy of the nearest labelled barcode. vectors: rows -> Column."""
    role = dataset.label("role")
    parts = [np.flatnonzero(np.isin(role, roles)) for roles in (("train",), ("key", "query"))]
    pair = [as_embedded(dataset, rows, vectors(rows)) for rows in parts]
    found = knn(*pair, label="genus", k=1, few=FEW, seed=seed, sources=("dna",))
    return found.value("dna", "accuracy")


def of_encoder(encoder, seed, dataset):
    def features(rows):
        return embed_records(encoder, dataset.select(["dna"]), rows, labels=False).features["dna"]

    return by_nearest(features, seed, dataset)


def made(encoder):
    return methods.build("mae", encoder, ratio=0.5)


def floors(seed, dataset):
    before = untrained(dataset.select(["dna"]), made, Budget(1, BATCH), seed).eval()
    return {
        "chance": 1 / len(set(dataset.label("genus"))),
        "untrained": of_encoder(before.encoder, seed, dataset),
    }


def control(seed, dataset, steps):
    return {"1-NN, counts": by_nearest(partial(counts, dataset), seed, dataset)}


def measure(seed, dataset, steps):
    barcodes, budget = dataset.select(["dna"]), Budget(steps, BATCH, (RATE,))
    encoder = trained(barcodes, dataset.split("train"), made, budget, seed, RATE).encoder
    return {"1-NN, masked": of_encoder(encoder, seed, dataset)} | control(seed, dataset, steps)
