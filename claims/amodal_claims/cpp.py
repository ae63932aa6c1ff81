"""CPP (row 185): rate reduction on frozen features finds clusters nearer to the classes than
k-means and spectral clustering of these features, and coding length finds about how many there are.
Chu et al., ICLR 2024, arXiv:2306.05272.

Emoji as frozen models see them, in place of photographs as CLIP does: EfficientNet-lite0's vectors of
pictures and MiniLM's of names, centred, each divided by itself.
Classes are Unicode's nine groups. CPP learns from all of their emoji without labels. All arms divide
85 of each group, three drawings a seed whose scores are averaged, and are given the number nine;
spectral clustering joins ten nearest neighbours by cosine. No label chooses anything: one learning
rate, the paper's constants, and the mean of pictures and names is judged. The number of clusters is
looked for in the first drawing. k-means has no length of training, so there is one of CPP's.
Simple features (tiny pixels; tf-idf) are divided by k-means too. A first pilot, on the first 16
principal directions of digits and of Fashion-MNIST, ended as no power: with one of its two seeds
k-means was no better than k-means of simple features (.669 and .681). No other arm was measured."""

from dataclasses import replace
from statistics import mean

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import data, methods
from amodal.data import sets
from amodal.diagnose.similarity_graph import neighbour_graph
from amodal.evaluate.self_labels import self_labels
from amodal.nn.encoder import Encoder
from amodal.stats.clustering import adjusted_mutual_information, matched_accuracy, spectral
from amodal.stats.kmeans import kmeans
from amodal.train.packaged import sentence_encoder
from amodal_claims import Comparison
from amodal_claims._arms import Budget, features, fit
from amodal_claims._floors import simple_pair

CLAIM = (
    "On the same frozen features of pictures and of names of emoji, the clusters that CPP learns have a higher accuracy and a higher "
    "adjusted mutual information with the classes than those of k-means and of spectral clustering, and the number of clusters with "
    "the least coding length is 8, 9 or 10 for nine classes."
)
DATA = "frozen_pairs"
ORIGINALS, LABEL = "openmoji", "category"
FIELDS = {"pictures": "image", "names": "annotation"}  # and what they are of the emoji themselves
STEPS = (200,)
BATCH, RATE, SIZE = 256, 2e-3, "small"  # 384 wide, which holds 128 and 384 dimensions
CLASSES, OF_EACH, DRAWINGS, NUMBERS = 9, 85, 3, range(2, 21)
CATCH_ALL = ("component", "extras-openmoji", "extras-unicode")
SEEN: dict = {}
CPP = {"width": 64, "hidden": 512}
ACCURACY, AMI = (
    "accuracy, clusters matched to classes, mean of pictures and names",
    "adjusted mutual information, mean of pictures and names",
)
# Half of what the abstract has on ImageNet, from .57 to .66.
PRIMARY = Comparison(
    "CPP against k-means", ACCURACY, "accuracy: cpp", "accuracy: k-means", interest=0.045
)
SECONDARY = (
    Comparison("CPP against spectral", ACCURACY, "accuracy: cpp", "accuracy: spectral"),
    Comparison("CPP against k-means", AMI, "ami: cpp", "ami: k-means"),
    Comparison("CPP against spectral", AMI, "ami: cpp", "ami: spectral"),
    Comparison(
        "number of clusters by coding length",
        "share of sets with 8 to 10",
        "number within one",
        0.5,
    ),
)
# k-means of vectors is trained by nothing here, so that there is no untrained form of it.
FLOORS = ("chance", "simple features")


def emoji(dataset):
    """The vectors of the emoji of nine groups, the emoji themselves, and their groups."""
    if dataset.fingerprint not in SEEN:
        sets.ensure(ORIGINALS)
        home = data.open(ORIGINALS)
        both = np.flatnonzero(home.present("image") & home.present("annotation"))  # the set's order
        rows = np.flatnonzero(dataset.label("source") == ORIGINALS)
        counted = ~np.isin(dataset.label(LABEL)[rows].astype(str), CATCH_ALL)
        rows, both = rows[counted], both[counted]
        vectors = {
            "pictures": [dataset.value(int(i), "image") for i in rows],
            "names": sentence_encoder()([dataset.raw(int(i), "name") for i in rows])[:, None],
        }
        vectors["names"] = list(
            vectors["names"] - vectors["names"].mean(0)
        )  # pictures' are centred
        two = data.open(vectors, name="emoji as vectors")
        two = two.with_fields({f: replace(m, mean=(), std=()) for f, m in two.fields.items()})
        originals = home.select(list(FIELDS.values())).subset(both)
        SEEN[dataset.fingerprint] = two, originals, dataset.label(LABEL)[rows].astype(str)
    return SEEN[dataset.fingerprint]


