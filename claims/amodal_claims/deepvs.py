"""Words and regions (row 157): the sum over words of the best region against one vector of the
whole, and words smoothed along a sentence. Karpathy and Fei-Fei, CVPR 2015, arXiv:1412.2306.
GENERATED scenes of one to four shapes with a sentence each, because boxes must be known.

Regions are the 9 patches, each of which holds one shape or none, and the whole picture; the
baseline has the whole alone, with the same encoders, words and loss. A word is right if it goes to
the patch of the shape that its line is about; asked are size, colour and shape. How much neighbours
are worth (beta) is chosen among BETAS on validation records, where boxes are read; the test part
once. Each seed draws 800 of the 3,175 scenes to learn from: with all of them a CCA of simple
features finds .41 of the held-out pairs, which the baseline did not reach in 300 steps (.35), and
with 800 it finds .2, which the baseline passes at 300 steps but hardly at 150 (seen on other seeds).
The rate is one of the two in the earlier claim. That beta is worth something is a secondary
comparison: all words of a generated line are about one shape, so that it could hardly be otherwise.
"""

from functools import partial
from statistics import mean

import numpy as np
import torch

from amodal import methods
from amodal.data import Loader
from amodal.methods.shared.snippets import assign, scores
from amodal_claims import Comparison, _scenes
from amodal_claims._arms import Budget, trained, untrained
from amodal_claims._floors import simple_recall
from amodal_claims.sets import scenes

CLAIM = (
    "Scoring a picture and a sentence by the sum over words of the best region finds held-out pairs more often (Recall@1) than a dot "
    "product of whole pictures with the same encoders."
)
DATA = _scenes.DATA
STEPS = (300, 600)
TRAIN, BATCH, RATE = 800, 64, 4e-3
ARMS = {"regions": {}, "whole": {"regions": False}}
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
RECALL, RIGHT = "Recall@1, mean of both directions", "share of words that go to their shape's patch"
PRIMARY = Comparison(
    "words over regions against whole pictures",
    RECALL,
    "recall, regions",
    "recall, whole",
    # Of practice: one query more in twenty that is answered at once.
    interest=0.05,
)
SECONDARY = (
    Comparison("Viterbi against each word alone", RIGHT, "right, viterbi", "right, alone"),
)
FLOORS = ("chance", "untrained", "simple features")


def made(arm):
    return partial(methods.build, "deepvs", width=64, **ARMS[arm])


def learnt_from(words, seed):
    """The scenes to train on."""
    drawn = np.random.default_rng([seed, 157]).permutation(words.split("train"))
    return np.sort(drawn[:TRAIN])


def learnt(arm, words, steps, seed):
    """An arm after its training."""
    budget, encoder = Budget(steps, BATCH, (RATE,)), methods.encoder_options("deepvs")
    return trained(words, learnt_from(words, seed), made(arm), budget, seed, RATE, **encoder)


def floors(seed, dataset):
    words = _scenes.cells(dataset)
    encoder = methods.encoder_options("deepvs")
    before = untrained(words, made("whole"), Budget(1, BATCH), seed, **encoder)
    return {
        "chance": 1 / len(words.split("test")),
        "untrained": recall(before.eval(), words, "test"),
        "simple features": simple_recall(words, learnt_from(words, seed), words.split("test"), k=1),
    }


def control(seed, dataset, steps):
    words = _scenes.cells(dataset)
    return {"recall, whole": recall(learnt("whole", words, steps, seed), words, "test")}


def measure(seed, dataset, steps):
    words = _scenes.cells(dataset)
    method = learnt("regions", words, steps, seed)
    beta = max(BETAS, key=lambda b: right(method, words, "valid", b))
    return {
        "beta": beta,
        "recall, regions": recall(method, words, "test"),
        "right, alone": right(method, words, "test", 0.0),
        "right, viterbi": right(method, words, "test", beta),
        **control(seed, dataset, steps),
    }


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
