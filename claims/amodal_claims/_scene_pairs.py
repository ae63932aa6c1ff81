"""Pairs of generated scenes and captions: what claims about contrast from scratch train on.

Pictures of one to four shapes in nine patches, captions in words. From 400 pairs, values as they are
and some hundred steps CLIP finds held-out scenes far better than a CCA of simple features does
(Recall@1 about .55 and .1), which takes some seconds: few sets allow that from nothing. All of this
was looked at with CLIP on seeds of the pilot alone.
"""

from __future__ import annotations

from statistics import mean

import numpy as np

from amodal import methods
from amodal.data import Dataset
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.methods.contract import Method
from amodal.nn.encoder import Encoder
from amodal_claims import _scenes
from amodal_claims._arms import Budget, Make, trained, untrained
from amodal_claims._floors import simple_recall

DATA = _scenes.DATA
PAIRS, BATCH, RATE, WIDTH = 400, 96, 4e-3, 64
"""Of all arms."""
RECALL = "Recall@1, mean of both directions, 402 held-out scenes"
INTEREST = 0.1
"""Of practice: one query more in ten that is answered at once, as in `mil_vl`. Two runs of CLIP differ
by .03, so that half of it can be found with the seeds that are paid for."""
FLOORS = ("chance", "untrained", "simple features")


def learnt_from(words: Dataset, seed: int, row: int) -> np.ndarray:
    """The pairs to train on, others for each seed and row of the catalogue."""
    drawn = np.random.default_rng([seed, row]).permutation(words.split("train"))
    return np.sort(drawn[:PAIRS])


def clip(encoder: Encoder) -> Method:
    """CLIP on values as they are."""
    method = methods.build("clip", encoder, width=WIDTH)
    method.views = ("plain",)
    return method


def learnt(make: Make, words: Dataset, seed: int, row: int, steps: int, **encoder) -> Method:
    """A method after so many steps. encoder: its options, such as trunk."""
    budget = Budget(steps, BATCH, (RATE,))
    return trained(words, learnt_from(words, seed, row), make, budget, seed, RATE, **encoder)


def recall(method: Method, words: Dataset) -> float:
    """Recall@1 of the test part, mean of both directions."""
    embedded = embed_records(method.encoder, words, words.split("test"), labels=False)
    rows = retrieval(None, embedded, recall_at=(1,)).rows
    return mean(row["value"] for row in rows if row["metric"] == "recall@1")


def floors(make: Make, words: Dataset, seed: int, row: int, **encoder) -> dict[str, float]:
    """What a control has to clear: "untrained" is it before its first step."""
    test = words.split("test")
    begun = untrained(words, make, Budget(1, BATCH), seed, **encoder).eval()
    return {
        "chance": 1 / len(test),
        "untrained": recall(begun, words),
        "simple features": simple_recall(words, learnt_from(words, seed, row), test, k=1),
    }
