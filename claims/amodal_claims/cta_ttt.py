"""Cross-task alignment (row 80): learning without labels at test time, from an encoder aligned with
a self-supervised one. Barbeau et al., arXiv:2507.05221.

Handwritten digits at 16 pixels, split anew for each seed: 600 to train on, 100 to choose by, 200 to
test on. Damaged test digits: noise, blur, lost contrast and rotation, each at three severities, in
batches of 50. Every arm has the same nano encoder, batch and learning rate and as many steps with
labels: `plain`, labels alone; `joint`, labels and views in one Y-shaped trunk; `cta`, after five
eighths as many in which the self-supervised encoder learns alone; `unaligned`, the same with lambda
= 0. At test time each batch begins with the trained weights and norms learn for three steps of
Adam: from views (`joint`, `cta`, `unaligned`), or to make predictions sure (TENT, on `plain`). The
control is the Y-shaped network after adapting, which is what the paper improves on. Of RATES at
test time every arm takes what is best on validation digits with another damage, lost pixels. The
learning rate and the severities were set by what `plain` gives on validation and damaged digits of
another seed, unadapted."""

from functools import partial
from statistics import mean

import numpy as np
import torch
from PIL import Image as Picture
from PIL import ImageFilter

from amodal import data, methods
from amodal.data import Loader
from amodal.inference.forward_passes import sequential_loader
from amodal.modalities.image import Image
from amodal.nn.heads.supervised import targets_of
from amodal.train.test_time import TestTimeTraining, norms, tent
from amodal_claims import Comparison, _digits
from amodal_claims._arms import Budget, trained, untrained
from amodal_claims._floors import simple_probe

CLAIM = (
    "On damaged digits, after three steps on views at test time, an encoder that was aligned with a self-supervised one predicts more of "
    "them than a Y-shaped network that learnt labels and views jointly does after the same steps."
)
DATA = _digits.DATA
STEPS = (160, 320)
BATCH, RATE = 64, 4e-3
ALONE, AT_ONCE, AT_TEST, RATES = 5 / 8, 50, 3, (3e-3, 3e-2)
TRAIN, VALID, TEST = 600, 100, 200
SEVERITIES = {
    "noise": (0.2, 0.35, 0.5),
    "blur": (0.8, 1.2, 1.6),
    "contrast": (0.7, 0.5, 0.3),
    "rotation": (20, 35, 50),
}
ARMS = {"plain": "finetune", "joint": {"joint": True}, "cta": {}, "unaligned": {"weight": 0.0}}
GAIN, ACCURACY = "gain in accuracy at test time, mean over damages", "accuracy, mean over damages"
PRIMARY = Comparison(
    "adapted: aligned against a Y-shaped network",
    ACCURACY,
    "cta, adapted",
    "joint, adapted",
    # Of practice: of a hundred damaged digits, five more.
    interest=0.05,
)
SECONDARY = (
    Comparison("adapted against not", ACCURACY, "cta, adapted", "cta, damaged"),
    Comparison("gain against that without alignment", GAIN, "cta, gain", "unaligned, gain"),
    Comparison("clean, adapted, against labels alone, at most .02 less", "clean accuracy", "cta, clean adapted", "plain, clean", -0.02),
)  # fmt: skip
FLOORS = ("chance", "untrained", "simple features")


def damaged(ink, kind, severity, rng):
    """(16, 16) uint8 -> the same, worse."""
    x = ink.astype(float) / 255
    if kind == "noise":
        x = x + rng.normal(0, severity, x.shape)
    elif kind == "pixels":
        x = np.where(rng.random(x.shape) < severity, rng.random(x.shape), x)
    elif kind == "contrast":
        x = x.mean() + severity * (x - x.mean())
    else:
        picture = Picture.fromarray(ink)
        turn = float(severity * rng.choice([-1, 1])) if kind == "rotation" else 0.0
        blur = ImageFilter.GaussianBlur(severity if kind == "blur" else 0)
        x = (
            np.asarray(picture.rotate(turn, Picture.Resampling.BILINEAR).filter(blur)).astype(float)
            / 255
        )
    return np.rint(x.clip(0, 1) * 255).astype(np.uint8)


def opened(ink, labels, like=None):
    """Pictures and their class, read as `like` is."""
    field = (
        like.fields["digit"] if like else Image.infer(ink, channels=1, size=16, patch=4, flip=False)
    )
    return data.open({"digit": ink, "class": list(labels)}, name="digits").with_fields(
        {"digit": field}
    )


