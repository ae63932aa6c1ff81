"""BIOSCAN-5M (row 28): masked barcodes, clusters without labels, and pictures named after barcodes
of species never trained on. Gharaee, Lowe, Gong et al., NeurIPS 2024, arXiv:2406.12723.

Generated specimens (`phylogeny`), because no package holds pictures with barcodes: species evolve
on one tree, a quarter of them is in no training record. Barcodes have 402 sites, words of four.
Masked prediction is the library's `mae` with half of the words hidden, so the encoder sees what is
left and a decoder fills in (as the authors' later BarcodeMAE, arXiv:2502.18405), where the paper
has BERT. Contrast is `clip` of picture, barcode and names, as far as known. Clusters are Ward's,
without UMAP. All arms take the same steps at one rate.
"""

from functools import partial
from statistics import mean

import numpy as np
import torch

from amodal import methods
from amodal.core import Column, Embeddings
from amodal.evaluate import Embedded, embed_records
from amodal.evaluate.protocols.cluster import cluster
from amodal.evaluate.protocols.knn import knn
from amodal.evaluate.protocols.open_set import open_set
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained, untrained

CLAIM = (
    "With two labels a genus, the nearest labelled barcode names the genus of unseen species better on features of masked prediction than "
    "on untrained ones and on counts of four letters; contrast of picture, barcode and names finds the barcode of an unseen species by "
    "picture above chance, and a picture's species by pictures better than SimCLR, rare species counting like common ones; barcodes "
    "cluster by taxonomy better than pictures."
)
DATA = "phylogeny"
SEEDS = 5
BUDGET = Budget(steps=150, batch=64, rates=(2e-3,))
RANKS = ("order", "family", "genus", "species")
FEW = 2
NEAREST = "accuracy, genus of unseen species by the nearest barcode, 2 labels each"
MACRO = "macro top-1"
COMPARISONS = (
    Comparison("masked barcodes against untrained", NEAREST, "1-NN, masked", "1-NN, untrained"),
    Comparison("masked barcodes against counts of four letters", NEAREST, "1-NN, masked", "1-NN, counts"),
    Comparison("picture to barcode, against chance", f"{MACRO}, unseen species", "to barcode, unseen", "to barcode, chance"),
    Comparison("picture to picture, three modalities against SimCLR", f"{MACRO}, harmonic mean", "to picture, three", "to picture, simclr"),
    Comparison("clusters: barcodes against pictures", "AMI, mean of four ranks, unseen species", "AMI, barcodes", "AMI, pictures"),
)  # fmt: skip
ARMS = {
    "masked": ("mae", {"ratio": 0.5}, ("dna",)),
    "simclr": ("simclr", {}, ("image",)),
    "two": ("clip", {}, ("image", "dna")),
    "three": ("clip", {}, ("image", "dna", "names")),
}


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


def measure(seed, dataset):
    role = dataset.label("role")
    train, test = dataset.split("train"), dataset.split("test")
    labelled, unseen = (
        np.flatnonzero(np.isin(role, roles)) for roles in (("train",), ("key", "query"))
    )
    found = {}

    def by_nearest(vectors):
        pair = [as_embedded(dataset, rows, vectors(rows)) for rows in (labelled, unseen)]
        return knn(*pair, label="genus", k=1, few=FEW, seed=seed, sources=("dna",)).value(
            "dna", "accuracy"
        )

    def clusters(encoder, chosen, field):
        embedded = embed_records(encoder, chosen, unseen)
        return mean(cluster(None, embedded, label=rank).value(field, "AMI") for rank in RANKS)

    def features(encoder, rows):
        return embed_records(encoder, dataset.select(["dna"]), rows, labels=False).features["dna"]

    found["1-NN, counts"] = by_nearest(partial(counts, dataset))
    new = untrained(dataset.select(["dna"]), partial(methods.build, "mae"), BUDGET, seed)
    found["1-NN, untrained"] = by_nearest(partial(features, new.encoder))
    for arm, (name, options, fields) in ARMS.items():
        chosen = dataset.select(fields)
        encoder = trained(
            chosen, train, partial(methods.build, name, **options), BUDGET, seed, *BUDGET.rates
        ).encoder
        if arm == "masked":
            found["1-NN, masked"] = by_nearest(partial(features, encoder))
            found["AMI, barcodes"] = clusters(encoder, chosen, "dna")
            continue
        parts = [embed_records(encoder, chosen, rows) for rows in (train, test)]
        named = open_set(*parts, label="species", role="role")
        found[f"to picture, {arm}"] = named.value(
            "image", f"{MACRO}, harmonic mean", target="image"
        )
        if arm == "simclr":
            found["AMI, pictures"] = clusters(encoder, chosen, "image")
            continue
        rows = [r for r in named.rows if (r["source"], r["target"]) == ("image", "dna")]
        row = next(r for r in rows if r["metric"] == f"{MACRO}, unseen")
        which = {"three": "to barcode, unseen", "two": "to barcode, unseen, two modalities"}[arm]
        found |= {which: row["value"], "to barcode, chance": row["chance"]}
        found[f"to barcode, harmonic mean, {arm}"] = named.value(
            "image", f"{MACRO}, harmonic mean", target="dna"
        )
    return found
