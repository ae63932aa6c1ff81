"""Words and regions (row 157): the sum over words of the best region against one vector of the
whole, and words smoothed along a sentence. Karpathy and Fei-Fei, CVPR 2015, arXiv:1412.2306.
GENERATED scenes of one to four shapes with a sentence each, because boxes must be known.

Regions are the 9 patches, each of which holds one shape or none, and the whole picture; the
baseline has the whole alone, with the same encoders, words and loss. A word is right if it goes to
the patch of the shape that its line is about; asked are size, colour and shape. How much neighbours
are worth (beta) is chosen among BETAS on validation records, where boxes are read; the test part
once.
"""

from functools import partial
from statistics import mean

import numpy as np
import torch

from amodal import methods
from amodal.data import Loader
from amodal.methods.shared.snippets import assign, scores
from amodal_claims import Comparison, _scenes
from amodal_claims._arms import Budget, best
from amodal_claims.sets import scenes

CLAIM = (
    "Scoring a picture and a sentence by the sum over words of the best region finds held-out pairs more often (Recall@1) than a dot "
    "product of whole pictures with the same encoders, and assigning words along the sentence (Viterbi, beta > 0) names the right region "
    "more often than the best region of each word."
)
DATA = _scenes.DATA
SEEDS = 5
BUDGET = Budget(steps=200, batch=64, rates=(1e-3, 4e-3))
ARMS = {"regions": {}, "whole": {"regions": False}}
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
RECALL, RIGHT = "Recall@1, mean of both directions", "share of words that go to their shape's patch"
COMPARISONS = (
    Comparison(
        "words over regions against whole pictures", RECALL, "recall, regions", "recall, whole"
    ),
    Comparison("Viterbi against each word alone", RIGHT, "right, viterbi", "right, alone"),
)


def measure(seed, dataset):
    words, found = _scenes.cells(dataset), {}
    for arm, options in ARMS.items():
        make = partial(methods.build, "deepvs", width=64, **options)
        encoder = methods.encoder_options("deepvs")
        method = best(
            words,
            words.split("train"),
            make,
            BUDGET,
            seed,
            lambda m: recall(m, words, "valid"),
            **encoder,
        )
        found[f"recall, {arm}"] = recall(method, words, "test")
        if arm == "regions":
            beta = max(BETAS, key=lambda b, m=method: right(m, words, "valid", b))
            found |= {"beta": beta, "right, alone": right(method, words, "test", 0.0)}
            found["right, viterbi"] = right(method, words, "test", beta)
    return found


@torch.no_grad()
def parts(method, words, part):
    """Regions and words in the common space."""
    rows = words.split(part)
    z = method.features(next(iter(Loader(words, rows, batch=len(rows), shuffle=False))))
    return z["parts/image"].values, z["parts/text"].values


def recall(method, words, part):
    table = scores(*parts(method, words, part))
    own = torch.arange(len(table))
    return mean(float((t.argmax(1) == own).double().mean()) for t in (table, table.T))


def right(method, words, part, beta):
    rows = words.split(part)
    chosen = assign(*parts(method, words, part), beta).split()
    boxes, field = scenes.boxes(words), words.fields["text"]
    named = {
        int(field.decode(w)[0])
        for names in (scenes.SIZES, scenes.COLOURS, scenes.SHAPES)
        for w in names
    }
    pause, hits = field.decode("a\na")[1], []
    for row, regions in zip(rows, chosen):
        left, top = boxes[int(row)][:, 0], boxes[int(row)][:, 1]
        cell = scenes.SIDE // scenes.CELLS
        place = top // cell * scenes.CELLS + left // cell
        ids = field.decode(words.raw(int(row), "text"))
        line = np.cumsum(ids == pause)
        asked = np.isin(ids, list(named))
        hits.append(regions.numpy()[asked] - 1 == place[line[asked]])  # region 0 is the whole
    return float(np.concatenate(hits).mean())
