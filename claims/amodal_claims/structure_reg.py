"""STRUCTURE (row 92): with few pairs, keep each modality's own neighbourhoods. Gröger et al.,
NeurIPS 2025, arXiv:2506.16895.

Emoji as frozen models see them: EfficientNet-lite0's vectors of pictures, WordLlama's of names,
which go to the heads as they are (a tokenizer that copies them, a trunk without blocks). Linear
heads learn from 200 pairs, both arms for the same steps at the better of two rates on validation
emoji. Emoji to train on, to choose by and to test on are drawn by the seed. With 100 pairs a run of
the control on the pilot's seed hardly found more than simple features do (.135 and .127), so it is
200. Not tested is the paper's choice of layers: the set has one vector of each value. An earlier
form of this claim had encoders trained on the same few hundred stamps, whose neighbourhoods are not
worth keeping.
"""

from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from statistics import mean

import numpy as np
import torch
from torch import nn

from amodal import data, methods
from amodal.core import Column, Embeddings
from amodal.data import sets
from amodal.evaluate import Embedded
from amodal.evaluate.pair_maps import pair_maps
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.modalities.image import Image
from amodal.nn.encoder import Encoder
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit
from amodal_claims._captions import recall
from amodal_claims._floors import simple_recall

CLAIM = (
    "On the vectors of frozen encoders, with 200 pairs, the structure term raises held-out Recall@10 over InfoNCE alone on the same "
    "linear heads."
)
DATA = "frozen_pairs"
ORIGINALS = "openmoji"
FIELDS = ("image", "words")
FEW = 200
VALID, TEST = 300, 300
STEPS = (120, 240, 480)
BATCH, RATES = 100, (1e-3, 4e-3)
WEIGHT = 10.0
WIDTH = "small"  # 384, which holds the 128 and the 256 dimensions
RECALL = "Recall@10, mean of both directions, 300 held-out emoji"
PRIMARY = Comparison(
    "structure term against InfoNCE alone",
    RECALL,
    "structure",
    "plain",
    # The paper's term adds about nine tenths to retrieval with few pairs. Half of that would be
    # more than .05 on any control that is well above chance (.033).
    interest=0.05,
)
SECONDARY = (
    Comparison("structure term against CCA of the same vectors", RECALL, "structure", "cca"),
    Comparison("InfoNCE alone against CCA of the same vectors", RECALL, "plain", "cca"),
)
FLOORS = ("chance", "untrained", "simple features")


def emoji(dataset):
    """The numbers of the emoji, and all records with their two vectors as they are."""
    two = dataset.select(FIELDS)
    two = two.with_fields({f: replace(two.fields[f], mean=(), std=()) for f in FIELDS})
    return np.flatnonzero(dataset.label("source") == ORIGINALS), two


def parts(rows, seed):
    """Pairs to train on, emoji to choose by and to test on."""
    order = np.random.default_rng([seed, 92]).permutation(rows)
    train, valid, test, _ = np.split(order, np.cumsum([FEW, VALID, TEST]))
    return {"train": train, "valid": valid, "test": test}


@lru_cache(1)
def copying():
    """A function of the fields: an encoder whose features are the vectors that it is given."""
    made = {}

    def encoder(fields):
        if not made:
            one = Encoder(fields, size=WIDTH, positions="none")
            for field in fields:
                one.trunks[field].blocks = one.trunks[field].blocks[:0]
                project = one.tokenizers[field].project
                assert isinstance(project, nn.Linear)
                nn.init.zeros_(project.bias)
                nn.init.zeros_(one.field_token[field])
                with torch.no_grad():  # the second half of the inputs says which values exist
                    project.weight.copy_(torch.eye(*project.weight.shape))
                    project.weight[:, project.in_features // 2 :] = 0
            made[None] = one
        return deepcopy(made[None])

    return encoder


def built(two, weight, steps, seed):
    torch.manual_seed(seed)
    return methods.build(
        "structure_reg", copying()(two.fields), weight=weight, warmup=max(steps // 4, 1)
    )


def arm(seed, dataset, steps, weight):
    """Recall on held-out emoji after training with this weight of the term."""
    rows, two = emoji(dataset)
    part = parts(rows, seed)
    budget = Budget(steps, BATCH, RATES)
    tried = [
        fit(built(two, weight, steps, seed), two, np.sort(part["train"]), budget, seed, rate)
        for rate in RATES
    ]
    method = max(tried, key=lambda one: recall(one, two, np.sort(part["valid"])))
    return recall(method, two, np.sort(part["test"]))


def originals(dataset, rows):
    """The same emoji as they are: pictures and names, in the order of `rows`."""
    sets.ensure(ORIGINALS)
    home = data.open(ORIGINALS)
    both = np.flatnonzero(home.present("image") & home.present("annotation"))  # the set's order
    columns = {
        "picture": [home.raw(int(both[i]), "image") for i in rows],
        "name": [dataset.raw(int(i), "name") for i in rows],
    }
    picture = Image.infer(columns["picture"][:100], size=32, channels=3, patch=8, flip=False)
    return data.open(columns, fields={"picture": picture, "name": dataset.fields["name"]})


def cca(two, few, test):
    """Recall on held-out emoji by a regularised CCA of the same vectors of the same pairs."""

    def vectors(rows, field):
        return torch.from_numpy(np.stack([two.value(int(i), field)[0] for i in rows]))

    maps = pair_maps(*(vectors(few, field) for field in FIELDS))
    rows = torch.arange(len(test))
    found = {f: Column(m(vectors(test, f)), rows) for f, m in zip(FIELDS, maps)}
    space = Embeddings(found, len(test))
    ranked = retrieval(None, Embedded([str(i) for i in test], space, space), recall_at=(10,)).rows
    return mean(row["value"] for row in ranked if row["metric"] == "recall@10")


def floors(seed, dataset):
    rows, two = emoji(dataset)
    part = parts(rows, seed)
    few, test = part["train"], part["test"]
    simple = originals(dataset, np.concatenate([few, test]))
    return {
        "chance": 10 / TEST,
        "untrained": recall(built(two, 0.0, 1, seed).eval(), two, np.sort(test)),
        "simple features": simple_recall(simple, range(FEW), range(FEW, FEW + TEST)),
        "cca": cca(two, few, test),
    }


def control(seed, dataset, steps):
    return {"plain": arm(seed, dataset, steps, 0.0)}


def measure(seed, dataset, steps):
    return {
        "plain": arm(seed, dataset, steps, 0.0),
        "structure": arm(seed, dataset, steps, WEIGHT),
    }
