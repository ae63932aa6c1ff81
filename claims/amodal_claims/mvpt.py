"""MVPt (row 127): music for animations, by segments in the context of their track, against segments
on their own. Suris et al., arXiv:2206.07148. Music is real (music21's scores, as features of each
quarter note); the animations are GENERATED from it, since no package holds music videos: speed
follows how many notes begin, height their pitch, size how many sound, colour the harmony, each with
a gain and an offset that are drawn for the track and stay hidden, with noise, beside three channels
that have nothing to do with the music. So what belongs together shows mostly in the course of a
track: the condition under which the paper expects context to help was put into the data, and what
is tested is whether the method makes use of it. Tracks are 64 quarters in 8 segments; those of test
pieces are looked at once. All arms take as many steps, of as many segments, at one learning rate.
"""

from functools import partial

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import data, methods
from amodal.core import Embeddings
from amodal.data import Loader
from amodal.evaluate.protocols.retrieval import ranked
from amodal.modalities.series import Series
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit, untrained

CLAIM = (
    "Finding music for animations and the reverse, held-out pieces: segments in context beat segments that are matched on their own, by "
    "track (their mean) and by segment; the order of segments matters, by track; and the loss between segments beside that between tracks "
    "helps to find segments."
)
DATA = "music"
SEEDS = 5
BUDGET = Budget(steps=200, batch=32, rates=(2e-3,))
QUARTERS, SEGMENT, MOST = 64, 8, 3  # of a track; of a segment; tracks of a piece
FIELDS, FIFTHS = ("music", "video"), 7 * 2 * np.pi / 12
BY_TRACK, BY_SEGMENT = (
    "Recall@10, mean of both directions, held-out tracks",
    "Recall@10, mean of both directions, held-out segments",
)
COMPARISONS = (
    Comparison("tracks: context against segments alone", BY_TRACK, "track: context", "track: alone"),
    Comparison("segments: context against segments alone", BY_SEGMENT, "segment: context", "segment: alone"),
    Comparison("tracks: in order against shuffled", BY_TRACK, "track: context", "track: shuffled"),
    Comparison("segments: both losses against that of tracks", BY_SEGMENT, "segment: context", "segment: tracks only"),
)  # fmt: skip


def beats(notes, pitches):
    """(T, 16) float32, of each quarter: how many notes begin (log), how many sound, their mean
    height and range, and pitch classes."""
    last = int(notes[:, 0].max()) + 1
    out = np.zeros((last, 16), np.float32)
    begin, end = notes[:, 0], notes[:, 0] + notes[:, 3]
    height = 12 * notes[:, 2] + pitches
    for t in range(last):
        here = (begin < t + 1) & (end > t)
        out[t, :2] = np.log1p((np.floor(begin) == t).sum()), here.sum()
        if here.any():
            out[t, 2:4] = height[here].mean(), np.ptp(height[here])
            np.add.at(out[t, 4:], pitches[here].astype(int), 1 / here.sum())
        elif t:
            out[t, 2] = out[t - 1, 2]
    return out


def animated(music, rng):
    """(T, 8): five channels that follow the music, as this track's director has it, and three that
    do not."""
    circle = FIFTHS * np.arange(12)
    led = [
        music[:, 0],
        music[:, 2] / 12,
        music[:, 1] / 2,
        2 * music[:, 4:] @ np.cos(circle),
        2 * music[:, 4:] @ np.sin(circle),
    ]
    led = np.exp(rng.normal(0, 0.3, 5)) * np.stack(led, 1) + rng.normal(0, 1.5, 5)
    free = rng.normal(0, 0.5, (len(music), 3)).cumsum(0)
    return np.concatenate([led + rng.normal(0, 0.3, led.shape), free - free.mean(0)], 1).astype(
        np.float32
    )


