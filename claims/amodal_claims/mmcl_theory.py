"""CLIP-guided resampling (row 75): pictures linked by their texts make better positive pairs than
pictures that look alike, and a teacher's nearest picture as a second positive helps SimCLR more
than leaving pairs out. Zhang et al., ICML 2023, arXiv:2306.04272.

Real: Tux Paint's stamps; the teacher is a small CLIP on the captions of the training part, trained
anew for each seed, and frozen. Links of both kinds are the same number an image: its five nearest
by caption (the teacher's vectors), or by pixels of augmented views, four of each picture, two
pictures being as near as their nearest views. Arms differ in the rule alone: same steps, batch,
rate, encoder."""

from functools import partial

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import methods
from amodal.diagnose.positives import joined, labelling_error
from amodal.evaluate import embed_records
from amodal.methods.theory.mmcl_theory import Guided
from amodal.objectives.guided_nt_xent import SHARES
from amodal_claims import Comparison, _stamps
from amodal_claims._arms import Budget, trained

CLAIM = (
    "Pictures linked by their captions differ in category less often, and join the pictures of a category in chains better, than pictures "
    "linked by how augmented views look; and SimCLR with the teacher's nearest picture as a second positive gives a higher linear-probe "
    "accuracy than SimCLR and than leaving out false positives, false negatives or easy negatives."
)
DATA = _stamps.DATA
SEEDS = 5
BUDGET = Budget(steps=120, batch=64, rates=(2e-3,))
WIDTH, LINKS, VIEWS = 64, 5, 4
PROBE = "accuracy, linear probe, 10 categories"
ERROR, JOINED = (
    "share of links across categories",
    "share of a category's pairs joined by links inside",
)
OTHERS = [rule for rule in SHARES if rule != "new_positive"]
COMPARISONS = (
    Comparison("labelling error: looks against captions", ERROR, "error: looks", "error: captions"),
    Comparison("connectivity: captions against looks", JOINED, "joined: captions", "joined: looks"),
    *(
        Comparison(f"new positive against {r}", PROBE, "probe: new_positive", f"probe: {r}")
        for r in OTHERS
    ),
)


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


def measure(seed, dataset):
    stamps, found = _stamps.stamps(dataset), {}
    parts, pictures = _stamps.parts(stamps, seed), stamps.select([_stamps.IMAGE])
    clip = partial(methods.build, "clip", width=WIDTH)
    teacher = trained(
        stamps, parts["train"], clip, BUDGET, seed, *BUDGET.rates
    ).encoder.requires_grad_(False)
    rows, labels = _stamps.classed(stamps, parts["train"])
    captions = normalize(
        embed_records(teacher, stamps, rows, labels=False).aligned[_stamps.TEXT].values, dim=1
    )
    for name, similar in (
        ("captions", captions @ captions.T),
        ("looks", pixel_similarity(stamps, rows, seed)),
    ):
        graph = links(similar)
        found |= {
            f"error: {name}": labelling_error(graph, labels),
            f"joined: {name}": joined(graph, labels),
        }
    for rule in SHARES:

        def make(encoder, rule=rule):
            method = Guided(encoder, teacher, rule=rule, temperature=0.5, width=128)
            method.on_stage_start(0)
            return method

        method = trained(pictures, parts["train"], make, BUDGET, seed, *BUDGET.rates)
        found[f"probe: {rule}"] = _stamps.linear(method, pictures, parts["train"], parts["test"])
    return found
