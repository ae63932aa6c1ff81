"""MCL (row 128): stages learn what the stages before leave out, and side by side they keep it all.
Zhang et al., ECCV 2024, arXiv:2402.11816.

GENERATED composites, because both factors must be known: each record is two pictures of 32 pixels
that share three patches of colour, of six hues each (easy: they distinguish 216 kinds of records),
and a real handwritten digit (hard). The pictures differ in brightness, noise, and the angle and
place of the digit. Two modalities, compared as in CLIP, so that what is shared is known exactly and no
crop of a view decides it. All arms take the same steps in all: three stages of a third each; one
encoder for all of them; three encoders of a third each, which differ in where they start and are
put side by side (an ensemble as wide as MCL's vectors)."""

import colorsys

import numpy as np
import torch
from PIL import Image as Picture

from amodal import data, methods
from amodal.core import Column
from amodal.modalities.image import Image
from amodal_claims import Comparison, _digits
from amodal_claims._arms import Budget, features, probe, trained

CLAIM = (
    "Of pictures that share colours and a digit, the second stage's vectors predict the digit better than those of one encoder trained for "
    "as many steps as all stages; so do the vectors of all stages together, also than an ensemble of equal width; and these predict the "
    "colour as well as that one encoder within .03."
)
DATA = _digits.DATA
SEEDS = 5
STAGES, CLUSTERS, HUES, SIDE = 3, 10, 6, 32
BUDGET = Budget(steps=180, batch=64, rates=(2e-3,))
FIELDS = ("first", "second")
DIGIT, COLOUR = (
    "accuracy of a linear probe, digit",
    "accuracy of a linear probe, hue of the first patch",
)
COMPARISONS = (
    Comparison("second stage against one encoder", DIGIT, "digit: stage 2", "digit: one"),
    Comparison("all stages against one encoder", DIGIT, "digit: all stages", "digit: one"),
    Comparison("all stages against an ensemble", DIGIT, "digit: all stages", "digit: ensemble"),
    Comparison(
        "all stages against one encoder", COLOUR, "colour: all stages", "colour: one", margin=-0.03
    ),
)


def composite(ink, hues, rng):
    """(SIDE, SIDE, 3) uint8: three patches of colour and, in the last quarter, the digit turned and
    shifted, with noise over all."""
    half, out = SIDE // 2, np.zeros((SIDE, SIDE, 3))
    for number, hue in enumerate(hues):
        y, x = divmod(number, 2)
        colour = colorsys.hsv_to_rgb(hue / HUES, 1.0, rng.uniform(0.5, 1.0))
        out[y * half : (y + 1) * half, x * half : (x + 1) * half] = np.array(colour) * 255
    turned = Picture.fromarray(ink).rotate(
        rng.uniform(-15, 15),
        Picture.Resampling.BILINEAR,
        translate=tuple(rng.integers(-2, 3, 2).tolist()),
    )
    out[half:, half:] = np.asarray(turned)[..., None]
    return np.clip(out + rng.normal(0, 12, out.shape), 0, 255).astype(np.uint8)


def composites(digits, seed):
    """The dataset of both modalities, and the labels of its factors."""
    rng = np.random.default_rng(seed)
    ink, hues = _digits.ink(digits, SIDE // 2), rng.integers(HUES, size=(len(digits), 3))
    raw = {s: [composite(i, h, rng) for i, h in zip(ink, hues)] for s in FIELDS}
    fields = {
        s: Image.infer(v, channels=3, size=SIDE, patch=SIDE // 4, flip=False)
        for s, v in raw.items()
    }
    labels = {"digit": digits.label("digit"), "colour": hues[:, 0].astype("U1").astype(object)}
    return data.open(raw, name="colours and digits", fields=fields), labels


def vectors(encoder, dataset, rows):
    return features(encoder, dataset, rows)[FIELDS[0]].values


def measure(seed, dataset):
    pictures, labels = composites(dataset, seed)
    train, test = pictures.split("train"), pictures.split("test")

    def fit(steps, seed, **options):
        def make(encoder):
            return methods.build("mcl_multistage", encoder, width=64, clusters=CLUSTERS, **options)

        budget = Budget(steps, BUDGET.batch, BUDGET.rates)
        return trained(pictures, train, make, budget, seed, *BUDGET.rates).encoder

    staged, one = fit(BUDGET.steps, seed, parts=STAGES), fit(BUDGET.steps, seed, parts=1)
    encoders = [fit(BUDGET.steps // STAGES, 1000 * (i + 1) + seed, parts=1) for i in range(STAGES)]
    both, found = (train, test), {}
    seen = {
        "all stages": [vectors(staged, pictures, rows) for rows in both],
        "one": [vectors(one, pictures, rows) for rows in both],
        "ensemble": [
            torch.cat([normal(vectors(e, pictures, rows)) for e in encoders], 1) for rows in both
        ],
    }
    for stage in range(STAGES):
        seen[f"stage {stage + 1}"] = [v.split(staged.width, 1)[stage] for v in seen["all stages"]]
    for arm, (a, b) in seen.items():
        for factor, label in labels.items():
            columns = (Column(v, torch.arange(len(v))) for v in (a, b))
            found[f"{factor}: {arm}"] = probe(
                next(columns), label[train], next(columns), label[test]
            )
    return found


def normal(v):
    return torch.nn.functional.normalize(v, dim=1)