def drawings(groups, seed):
    """Several times so many emoji of each group."""
    for k in range(DRAWINGS):
        order = np.random.default_rng([seed, 1 + k]).permutation(len(groups))
        yield np.sort(
            np.concatenate([order[groups[order] == c][:OF_EACH] for c in np.unique(groups)])
        )


def frozen(two, field):
    """An encoder whose features are the vectors that it is given, and zeros."""
    one = Encoder({field: two.fields[field]}, size=SIZE, positions="none")
    one.trunks[field].blocks = one.trunks[field].blocks[:0]
    project = one.tokenizers[field].project
    with torch.no_grad():  # the second half of the inputs says which values exist
        project.weight.copy_(torch.eye(*project.weight.shape))
        project.weight[:, project.in_features // 2 :] = 0
        project.bias.zero_()
        one.field_token[field].zero_()
    return one.eval()


def clustered(x_ND, seed):
    """(N,) by k-means of directions."""
    return kmeans(normalize(x_ND, dim=1), CLASSES, seed=seed, tries=10)[0].numpy()


def embedded(encoder, dataset, rows):
    return features(encoder, dataset, rows)[next(iter(dataset.fields))].values


def learnt(encoder, dataset, seed, steps):
    """CPP's head on the frozen encoder: (N, D) -> vectors (N, E) and memberships (N, E)."""
    torch.manual_seed(seed)
    budget, rows = Budget(steps, BATCH, (RATE,), SIZE), range(len(dataset))
    method = fit(methods.build("cpp", encoder, **CPP), dataset, rows, budget, seed, RATE)
    head = method.encoder.heads[next(iter(dataset.fields))].requires_grad_(False)
    return lambda x_ND: head(x_ND).chunk(2, 1)


def means(scores):
    """ "metric: arm, set, number" -> value, to means over sets and drawings, "metric: arm"."""
    arms = sorted({", ".join(key.split(", ")[:-2]) for key in scores})
    return {a: mean(v for key, v in scores.items() if key.startswith(f"{a}, ")) for a in arms}


def floors(seed, dataset):
    _, originals, groups = emoji(dataset)
    each, rng = {}, np.random.default_rng([seed, 185])
    for name, original in FIELDS.items():
        for k, some in enumerate(drawings(groups, seed)):
            simple = simple_pair(originals.select([original]), some, some)[1].features[original]
            divided = {
                "simple features": clustered(simple.values.float(), seed),
                "chance": rng.integers(CLASSES, size=len(some)),
            }
            for arm, found in divided.items():
                each[f"{arm}, {name}, {k}"] = matched_accuracy(groups[some], found)
    return means(each)


def control(seed, dataset, steps):
    """k-means, which does not depend on the steps."""
    two, _, groups = emoji(dataset)
    each = {}
    for name in FIELDS:
        alone, encoder = two.select([name]), frozen(two, name)
        for k, some in enumerate(drawings(groups, seed)):
            found = clustered(embedded(encoder, alone, some), seed)
            each[f"accuracy: k-means, {name}, {k}"] = matched_accuracy(groups[some], found)
    return means(each)


def divisions(x_ND, head, seed):
    """arm -> (N,) clusters of emoji with the features x_ND."""
    z_ND, c_ND = head(x_ND)
    unit_ND = normalize(x_ND, dim=1)
    return {
        "k-means": clustered(x_ND, seed),
        "spectral": spectral(neighbour_graph(unit_ND, 10), [CLASSES], seed=seed)[CLASSES],
        "cpp": self_labels(z_ND, [CLASSES], member_NE=c_ND, seed=seed).clusters[CLASSES],
    }


def measure(seed, dataset, steps):
    two, _, groups = emoji(dataset)
    each, counts = {}, {}
    for name in FIELDS:
        alone, encoder = two.select([name]), frozen(two, name)
        vectors = [embedded(encoder, alone, some) for some in drawings(groups, seed)]
        head = learnt(encoder, alone, seed, steps)
        for k, (x_ND, some) in enumerate(zip(vectors, drawings(groups, seed))):
            for arm, found in divisions(x_ND, head, seed).items():
                each[f"accuracy: {arm}, {name}, {k}"] = matched_accuracy(groups[some], found)
                each[f"ami: {arm}, {name}, {k}"] = adjusted_mutual_information(groups[some], found)
        z_ND, c_ND = head(vectors[0])
        numbers = {
            "cpp": self_labels(z_ND, NUMBERS, member_NE=c_ND, seed=seed),
            "features": self_labels(normalize(vectors[0], dim=1), NUMBERS, seed=seed),
        }
        counts |= {f"number: {arm}, {name}": float(n.number) for arm, n in numbers.items()}
    near = [abs(counts[f"number: cpp, {name}"] - CLASSES) <= 1 for name in FIELDS]
    of_sets = {
        f"{key}, {name}": mean(each[f"{key}, {name}, {k}"] for k in range(DRAWINGS))
        for key in means(each)
        for name in FIELDS
    }
    return means(each) | {"number within one": mean(map(float, near))} | of_sets | counts
