"""Filter ensembles (row 154): weighing cheap rules by how they agree cleans a pool better than any
one of them or their majority. Huang et al. 2023, arXiv:2401.12225. Generated scenes, because which
pairs are spoilt must be known: of the pool, a tenth each has another record's caption, one object
of the caption replaced, boilerplate for a caption, or a blurred picture. Seven rules that know none
of this: the score of a CLIP that learnt from 600 clean pairs outside the pool, three on what a
detector of colours finds of what the caption names, words that say what a picture could hold, the
number of words, and sharpness. Every arm but `all` learns from the half of the pool that its filter
puts first; all take the same steps of the same batch at one rate. The best single rule is chosen
with the truth at hand, which favours it."""

import numpy as np
from torch.nn.functional import normalize

from amodal.curate.filter_ensembles import detection_scores, filter_ensembles, majority, vote
from amodal.curate.poison import replace_cells
from amodal.evaluate import embed_records
from amodal.stats.auroc import auroc
from amodal_claims import Comparison
from amodal_claims._arms import Budget, plain_clip, trained
from amodal_claims._captions import recall
from amodal_claims._scenes import small
from amodal_claims.sets import scenes

CLAIM = (
    "On a generated pool with four tenths of the pairs spoilt in four ways, the label model's posterior separates clean pairs from spoilt ones "
    "with a higher AUROC than any single rule's vote and than the majority, and a CLIP that learns from the half it puts first finds "
    "held-out pairs better than one from all pairs, from the half of the best single rule, and from that of the majority."
)
DATA = "scenes"
SEEDS = 5
RATE = 4e-3
BUDGET = Budget(steps=150, batch=64, rates=(RATE,))
CLEAN, CONFIDENT = 600, 0.5
BOILERPLATE = (
    "click to enlarge the picture",
    "the best picture of the day can be seen",
    "there is one picture",
    "a picture",
)
AUROC, RECALL = (
    "AUROC, clean against spoilt pairs",
    "Recall@1, mean of both directions, 402 held-out scenes",
)
COMPARISONS = (
    Comparison(
        "posterior against the best single rule", AUROC, "auroc: ensemble", "auroc: best rule"
    ),
    Comparison("posterior against the majority", AUROC, "auroc: ensemble", "auroc: majority"),
    Comparison("kept half against all", RECALL, "recall: ensemble", "recall: all"),
    Comparison(
        "kept half against the best single rule's", RECALL, "recall: ensemble", "recall: best rule"
    ),
    Comparison("kept half against the majority's", RECALL, "recall: ensemble", "recall: majority"),
)
WORDS = {*scenes.COLOURS, *scenes.SHAPES, *scenes.SIZES}


def blurred(image):
    """(C, 48, 48) with 6 x 6 values left in each channel."""
    coarse = image.reshape(len(image), 6, 8, 6, 8).mean((2, 4))
    return np.rint(coarse.repeat(8, 1).repeat(8, 2)).astype(image.dtype)


def spoilt(dataset, pool, seed):
    """The dataset with four tenths of the pool spoilt, and which: the last six tenths of `pool`
    stay as they are."""
    rng = np.random.default_rng([seed, 1540])
    tenth = len(pool) // 10
    shuffled, replaced, boilerplate, blur = (pool[k * tenth : (k + 1) * tenth] for k in range(4))
    column = dataset.columns["text"]
    texts = {int(i): dataset.raw(int(j), "text") for i, j in zip(shuffled, np.roll(shuffled, 1))}
    for i in replaced:
        lines = dataset.raw(int(i), "text").split("\n")
        at = rng.integers(len(lines))
        size, colour, shape = (
            str(rng.choice(list(each))) for each in (scenes.SIZES, scenes.COLOURS, scenes.SHAPES)
        )
        lines[at] = str(rng.choice(scenes.LINES)).format(size, colour, shape)
        texts[int(i)] = "\n".join(lines)
    texts |= {int(i): str(rng.choice(BOILERPLATE)) for i in boilerplate}
    bad = replace_cells(dataset, pictures={"image": blur}, trigger=blurred, cells={column: texts})
    return bad, np.arange(len(pool)) >= 4 * tenth


