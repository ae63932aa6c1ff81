"""SCOT (row 44): edited captions teach a picture and a change to find the picture after it, with no
such picture among what is learnt from. Jawade et al., WACV 2025, arXiv:2501.08347. GENERATED, as
the picture that is asked for must be known: the scenes, cut into their cells of one shape, each
with its line of the caption. What to change and the caption after it are edits of one word; which
words stand in for each other is found in the captions. At the test a held-out picture and a change,
in words, look among the other held-out pictures; right are those of the size, colour and shape
after the change.

Every arm has the same first stage (CLIP's loss), steps, batch and rate; `images` learns from a
picture of the right kind among those to learn from, in the place of the caption after the change.
Picture alone, words alone and their average are of SCOT's own encoder. The number of steps was set
by what CLIP gives on another seed."""

from functools import partial

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import data, methods
from amodal.curate.edits import edits, exchangeable
from amodal.evaluate import embed_records
from amodal.inference.embed import embed_values
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained
from amodal_claims.concept_centric import cells

CLAIM = (
    "A combiner that learnt from edited captions alone finds the picture after a change of one word (Recall@5) more often than the "
    "picture alone, the words alone and their average do, no more than .1 less often than one that learnt from pictures after the change, "
    "and more often than without the caption before the edit as a negative."
)
DATA = "scenes"
SEEDS = 5
BUDGET = Budget(steps=400, batch=64, rates=(4e-3,))
TEST, TEMPLATES = 400, ("there is {new}", "the picture shows {new}", "{new} can be seen")
METRIC = "Recall@5 among 399 held-out pictures"
COMPARISONS = (
    *(
        Comparison(f"composed against {a}", METRIC, "recall@5: scot", f"recall@5: {a}")
        for a in ("picture", "words", "average")
    ),
    Comparison(
        "captions against pictures as targets",
        METRIC,
        "recall@5: scot",
        "recall@5: images",
        margin=-0.1,
    ),
    Comparison(
        "with the caption before against without", METRIC, "recall@5: scot", "recall@5: no original"
    ),
)


def kinds(captions):
    """What a caption says: its words that stand in for others."""
    vocabulary = {w for g in exchangeable(captions) for w in g}
    return [None if c is None else tuple(w for w in c.split() if w in vocabulary) for c in captions]


def triplets(dataset, seed):
    """Records with what to change, the caption after it and a picture of that kind; the first TEST
    of them are for the test."""
    shapes, _ = cells(dataset, seed)
    captions = [shapes.raw(i, "text") for i in range(len(shapes))]
    changes, changed = edits(
        captions, exchangeable(captions[TEST:]), seed=seed, templates=TEMPLATES
    )
    own, after = kinds(captions), kinds([*captions, *changed])[len(captions) :]
    rng, of = np.random.default_rng([seed, 44]), {}
    for i in range(TEST, len(shapes)):
        of.setdefault(own[i], []).append(i)
    targets = [int(rng.choice(of[k])) if k in of else None for k in after]
    pictures = [shapes.raw(i, "image") for i in range(len(shapes))]
    columns = {"image": pictures, "text": captions, "change": changes, "changed": changed}
    columns["target"] = [None if t is None else pictures[t] for t in targets]
    image, text = shapes.fields["image"], shapes.fields["text"]
    fields = {"image": image, "target": image} | dict.fromkeys(("text", "change", "changed"), text)
    return data.open(columns, fields=fields, name="edits of scenes"), own[:TEST], after[:TEST]


def recalls(query_ND, pictures_ND, kinds, after):
    """Recall@1 and @5 of queries for whose kind there is a picture other than their own."""
    near = normalize(query_ND, dim=1) @ normalize(pictures_ND, dim=1).T
    best = near.fill_diagonal_(-torch.inf).topk(5, dim=1).indices.tolist()
    there = [i for i, kind in enumerate(after) if kind is not None and kind in kinds]
    hit = np.array([[kinds[j] == after[i] for j in best[i]] for i in there])
    return {"recall@1": float(hit[:, 0].mean()), "recall@5": float(hit.any(1).mean())}


def arm(records, seed, budget=BUDGET, changed="changed", **options):
    fields = ["image", "text", "change", changed]
    make = partial(methods.build, "scot", width=64, changed=changed, **options)
    return trained(
        records.select(fields), range(TEST, len(records)), make, budget, seed, budget.rates[0]
    )


@torch.no_grad()
def queries(method, records):
    """(N, D) unit vectors of pictures and of changes of the records to test on."""
    seen = (
        embed_records(method.encoder, records.select(["image"]), range(TEST), labels=False)
        .aligned["image"]
        .values
    )
    said = embed_values(
        method.encoder, "text", [records.raw(i, "change") or "" for i in range(TEST)]
    )
    return normalize(seen, dim=1), normalize(said, dim=1)


def measure(seed, dataset):
    records, own, after = triplets(dataset, seed)
    arms = {"scot": {}, "no original": {"original": False}, "images": {"changed": "target"}}
    found = {}
    for name, options in arms.items():
        method = arm(records, seed, **options)
        v, m = queries(method, records)
        with torch.no_grad():
            asked = {name: method.encoder.combiner(v, m)}
        if name == "scot":
            asked |= {"picture": v, "words": m, "average": v + m}
        for which, query in asked.items():
            found |= {f"{k}: {which}": value for k, value in recalls(query, v, own, after).items()}
    return found
