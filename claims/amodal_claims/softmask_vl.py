"""Soft masks (row 67): what a word points at turned down, not taken away; and a contrast that looks
away from pairs it has found. Park and Han, CVPR 2023, arXiv:2304.00719. GENERATED scenes of one to
four shapes with a sentence each, because boxes must be known.

All arms are the same network with contrast, matching and masked words; they differ in the masks, or
in gamma. Keys come from the encoder itself (momentum 0, no queue): a slow copy is still noise after
so few steps. A word is the name of the shape in a sentence; it points where Grad-CAM of the
matching score is highest on the 9 patches. Found pairs are searched twice: by vectors alone, and
with the 16 nearest put in order by the matcher, as ALBEF does.
"""

from functools import partial
from statistics import mean

import torch
from torch.nn.functional import normalize

from amodal import methods
from amodal.core import Embeddings
from amodal.data import Loader
from amodal.evaluate import embed_records
from amodal.evaluate.grounding import pointing
from amodal.methods.shared.matching import token_features
from amodal.methods.shared.regions import alone
from amodal_claims import Comparison, _scenes
from amodal_claims._arms import Budget, best
from amodal_claims.sets import scenes

CLAIM = (
    "Turning down what a word points at makes held-out pictures and captions find each other better (Recall@1 after the matcher has "
    "ordered the 16 nearest) and shape words point at their box more often than no mask, and than removal of the same patches; focal "
    "contrast gives a higher Recall@1 of the vectors alone than plain contrast."
)
DATA = _scenes.DATA
SEEDS = 5
BUDGET = Budget(steps=120, batch=64, rates=(4e-3,))
COMMON = {"width": 64, "depth": 1, "momentum": 0.0, "queue": 0}
ARMS = {
    "soft": {},
    "none": {"soft": 0.0},
    "hard": {"hard": 0.5},
    "plain": {"gamma": 0.0},
}
ORDERED, ALONE, POINTS = (
    "Recall@1, 16 nearest ordered by the matcher, mean of both directions",
    "Recall@1, vectors alone, mean of both directions",
    "share of shape words whose best patch touches the box",
)
COMPARISONS = (
    Comparison("soft masks against none", ORDERED, "ordered, soft", "ordered, none"),
    Comparison("soft masks against removal", ORDERED, "ordered, soft", "ordered, hard"),
    Comparison("soft masks against none", POINTS, "points, soft", "points, none"),
    Comparison("soft masks against removal", POINTS, "points, soft", "points, hard"),
    Comparison("focal against plain contrast", ALONE, "alone, soft", "alone, plain"),
)
NEAREST = 16


def measure(seed, dataset):
    words, found = _scenes.cells(dataset), {}
    test = words.split("test")
    cover = _scenes.places(words, test)
    found["points, chance"] = float((cover > 0).double().mean())
    for arm, options in ARMS.items():
        make = partial(methods.build, "softmask_vl", **COMMON, **options)
        method = best(
            words,
            words.split("train"),
            make,
            BUDGET,
            seed,
            lambda m: by_vectors(m, words, "valid")[0],
        )
        found[f"alone, {arm}"], similar = by_vectors(method, words, "test")
        texts, pictures = tokens(method, words, test)
        found[f"ordered, {arm}"] = ordered(method, similar, texts, pictures)
        found[f"points, {arm}"] = mean(
            pointing(shape_maps(method, words, test, texts, pictures), cover).tolist()
        )
    return found


def by_vectors(method, words, part):
    """Recall@1, and (N, N) cosines of pictures (rows) and captions."""
    z: Embeddings = embed_records(method.encoder, words, words.split(part), labels=False).aligned
    picture, text = (normalize(z[s].values.float(), dim=1) for s in ("image", "text"))
    similar = picture @ text.T
    own = torch.arange(len(similar))
    return mean(float((s.argmax(1) == own).double().mean()) for s in (similar, similar.T)), similar


@torch.no_grad()
def tokens(method, words, rows):
    """Lists of tokens of the captions and of the pictures."""
    batch = next(iter(Loader(words, rows, batch=len(rows), shuffle=False)))
    seen = token_features(method.encoder, alone(method.encoder, batch), ["text", "image"])
    return seen["tokens/text"].values, seen["tokens/image"].values


@torch.no_grad()
def ordered(method, similar, texts, pictures):
    shares = []
    for scores, by_picture in ((similar, True), (similar.T, False)):
        near = scores.topk(NEAREST, dim=1).indices
        asked = torch.arange(len(scores))[:, None].expand_as(near).flatten()
        picture, text = (asked, near.flatten()) if by_picture else (near.flatten(), asked)
        parts = zip(picture.split(1024), text.split(1024))
        logits = torch.cat([method.matcher(texts[t], pictures[p]) for p, t in parts]).view_as(near)
        first = near.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)
        shares.append(float((first == torch.arange(len(scores))).double().mean()))
    return mean(shares)


def shape_maps(method, words, rows, texts, pictures):
    """(W, 3, 3): for each line of each caption, how much each patch speaks for the match when its
    shape word is read."""
    _, maps = method.matcher.logits_and_relevance(texts, pictures)
    field, found = words.fields["text"], []
    named = {int(field.decode(shape)[0]) for shape in scenes.SHAPES}
    for i, row in enumerate(rows):
        ids = field.decode(words.raw(int(row), "text")).tolist()
        found.append(maps[i, [k for k, word in enumerate(ids) if word in named]])
    return torch.cat(found).view(-1, scenes.CELLS, scenes.CELLS)