def coloured(image, colour):
    """Boxes (n, 4) and scores (n,) of what a detector of one colour finds in a picture: the pixels
    that are near it, as one box."""
    near = (np.abs(image.astype(int) - np.array(scenes.COLOURS[colour])[:, None, None]) < 40).all(0)
    if not near.any():
        return np.zeros((0, 4)), np.zeros(0)
    y, x = np.nonzero(near)
    side = image.shape[1]
    box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]]) / side
    return box, np.array([min(near.sum() / 40, 1.0)])


def scores_of(dataset, pool, model):
    """rule -> (N,) raw scores of the records of the pool, NaN where it has nothing to say."""
    texts = [dataset.raw(int(i), "text") for i in pool]
    images = [dataset.value(int(i), "image") for i in pool]
    named = [
        [w for line in t.split("\n") for w in line.split() if w in scenes.COLOURS] for t in texts
    ]
    boxes, sure = [], []
    for image, colours in zip(images, named):
        found = [coloured(image, c) for c in colours]
        boxes.append(np.concatenate([b for b, _ in found]) if found else np.zeros((0, 4)))
        sure.append(np.concatenate([s for _, s in found]) if found else np.zeros(0))
    seen = embed_records(model.encoder, small(dataset), pool, labels=False).aligned
    cosine = (
        (normalize(seen["image"].values, dim=1) * normalize(seen["text"].values, dim=1))
        .sum(1)
        .numpy()
    )
    lines = [t.count("\n") + 1 for t in texts]
    return {
        "clip": cosine,
        **detection_scores(boxes, sure, [len(n) for n in named], confident=CONFIDENT),
        "words": np.array([sum(w in WORDS for w in t.split()) / n for t, n in zip(texts, lines)]),
        "length": np.array([float(len(t.split())) for t in texts]),
        "sharp": np.array([np.abs(np.diff(i.astype(float), axis=2)).mean() for i in images]),
    }


def votes_of(scores):
    """rule -> (N,) votes, by thresholds that were set without looking at who is right."""
    least = {"found": CONFIDENT, "grounded": 1.0, "area": 0.02, "words": 3.0, "length": 6.0}
    share = {"clip": 0.5, "sharp": 0.8}
    return {n: vote(s, least=least.get(n), share=share.get(n)) for n, s in scores.items()}


def first_half(score, rng):
    """(N,) bool: the half that scores highest; equal scores in random order."""
    order = np.lexsort([rng.random(len(score)), -score])
    chosen = np.zeros(len(score), dtype=bool)
    chosen[order[: len(score) // 2]] = True
    return chosen


def measure(seed, dataset):
    rng = np.random.default_rng([seed, 154])
    order = rng.permutation(dataset.split("train"))
    outside, pool = order[:CLEAN], order[CLEAN:]
    bad, fine = spoilt(dataset, pool, seed)
    scores = scores_of(
        bad, pool, trained(small(dataset), outside, plain_clip, BUDGET, seed + 100, RATE)
    )
    votes = votes_of(scores)
    ensemble = filter_ensembles(votes)
    single = {name: auroc(v, fine) for name, v in votes.items()}
    best = max(single, key=single.get)
    ranked = {
        "ensemble": ensemble.posterior,
        "majority": majority(votes),
        "best rule": np.nan_to_num(scores[best], nan=-1.0),
    }
    found = {f"auroc: {arm}": auroc(score, fine) for arm, score in ranked.items()} | {
        "auroc: best rule": single[best]
    }
    for name, score in scores.items():
        found |= {
            f"auroc: vote of {name}": single[name],
            f"auroc: score of {name}": auroc(np.nan_to_num(score, nan=-1.0), fine),
            f"thought right: {name}": ensemble.accuracy[name],
            f"right: {name}": float(
                np.mean(
                    [(votes[name][fine == t] == (1 if t else -1)).mean() for t in (True, False)]
                )
            ),
        }
    data = small(bad)
    halves = {"all": np.ones(len(pool), dtype=bool)} | {
        arm: first_half(score, rng) for arm, score in ranked.items()
    }
    for arm, chosen in halves.items():
        method = trained(data, np.sort(pool[chosen]), plain_clip, BUDGET, seed, RATE)
        found |= {
            f"recall: {arm}": recall(method, small(dataset), dataset.split("test"), k=1),
            f"clean: {arm}": float(fine[chosen].mean()),
        }
    return found
