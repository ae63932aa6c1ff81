"""Filter ensembles (row 154): weighing cheap rules by how they agree cleans a pool better than any
one of them or their majority. Huang et al. 2023, arXiv:2401.12225. Generated scenes, because which
pairs are spoilt must be known: of the pool, a tenth each has another record's caption, one object
of the caption replaced, boilerplate for a caption, or a blurred picture. Seven rules that know none
of this: the score of a CLIP that learnt from 600 clean pairs outside the pool, three on what a
detector of colours finds of what the caption names, words that say what a picture could hold, the
number of words, and sharpness.

What decides is the label model against the plain majority of the same votes, which is the yardstick
of an ensemble; the majority has to do better than chance and than the best single rule's vote,
chosen with the truth at hand, which favours it. An earlier form of this claim asked this of five
comparisons together, among them the recall of CLIPs that learn from what each filter puts first
(.349 for the model's half, .337 for the majority's, .098 for the whole pool), without floors; the
majority was ahead by .008."""

import numpy as np
from torch.nn.functional import normalize

from amodal.curate.filter_ensembles import detection_scores, filter_ensembles, majority, vote
from amodal.curate.poison import replace_cells
from amodal.evaluate import embed_records
from amodal.stats.auroc import auroc
from amodal_claims import Comparison
from amodal_claims._arms import Budget, plain_clip, trained
from amodal_claims._scenes import small
from amodal_claims.sets import scenes

CLAIM = (
    "On a generated pool with four tenths of the pairs spoilt in four ways, the label model's posterior separates clean pairs from spoilt ones "
    "with a higher AUROC than the majority of the same votes."
)
DATA = "scenes"
STEPS = (150,)
RATE, BATCH = 4e-3, 64
CLEAN, CONFIDENT = 600, 0.5
BOILERPLATE = (
    "click to enlarge the picture",
    "the best picture of the day can be seen",
    "there is one picture",
    "a picture",
)
AUROC, SHARE = "AUROC, clean against spoilt pairs", "share of clean pairs in the half put first"
PRIMARY = Comparison(
    "posterior against the majority",
    AUROC,
    "auroc: ensemble",
    "auroc: majority",
    # Of practice: less would not pay for a model where a count does.
    interest=0.02,
)
SECONDARY = (
    Comparison(
        "posterior against the best single rule", AUROC, "auroc: ensemble", "auroc: best rule"
    ),
    Comparison(
        "posterior against the score of CLIP", AUROC, "auroc: ensemble", "auroc: score of clip"
    ),
    Comparison("posterior against the majority", SHARE, "clean: ensemble", "clean: majority"),
)
FLOORS = ("chance", "auroc: best rule")
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


def voted(seed, dataset, steps):
    """(scores, votes, which pairs are clean) of the rules on the pool."""
    order = np.random.default_rng([seed, 154]).permutation(dataset.split("train"))
    outside, pool = order[:CLEAN], order[CLEAN:]
    bad, fine = spoilt(dataset, pool, seed)
    budget = Budget(steps, BATCH, (RATE,))
    model = trained(small(dataset), outside, plain_clip, budget, seed + 100, RATE)
    scores = scores_of(bad, pool, model)
    return scores, votes_of(scores), fine


def floors(seed, dataset):
    return {"chance": 0.5}


def singles(votes, fine):
    """Rule -> AUROC of its vote."""
    return {name: auroc(v, fine) for name, v in votes.items()}


def control(seed, dataset, steps):
    _, votes, fine = voted(seed, dataset, steps)
    return {
        "auroc: majority": auroc(majority(votes), fine),
        "auroc: best rule": max(singles(votes, fine).values()),
    }


def measure(seed, dataset, steps):
    rng = np.random.default_rng([seed, 1541])
    scores, votes, fine = voted(seed, dataset, steps)
    ensemble, single = filter_ensembles(votes), singles(votes, fine)
    ranked = {"ensemble": ensemble.posterior, "majority": majority(votes)}
    found = {f"auroc: {arm}": auroc(score, fine) for arm, score in ranked.items()}
    found["auroc: best rule"] = max(single.values())
    for arm, score in ranked.items():
        found[f"clean: {arm}"] = float(fine[first_half(score, rng)].mean())
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
    return found
