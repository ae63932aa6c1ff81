"""LIMoE (row 168): entropies that keep the words of a sparse one-tower model from crowding into few
experts. Mustafa et al., NeurIPS 2022, arXiv:2206.02770. GENERATED scenes in nine patches with
captions of 5 to 40 words; 400 pairs to learn from. One tower of two blocks for both, of which the
second is sparse: dense; 8 experts with importance, load and z losses; the same with LIMoE's
entropies. A token passes one perceptron of the same size in all. Values as they are, the same steps,
batch and rate.

The control is the dense tower (CLIP), which has to do better than chance, than itself before the
first step and than a CCA of simple features. An earlier form of this claim had OpenMoji, no floors
and four comparisons that decided together: Recall@10 .146 with entropies, .145 with classic losses,
.122 dense; .925 and .795 of the words' tokens reached their expert.
"""

from functools import partial

import torch

from amodal import methods
from amodal.data import Loader
from amodal_claims import Comparison, _scene_pairs, _scenes

CLAIM = (
    "At equal operations a token, the sparse tower with entropy losses finds held-out pictures by caption and the reverse better (Recall@1) than "
    "the dense tower."
)
DATA = _scene_pairs.DATA
STEPS = (150, 300)
ROW, EXPERTS = 168, 8
FIELDS = ("image", "text")
ARMS = {"classic": {"entropy": False}, "entropies": {}}
PASSED, USED = "share of words' tokens", "experts with 1 % of words' tokens"
PRIMARY = Comparison(
    "entropies against dense",
    _scene_pairs.RECALL,
    "entropies",
    "dense",
    interest=_scene_pairs.INTEREST,
)
SECONDARY = (
    Comparison("entropies against classic losses", _scene_pairs.RECALL, "entropies", "classic"),
    Comparison("words that reach their expert", PASSED, "passed, entropies", "passed, classic"),
    Comparison("experts that see words", USED, "used, entropies", "used, classic"),
)
FLOORS = _scene_pairs.FLOORS


def sparse(arm, encoder):
    method = methods.build("limoe", encoder, width=_scene_pairs.WIDTH, **ARMS[arm])
    method.views = ("plain",)
    return method


@torch.no_grad()
def routed(method, words):
    """modality -> tokens of held-out records that go to each expert (E,), and the share of its tokens
    that reach theirs."""
    encoder, logits = method.encoder, {s: [] for s in FIELDS}
    for batch in Loader(words, words.split("test"), batch=256, shuffle=False):
        routing = {}
        encoder.encode(encoder.tokenize(batch), router_logits=routing)
        for s in FIELDS:
            logits[s].append(routing["all", 0][s].x)
    least, found = encoder.trunks["all"].blocks[1].mlp.threshold, {}
    for s in FIELDS:
        surest, expert = torch.cat(logits[s]).softmax(1).max(1)
        passed = surest >= least[expert]
        found[s] = (
            torch.bincount(expert[passed], minlength=len(least)),
            float(passed.float().mean()),
        )
    return found


def floors(seed, dataset):
    words = _scenes.cells(dataset)
    return _scene_pairs.floors(_scene_pairs.clip, words, seed, ROW, trunk="shared")


def control(seed, dataset, steps):
    words = _scenes.cells(dataset)
    method = _scene_pairs.learnt(_scene_pairs.clip, words, seed, ROW, steps, trunk="shared")
    return {"dense": _scene_pairs.recall(method, words)}


def measure(seed, dataset, steps):
    words, found = _scenes.cells(dataset), control(seed, dataset, steps)
    for arm in ARMS:
        encoder = {"trunk": "shared", "experts": EXPERTS}
        method = _scene_pairs.learnt(partial(sparse, arm), words, seed, ROW, steps, **encoder)
        found[arm], of = _scene_pairs.recall(method, words), routed(method, words)
        counts, found[f"passed, {arm}"] = of["text"]
        found[f"passed by pictures, {arm}"] = of["image"][1]
        found[f"used, {arm}"] = float((counts >= 0.01 * counts.sum()).sum())
    return found
