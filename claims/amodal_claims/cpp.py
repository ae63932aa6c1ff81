"""CPP (row 185): rate reduction on frozen features finds clusters nearer to the classes than
k-means and spectral clustering of these features, and coding length finds about how many there are.
Chu et al., ICLR 2024, arXiv:2306.05272.

Real pictures: handwritten digits and 2,000 of Fashion-MNIST's training part, ten classes each. What
is frozen is a nano encoder after 100 steps of SimCLR on the same pictures without labels, in place
of the paper's CLIP. All arms divide the same 800 of the records that were learnt from and are predicted
that it is ten; spectral clustering joins ten nearest neighbours by cosine. No label chooses
anything: one learning rate, the paper's constants, and the mean of both sets is judged."""

from functools import partial
from statistics import mean

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import data, methods
from amodal.diagnose.similarity_graph import neighbour_graph
from amodal.evaluate.self_labels import self_labels
from amodal.modalities import make
from amodal.stats.clustering import adjusted_mutual_information, matched_accuracy, spectral
from amodal.stats.kmeans import kmeans
from amodal_claims import Comparison, _digits
from amodal_claims._arms import Budget, features, fit, trained

CLAIM = (
    "On the same frozen features of digits and of Fashion-MNIST, the clusters that CPP learns have a higher accuracy and a higher "
    "adjusted mutual information with the classes than those of k-means and of spectral clustering, and the number of clusters with "
    "the least coding length is 9, 10 or 11 for ten classes."
)
DATA = _digits.DATA
SEEDS = 5
FROZEN = Budget(steps=100, batch=128, rates=(2e-3,))
BUDGET = Budget(steps=100, batch=256, rates=(2e-3,))
CLASSES, DIVIDED, NUMBERS = 10, 800, range(2, 21)
CPP = {"width": 64, "hidden": 512}
ACCURACY, AMI = (
    "accuracy, clusters matched to classes, mean of two sets",
    "adjusted mutual information, mean of two sets",
)
COMPARISONS = (
    Comparison("CPP against k-means", ACCURACY, "accuracy: cpp", "accuracy: k-means"),
    Comparison("CPP against spectral", ACCURACY, "accuracy: cpp", "accuracy: spectral"),
    Comparison("CPP against k-means", AMI, "ami: cpp", "ami: k-means"),
    Comparison("CPP against spectral", AMI, "ami: cpp", "ami: spectral"),
    Comparison(
        "number of clusters by coding length",
        "share of sets with 9 to 11",
        "number within one",
        0.5,
    ),
)


def clothes(seed):
    """2,000 records of Fashion-MNIST to train on, and their classes."""
    every = data.open("fashion_mnist")
    rows = np.sort(np.random.default_rng(seed).permutation(every.split("train"))[:2000])
    field = make("image", size=28, channels=1, patch=7, flip=True)
    return every.with_fields({"image": field}), rows, every.label("class")


def sets(dataset, seed):
    """name -> (dataset of one field, records to learn from, labels of all records)."""
    pictures, labels = _digits.pictures(dataset)
    return {"digits": (pictures, pictures.split("train"), labels), "fashion": clothes(seed)}


def frozen(dataset, rows, seed):
    return trained(
        dataset, rows, partial(methods.build, "simclr"), FROZEN, seed, FROZEN.rates[0]
    ).encoder


def divisions(encoder, dataset, rows, some, seed):
    """arm -> (N,) clusters of the records `some`; and the numbers that coding length finds, by CPP
    and of the features as they are."""
    field = next(iter(dataset.fields))
    x_ND = features(encoder, dataset, some)[field].values
    unit_ND = normalize(x_ND, dim=1)
    found = {
        "k-means": kmeans(unit_ND, CLASSES, seed=seed, tries=10)[0].numpy(),
        "spectral": spectral(neighbour_graph(unit_ND, 10), [CLASSES], seed=seed)[CLASSES],
    }
    torch.manual_seed(seed)
    method = fit(methods.build("cpp", encoder, **CPP), dataset, rows, BUDGET, seed, BUDGET.rates[0])
    with torch.no_grad():
        z_ND, c_ND = method.encoder.heads[field](x_ND).chunk(2, 1)
    labelled = self_labels(z_ND, NUMBERS, member_NE=c_ND, seed=seed)
    numbers = {"cpp": labelled.number, "features": self_labels(unit_ND, NUMBERS, seed=seed).number}
    return found | {"cpp": labelled.clusters[CLASSES]}, numbers


def measure(seed, dataset):
    each, numbers = {}, {}
    for name, (pictures, rows, labels) in sets(dataset, seed).items():
        some = np.sort(np.random.default_rng([seed, 1]).permutation(rows)[:DIVIDED])
        divided, numbers[name] = divisions(frozen(pictures, rows, seed), pictures, rows, some, seed)
        for arm, found in divided.items():
            each[f"accuracy: {arm}, {name}"] = matched_accuracy(labels[some], found)
            each[f"ami: {arm}, {name}"] = adjusted_mutual_information(labels[some], found)
    arms = {key.rpartition(", ")[0] for key in each}
    means = {
        arm: mean(value for key, value in each.items() if key.startswith(f"{arm},"))
        for arm in sorted(arms)
    }
    within = mean(float(abs(found["cpp"] - CLASSES) <= 1) for found in numbers.values())
    every = {
        f"number: {arm}, {name}": float(k)
        for name, found in numbers.items()
        for arm, k in found.items()
    }
    return means | {"number within one": within} | each | every
