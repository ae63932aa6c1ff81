"""dino.txt (row 200): a frozen self-supervised tower learns language by its class token beside the
mean of its patches. Jose et al., CVPR 2025, arXiv:2412.16334.

GENERATED scenes of one to four shapes, because every pixel must have a class. The tower learns from
pictures alone (SimCLR on its class token, of two mild crops), anew for each seed, and is frozen;
arms differ in what of it is compared with captions, or in the blocks behind it. The baseline is
CLIP from scratch at the same steps. A class is a colour, and its vector the mean of its 16 prompts;
shapes are measured too, and not claimed, because on another seed no such tower classified them by a probe
(.06 where chance is .13). Segmented are the pixels of shapes alone; whole pictures are those of one
shape among held-out records.
"""

from functools import partial
from statistics import mean

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

from amodal import methods
from amodal.data import Loader
from amodal.evaluate import embed_records
from amodal.inference.embed import embed_values
from amodal.methods.adaptation.dinotxt import patch_maps
from amodal.stats.mask_overlap import mean_iou
from amodal_claims import Comparison, _scenes
from amodal_claims._arms import Budget, fit, plain_clip, trained, untrained
from amodal_claims.sets import scenes

CLAIM = (
    "Behind a frozen self-supervised tower, aligning captions with class token and mean patch gives a higher mean IoU of colours than "
    "aligning them with the class token alone, and than CLIP from scratch with the same steps, and accuracy in naming the colour of whole "
    "pictures that is at most .02 lower than with the class token alone."
)
DATA = _scenes.DATA
SEEDS = 5
BEFORE = Budget(steps=150, batch=64, rates=(2e-3,))
BUDGET = Budget(steps=120, batch=64, rates=(4e-3,))
ARMS = {
    "both": {},
    "cls": {"pooling": "cls"},
    "mean": {"pooling": "mean"},
    "no blocks": {"blocks": 0},
}
KINDS = {"colours": tuple(scenes.COLOURS), "shapes": scenes.SHAPES}
IOU, TOP = (
    "mean IoU of 8 colours, pixels of shapes",
    "zero-shot accuracy, 8 colours, pictures of one shape",
)
COMPARISONS = (
    Comparison("both against class token", IOU, "colours: both", "colours: cls"),
    Comparison("both against CLIP from scratch", IOU, "colours: both", "colours: clip"),
    Comparison(
        "both against class token", TOP, "top colours: both", "top colours: cls", margin=-0.02
    ),
)


def pixels(dataset, rows, kind):
    """(N, side, side) the class of every pixel of a shape, -1 elsewhere: what in the line's box is
    no grey of the dark background."""
    boxes, objects = scenes.boxes(dataset), scenes.objects(dataset)
    truth = torch.full((len(rows), scenes.SIDE, scenes.SIDE), -1)
    for n, i in enumerate(rows):
        value = torch.from_numpy(dataset.value(int(i), "image")).int()
        drawn = (value.amax(0) - value.amin(0) > 40) | (value.amin(0) > 170)
        for (left, top, right, bottom), words in zip(boxes[i], objects[i]):
            name = next(k for k, each in enumerate(KINDS[kind]) if each in words)
            part = truth[n, top:bottom, left:right]
            part[drawn[top:bottom, left:right]] = name
    return truth


def classes(method, kind):
    """(8, D) means of the unit vectors of the prompts of each class."""
    each = [
        [
            f"a {size} {c} {s}"
            for size in scenes.SIZES
            for c in scenes.COLOURS
            for s in scenes.SHAPES
            if name in (c, s)
        ]
        for name in KINDS[kind]
    ]
    vectors = embed_values(method.encoder, "text", [p for prompts in each for p in prompts])
    return normalize(vectors, dim=1).view(len(each), -1, vectors.shape[1]).mean(1)


def maps(method, dataset, rows, spoken, arm):
    pictures = dataset.select(["image"])
    if arm == "clip":
        patches = _scenes.patches(method, dataset, rows)
        side = round(patches.shape[1] ** 0.5)
        like = (patches @ normalize(spoken, dim=1).T).transpose(1, 2).unflatten(2, (side, side))
        return interpolate(like, size=(scenes.SIDE,) * 2, mode="bilinear", align_corners=False)
    return patch_maps(
        method.encoder,
        Loader(pictures, rows, batch=256, shuffle=False),
        "image",
        spoken,
        size=scenes.SIDE,
    )


def seen(method, *views):
    method.views = views
    return method


def mild(encoder):
    return seen(methods.build("simclr", encoder), "weak", "weak")


def measure(seed, dataset):
    words, found = scenes.words(dataset), {}
    train, test = words.split("train"), words.split("test")
    held = np.sort(np.concatenate([test, words.split("valid")]))
    single = held[words.label("count")[held] == "1"]
    truth = {kind: pixels(words, test, kind) for kind in KINDS}
    objects = scenes.objects(words)
    named = {
        kind: [next(k for k in KINDS[kind] if k in objects[i][0]) for i in single] for kind in KINDS
    }
    pictures = words.select(["image"])
    before = trained(pictures, train, mild, BEFORE, seed, *BEFORE.rates, pool="cls")
    learnt = before.encoder.state_dict()

    def make(encoder, options):
        own = encoder.state_dict()
        for name in own.keys() & learnt.keys():
            if not name.startswith("heads"):
                own[name].copy_(learnt[name])
        return seen(methods.build("dinotxt", encoder, **options), "plain")

    for arm in (*ARMS, "clip"):
        build = plain_clip if arm == "clip" else partial(make, options=ARMS[arm])
        method = untrained(words, build, BUDGET, seed, pool="cls")
        method = fit(method, words, train, BUDGET, seed, *BUDGET.rates)
        z = embed_records(method.encoder, pictures, single, labels=False).aligned["image"].values
        for kind, each in KINDS.items():
            spoken = classes(method, kind)
            guess = maps(method, words, test, spoken, arm).argmax(1)
            found[f"{kind}: {arm}"] = mean_iou(guess, truth[kind], len(each))
            top = (normalize(z, dim=1) @ normalize(spoken, dim=1).T).argmax(1)
            found[f"top {kind}: {arm}"] = mean(
                float(each[g] == name) for g, name in zip(top.tolist(), named[kind])
            )
    return found
