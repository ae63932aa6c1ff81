"""SSL4EO-S12 v1.1 (row 30): pairs of images that lie a few pixels off each other train worse than
aligned ones. Blumenstiel et al. 2025, arXiv:2503.00168, whose new version aligns the sensors.

Real tiles of Sentinel-2 (`sentinel2`): bands of 10 m and bands of 20 m of one place, CLIP between
them. A tile has a margin, so that the second image can be cut 3 of its pixels further down without
anything made up; the two arms see images of the same size and differ in where they are cut. The
held-out tiles are cut as the training ones. What is asked is Recall@1 among 320 tiles.

The other two claims of the paper are no matter of training: that a date of chunked shards is read
faster than files is measured by `python -m benchmarks zarr_shards`, and that the check of alignment
finds such a shift within a pixel by `amodal data check` and its tests. Known before: the control on
one seed of the pilot, with 100 steps (.19), 300 of larger batches (.32) and 600 (.57).
"""

from statistics import mean

import numpy as np

from amodal import data, methods
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import retrieval
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained, untrained
from amodal_claims._floors import simple_recall

CLAIM = (
    "A contrastive encoder of two sensors of one satellite finds the image of the other sensor more often where training pairs lie on each "
    "other than where one of them lies 3 pixels off."
)
DATA = "sentinel2"
ROW = 30
STEPS = (450, 600)
BATCH, RATE, WIDTH = 64, 2e-3, 64
FINE, COARSE = "s2_10m", "s2_20m"
SIDE, MARGIN, SHIFT = 16, 3, 3
"""Pixels of 20 m: of an image, beside it, and that the second one lies off."""
RECALL = "Recall@1, mean of both directions, 320 held-out tiles"
PRIMARY = Comparison(
    "aligned against 3 pixels off", RECALL, "recall: aligned", "recall: shifted", interest=0.1
)
SECONDARY = ()
FLOORS = ("chance", "untrained", "simple features")


def cut(tiles, shift):
    """The tiles with a margin cut off, the coarse image so many of its pixels further down."""
    columns = {FINE: [], COARSE: []}
    top, left, fine = MARGIN, MARGIN, 2 * MARGIN
    for i in range(len(tiles)):
        one, two = (tiles.value(i, name)[:, 1:] for name in (FINE, COARSE))
        columns[FINE].append(one[..., fine : fine + 2 * SIDE, fine : fine + 2 * SIDE])
        down = top + shift
        columns[COARSE].append(two[..., down : down + SIDE, left : left + SIDE])
    kind = type(tiles.fields[FINE])
    fields = {
        name: kind.infer(values[:100], bands=tiles.fields[name].bands, patch=patch)
        for (name, values), patch in zip(columns.items(), (8, 4))
    }
    made = data.open(columns, name="tiles", fields=fields)
    return made.with_parts(tiles.parts)


def clip(encoder):
    method = methods.build("clip", encoder, width=WIDTH)
    method.views = ("plain",)
    return method


def recall(method, tiles):
    embedded = embed_records(method.encoder, tiles, tiles.split("test"), labels=False)
    rows = retrieval(None, embedded, recall_at=(1,)).rows
    return mean(row["value"] for row in rows if row["metric"] == "recall@1")


def of_arm(arm, seed, dataset, steps):
    tiles = cut(dataset, SHIFT if arm == "shifted" else 0)
    budget = Budget(steps, BATCH, (RATE,))
    train = np.random.default_rng([seed, ROW]).permutation(tiles.split("train"))[:640]
    return recall(trained(tiles, np.sort(train), clip, budget, seed, RATE), tiles)


def floors(seed, dataset):
    tiles = cut(dataset, SHIFT)
    train, test = tiles.split("train"), tiles.split("test")
    begun = untrained(tiles, clip, Budget(1, BATCH), seed).eval()
    return {
        "chance": 1 / len(test),
        "untrained": recall(begun, tiles),
        "simple features": simple_recall(tiles, train, test, k=1),
    }


def control(seed, dataset, steps):
    return {"recall: shifted": of_arm("shifted", seed, dataset, steps)}


def measure(seed, dataset, steps):
    return {f"recall: {arm}": of_arm(arm, seed, dataset, steps) for arm in ("aligned", "shifted")}