def tracks(dataset, seed):
    """Part -> the tracks of its pieces, each (music, video): another division and other animations
    for each seed."""
    rng = np.random.default_rng([seed, 1])
    found = {"train": [], "test": []}
    for place, i in enumerate(rng.permutation(len(dataset))):
        notes = dataset.value(int(i), "notes")
        music = beats(notes, notes[:, 1])
        part = "test" if place < 0.3 * len(dataset) else "train"
        cuts = [music[a : a + QUARTERS] for a in range(0, len(music) - QUARTERS + 1, QUARTERS)][
            :MOST
        ]
        found[part] += [(m, animated(m, rng)) for m in cuts]
    return found


def opened(pairs, fields=None):
    """Tracks or segments as a dataset of two series, a segment a token."""
    columns = {s: [p[k] for p in pairs] for k, s in enumerate(FIELDS)}
    channels = {"music": 16, "video": 8}
    fields = fields or {
        s: Series.infer(
            columns[s], channels=tuple(f"{s}{c}" for c in range(channels[s])), patch=SEGMENT
        )
        for s in FIELDS
    }
    return data.open(columns, fields=fields)


def cut(pairs):
    return [
        tuple(v[a : a + SEGMENT] for v in pair)
        for pair in pairs
        for a in range(0, QUARTERS, SEGMENT)
    ]


def shuffled(pairs, rng):
    """The segments of each track in an order of its own for each modality."""
    shape = (QUARTERS // SEGMENT, SEGMENT, -1)
    return [
        tuple(v.reshape(shape)[rng.permutation(shape[0])].reshape(QUARTERS, -1) for v in pair)
        for pair in pairs
    ]


@torch.no_grad()
def vectors(method, dataset):
    """(N, 8, D) for each modality, the unit vectors of segments, and (N, D) of tracks; their mean
    where there is nothing but segments."""
    seen = [
        method.features(b)
        for b in Loader(dataset, range(len(dataset)), batch=64, shuffle=False, views=("plain",))
    ]
    z = Embeddings.stack(seen)
    alone = f"segments/{FIELDS[0]}" not in z
    flat = {s: z[s].values if alone else z[f"segments/{s}"].values.flat for s in FIELDS}
    each = {s: normalize(v, dim=1).unflatten(0, (-1, QUARTERS // SEGMENT)) for s, v in flat.items()}
    return each, {s: each[s].mean(1) if alone else z[f"tracks/{s}"].values for s in FIELDS}


def recalls(method, dataset):
    """Recall@10 of tracks and of segments, mean of both directions."""
    both = []
    segments, whole = vectors(method, dataset)
    for z in (whole, {s: v.flatten(0, 1) for s, v in segments.items()}):
        ways = (ranked(z[a], z[b], recall_at=(10,))[0]["value"] for a, b in (FIELDS, FIELDS[::-1]))
        both.append(sum(ways) / 2)
    return both


def measure(seed, dataset):
    parts = tracks(dataset, seed)
    fields = opened(parts["train"]).fields
    rng = np.random.default_rng([seed, 2])
    made = {
        "context": ({p: opened(v, fields) for p, v in parts.items()}, partial(methods.build, "mvpt", width=64), 1),
        "alone": ({p: opened(cut(v), fields) for p, v in parts.items()}, partial(methods.build, "clip", width=64), QUARTERS // SEGMENT),
    }  # fmt: skip
    mixed = {p: opened(shuffled(v, rng), fields) for p, v in parts.items()}
    made["shuffled"] = (mixed, made["context"][1], 1)
    made["tracks only"] = (
        made["context"][0],
        partial(methods.build, "mvpt", width=64, segment=0.0),
        1,
    )
    found = {}
    for arm, (sets, make, times) in made.items():
        budget = Budget(BUDGET.steps, BUDGET.batch * times, BUDGET.rates)
        method = untrained(sets["train"], make, budget, seed, pool="cls")
        method.views = ("plain",)
        fit(method, sets["train"], range(len(sets["train"])), budget, seed, *budget.rates)
        found[f"track: {arm}"], found[f"segment: {arm}"] = recalls(method, sets["test"])
    return found