def fitted(name, digits, seed, steps):
    """An arm after so many steps with labels; 0 for none."""
    rows = np.arange(len(digits))
    how = {"label": "class", "targets": targets_of(digits, rows, "class"), "view": "weak"}
    alone = 0 if name in ("plain", "joint") else round(ALONE * steps)
    budget = Budget(max(steps + alone, 1), BATCH, (RATE,))
    if ARMS[name] == "finetune":
        make = partial(methods.build, "finetune", **how)
    else:
        make = partial(methods.build, "cta_ttt", alone=alone / budget.steps, **how, **ARMS[name])
    if not steps:
        return untrained(digits, make, budget, seed).eval()
    return trained(digits, rows, make, budget, seed, RATE)


def right(method, digits, seed, rate=None):
    """Accuracy; rate: of the steps at test time, None for none."""
    rows, hits = np.arange(len(digits)), []
    plain = sequential_loader(digits, rows, AT_ONCE)
    views = Loader(digits, rows, batch=AT_ONCE, shuffle=False, views=("weak", "weak"), seed=seed)
    with_views = hasattr(method, "at_test")
    loss = method.at_test if with_views else tent(method.encoder, method.head)
    how = {
        "select": lambda m: norms(m.encoder),
        "steps": AT_TEST,
        "lr": rate or 0.0,
        "optimizer": torch.optim.Adam,
    }
    with TestTimeTraining(method, loss, **how) as adapt:
        for batch, seen in zip(plain, views):
            if rate is not None:
                adapt(seen if with_views else batch)
            predicted = (
                method.head.predictions(method.head(method.encoder.features(batch)))["class"]
                .argmax(1)
                .numpy()
            )
            names = np.array(method.head.targets[0].classes)
            hits.append(names[predicted] == digits.label("class")[[int(k) for k in batch.keys]])
    return float(np.concatenate(hits).mean())


def parts_of(digits, seed):
    """Digits to train on, to test on, to choose by, the same with lost pixels; (damage, severity)
    -> damaged test digits."""
    ink, labels, rng = (
        _digits.ink(digits, 16),
        digits.label("digit"),
        np.random.default_rng([seed, 80]),
    )
    order = rng.permutation(len(ink))
    train, valid, test = np.split(order[: TRAIN + VALID + TEST], [TRAIN, TRAIN + VALID])
    clean = opened([ink[i] for i in train], labels[train])

    def with_damage(rows, kind=None, severity=0.0):
        return opened(
            [damaged(ink[i], kind, severity, rng) if kind else ink[i] for i in rows],
            labels[rows],
            clean,
        )

    tests = {(k, s): with_damage(test, k, s) for k, each in SEVERITIES.items() for s in each}
    return clean, with_damage(test), with_damage(valid), with_damage(valid, "pixels", 0.3), tests


def floors(seed, dataset):
    train, _, _, _, tests = parts_of(dataset, seed)
    before = fitted("joint", train, seed, 0)
    every = [train, *tests.values()]
    ink = [one.raw(i, "digit") for one in every for i in range(len(one))]
    labels = np.concatenate([one.label("class") for one in every])
    rows = np.arange(len(ink))
    seen, held = rows[: len(train)], rows[len(train) :]
    return {
        "chance": 0.1,
        "untrained": mean(right(before, one, seed) for one in tests.values()),
        "simple features": simple_probe(
            opened(ink, labels, train), seen, labels[seen], held, labels[held]
        ),
    }


def arm(name, seed, parts, steps):
    train, clean, _, pixels, tests = parts
    method = fitted(name, train, seed, steps)
    rate = max(RATES, key=lambda r: right(method, pixels, seed, r))
    before = {k: right(method, d, seed) for k, d in tests.items()}
    after = {k: right(method, d, seed, rate) for k, d in tests.items()}
    return {
        f"{name}, clean": right(method, clean, seed),
        f"{name}, clean adapted": right(method, clean, seed, rate),
        f"{name}, damaged": mean(before.values()),
        f"{name}, adapted": mean(after.values()),
        f"{name}, gain": mean(after[k] - before[k] for k in tests),
        f"{name}, rate": rate,
    }


def control(seed, dataset, steps):
    return arm("joint", seed, parts_of(dataset, seed), steps)


def measure(seed, dataset, steps):
    parts = parts_of(dataset, seed)
    return {key: value for name in ARMS for key, value in arm(name, seed, parts, steps).items()}
