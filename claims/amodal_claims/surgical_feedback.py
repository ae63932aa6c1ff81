"""Surgical feedback (row 63): does a remark change what is done? Remark and clip together, after an
encoder went on in its own domain. Gupta et al., ML4H 2024, arXiv:2411.10919. No surgical video is
in any package. In its place: the accelerometer of a smartwatch, seven real exercises of ten real
people; remarks and what follows from them are GENERATED.

In each of the 416 windows a trainer makes two of eight remarks, at random times and in one of three
wordings. Whether behaviour changes depends on the remark, on the exercise and on both together (log
odds, drawn once, of deviations 0.8, 0.8 and 1.2). A clip is the 4 s around a remark. The generic
encoder is a masked autoencoder of three leads of generated electrocardiograms; it goes on, with the
page's method, on all clips (as in the paper, without outcomes, but those of people to test on are
among them). Three quarters of the tokens are hidden in both, since twenty tokens of one place have
no tubes; both domains are standardised. The text tower stays as it began, untrained, for lack of a
pretrained one; the remarks can be distinguished in it. Probe: a perceptron with 32 hidden units of
standardised vectors, classes weighed alike. AUROC is a mean over five folds of people.

The control is the yardstick of a remark itself, tf-idf of its words with the same probe; it has to
do better than chance and than a clip through the encoder before its first step. Beside it, what
simple features of the clip are worth to it. An earlier form of this claim had four comparisons that
decided together, and .741 for remark and clip, .698 for the remark by the untrained tower."""

from functools import lru_cache

import numpy as np
import torch

from amodal import data, methods
from amodal.data import sets
from amodal.data.clips import around
from amodal.evaluate.grouped_cv import grouped, probe, side_by_side
from amodal.modalities import make
from amodal.modalities.series import Series
from amodal_claims import Comparison
from amodal_claims._arms import Budget, features, fit, untrained
from amodal_claims._floors import simple_pair

CLAIM = (
    "A remark and the clip around it, read by an encoder that went on with masked reconstruction on unlabelled clips of the domain, predict "
    "whether behaviour changes with a higher AUROC than the remark alone."
)
DATA = "watch"
STEPS = (200,)
BATCH, GENERIC_RATE, DOMAIN_RATE = 64, 2e-3, 1e-3
RATE, BEFORE, AFTER, REMARKS_EACH = 50.0, 1.0, 3.0, 2
REMARKS = {
    "slow": ("go slower", "not so fast, slower", "take more time"),
    "higher": ("lift your arm higher", "higher please", "bring it further up"),
    "elbow": ("keep the elbow still", "do not move your elbow", "elbow to the side"),
    "good": ("well done", "that is good", "very nice"),
    "shoulder": ("relax the shoulder", "drop your shoulder", "shoulder down"),
    "again": ("once more", "do that again", "another one"),
    "back": ("straighten your back", "back straight", "do not lean"),
    "grip": ("hold it tighter", "firm grip", "do not let go"),
}
AUROC = "AUROC, people held out"
PRIMARY = Comparison(
    "remark and clip against the remark",
    AUROC,
    "both, continued",
    "remark",
    # Of practice: a tenth of the way from chance to certainty.
    interest=0.05,
)
SECONDARY = (
    Comparison(
        "remark and clip against the remark and simple features of the clip",
        AUROC,
        "both, continued",
        "both, simple",
    ),
    Comparison(
        "both: going on in the domain against the generic encoder",
        AUROC,
        "both, continued",
        "both, generic",
    ),
)
FLOORS = ("chance", "untrained")
FIELDS = {
    "clip": Series(
        channels=("x", "y", "z"),
        rate=RATE,
        patch=10,
        max_steps=200,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    ),
    "remark": make("text", max_length=24, patch=2),
}


@lru_cache(1)
def effects(exercises):
    """Log odds of a change: of remarks (8, 1), of exercises (1, 7), of both together (8, 7)."""
    rng = np.random.default_rng(63)
    kinds = len(REMARKS)
    return [
        rng.normal(size=shape) * s
        for shape, s in (((kinds, 1), 0.8), ((1, exercises), 0.8), ((kinds, exercises), 1.2))
    ]


