"""CLIP-guided resampling (row 75): pictures linked by their texts make better positive pairs than
pictures that look alike. Zhang et al., ICML 2023, arXiv:2306.04272.

Real: Tux Paint's stamps; the teacher is a small CLIP on the captions of the training part, trained
anew for each seed, and frozen. Links of all kinds are the same number an image: its five nearest by
caption (the teacher's vectors), by pixels of augmented views, four of each picture, two pictures
being as near as their nearest views, or by simple features, of the picture or of the caption.

What decides is how many links stay within a category. The control is the best yardstick of looks,
simple features of pictures, which has to do better than links drawn at random and than pictures
through the encoder before its first step. An earlier form of this claim had pixels for a control
(.243 of the links, captions .368) and six comparisons that decided together; among them SimCLR with
the teacher's nearest picture as a second positive (.454, without .464), which is left out for time.
"""

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import methods
from amodal.diagnose.positives import joined, labelling_error
from amodal.evaluate import embed_records
from amodal_claims import Comparison, _stamps
from amodal_claims._arms import Budget, features, trained, untrained
from amodal_claims._floors import simple_pair

CLAIM = (
    "Pictures linked by their captions, as a small CLIP reads them, are of one category more often than pictures linked by simple features of "
    "what they look like."
)
DATA = _stamps.DATA
STEPS = (120,)
BATCH, RATE = 64, 2e-3
WIDTH, LINKS, VIEWS = 64, 5, 4
INSIDE, JOINED = (
    "share of links within a category",
    "share of a category's pairs joined by links inside",
)
PRIMARY = Comparison(
    "captions against looks",
    INSIDE,
    "inside: captions",
    "inside: simple looks",
    # Of practice: one link in twenty.
    interest=0.05,
)
SECONDARY = (
    Comparison(
        "captions against pixels of augmented views", INSIDE, "inside: captions", "inside: pixels"
    ),
    Comparison(
        "captions read by CLIP against tf-idf",
        INSIDE,
        "inside: captions",
        "inside: simple captions",
    ),
    Comparison("captions against looks", JOINED, "joined: captions", "joined: simple looks"),
)
FLOORS = ("chance", "inside: untrained")


def links(similar_NN):
    """(N, N) graph: each with its nearest others, in both directions."""
    near = similar_NN.clone().fill_diagonal_(-2).topk(LINKS, dim=1).indices
    graph = torch.zeros(len(near), len(near), dtype=torch.float64).scatter_(1, near, 1.0)
    return graph + graph.T


def pixel_similarity(stamps, rows, seed):
    """(N, N) the largest cosine of pixels between two pictures' augmented views."""
    image, every = stamps.fields[_stamps.IMAGE], []
    for view in range(VIEWS):
        rngs = (np.random.default_rng([seed, int(i), view]) for i in rows)
        seen = [
            image.augment(stamps.value(int(i), _stamps.IMAGE), "strong", rng)
            for i, rng in zip(rows, rngs)
        ]
        every.append(image.patches(image.collate(seen)).flatten(1))
    unit = normalize(torch.stack(every), dim=2)
    return torch.stack([a @ b.T for a in unit for b in unit]).amax(0)


def linked(name, similar_NN, labels):
    """What a graph of nearest pictures says of categories."""
    graph = links(similar_NN)
    return {
        f"inside: {name}": 1 - labelling_error(graph, labels),
        f"joined: {name}": joined(graph, labels),
    }


def cosines(vectors_ND):
    unit = normalize(vectors_ND.float(), dim=1)
    return unit @ unit.T


def parts_of(dataset, seed):
    """(the stamps, those to train on, those of them that have a category, categories)."""
    stamps = _stamps.stamps(dataset)
    train = _stamps.parts(stamps, seed)["train"]
    return stamps, train, *_stamps.classed(stamps, train)


def simple(stamps, rows, field):
    """(N, D) simple features, which need no category."""
    return simple_pair(stamps.select([field]), rows, rows)[0].features[field].values


def clip(encoder):
    return methods.build("clip", encoder, width=WIDTH)


def floors(seed, dataset):
    stamps, _, rows, labels = parts_of(dataset, seed)
    before = untrained(stamps, clip, Budget(1, BATCH), seed).eval()
    seen = features(before.encoder, stamps.select([_stamps.IMAGE]), rows)[_stamps.IMAGE].values
    _, counts = np.unique(labels, return_counts=True)
    n = counts.sum()
    return {
        "chance": float((counts * (counts - 1)).sum() / (n * (n - 1))),
        **linked("untrained", cosines(seen), labels),
    }


def control(seed, dataset, steps):
    stamps, _, rows, labels = parts_of(dataset, seed)
    return linked("simple looks", cosines(simple(stamps, rows, _stamps.IMAGE)), labels)


def measure(seed, dataset, steps):
    found = control(seed, dataset, steps)
    stamps, train, rows, labels = parts_of(dataset, seed)
    teacher = trained(stamps, train, clip, Budget(steps, BATCH, (RATE,)), seed, RATE).encoder
    captions = embed_records(teacher, stamps, rows, labels=False).aligned[_stamps.TEXT].values
    similar = {
        "captions": cosines(captions),
        "simple captions": cosines(simple(stamps, rows, _stamps.TEXT)),
        "pixels": pixel_similarity(stamps, rows, seed),
    }
    for name, matrix in similar.items():
        found |= linked(name, matrix, labels)
    return found