def events(dataset, seed):
    """Clips and remarks, whether behaviour changed (N,), and who it was (N,)."""
    rng, labels, people = (
        np.random.default_rng([seed, 63]),
        dataset.label("exercise"),
        dataset.label("subject"),
    )
    names, odds = sorted(set(labels)), sum(effects(len(set(labels))))
    clips, remarks, changed, who = [], [], [], []
    for i in range(len(dataset)):
        motion = dataset.value(i, "accelerometer")
        times = rng.uniform(0, len(motion) / RATE, REMARKS_EACH)
        clips += around(motion, times, rate=RATE, before=BEFORE, after=AFTER)
        for kind in rng.integers(len(REMARKS), size=REMARKS_EACH):
            remarks.append(str(rng.choice(list(REMARKS.values())[kind])))
            changed.append(rng.random() < 1 / (1 + np.exp(-odds[kind, names.index(labels[i])])))
            who.append(people[i])
    return (
        data.open({"clip": standard(clips), "remark": remarks}).with_fields(FIELDS),
        np.array(changed),
        np.array(who),
    )


def standard(clips):
    """Of mean 0 and deviation 1 in each channel, over all of them."""
    flat = np.concatenate(clips)
    mean, spread = flat.mean(0), flat.std(0)
    return [((c - mean) / spread).astype(np.float32) for c in clips]


@lru_cache(1)
def other_series():
    """Three leads of electrocardiograms, as if they were axes, and no remarks."""
    sets.ensure("heartbeats")
    hearts = data.open("heartbeats").select(["ecg"])
    clips = [hearts.value(i, "ecg")[:200, :3] for i in range(len(hearts))]
    return data.open({"clip": standard(clips), "remark": ["-"] * len(clips)}).with_fields(FIELDS)


def made(encoder):
    return methods.build("surgical_feedback", encoder, ratio=0.75)


def judged(vectors, changed, who, seed):
    """AUROC of the probe, people held out."""
    fit_one = probe(hidden=32, seed=seed)
    return grouped(vectors, changed, who, fit=fit_one, repeats=1, seed=seed).mean


def simple(dataset, field):
    """Simple features, which need no outcome: tf-idf of remarks, statistics of clips."""
    every = range(len(dataset))
    return simple_pair(dataset.select([field]), every, every)[0].features[field].values.float()


def vectors(method, dataset, field):
    with torch.no_grad():
        return features(method.eval().encoder, dataset.select([field]), range(len(dataset)))[
            field
        ].values.float()


def floors(seed, dataset):
    here, changed, who = events(dataset, seed)
    before = untrained(other_series(), made, Budget(1, BATCH), seed)
    return {
        "chance": 0.5,
        "untrained": judged(vectors(before, here, "clip"), changed, who, seed),
    }


def control(seed, dataset, steps):
    here, changed, who = events(dataset, seed)
    return {"remark": judged(simple(here, "remark"), changed, who, seed)}


def measure(seed, dataset, steps):
    elsewhere, (here, changed, who) = other_series(), events(dataset, seed)
    generic, domain = (Budget(steps, BATCH, (r,)) for r in (GENERIC_RATE, DOMAIN_RATE))
    method = untrained(elsewhere, made, generic, seed)
    fit(method, elsewhere, range(len(elsewhere)), generic, seed, GENERIC_RATE)
    clip = {"generic": vectors(method, here, "clip")}
    fit(method.train(), here, range(len(here)), domain, seed, DOMAIN_RATE)
    clip |= {"continued": vectors(method, here, "clip"), "simple": simple(here, "clip")}
    remark = simple(here, "remark")
    inputs = {f"both, {a}": side_by_side([remark, x]) for a, x in clip.items()}
    found = {arm: judged(x, changed, who, seed) for arm, x in inputs.items()}
    return found | control(seed, dataset, steps)
