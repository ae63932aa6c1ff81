"""Galileo (row 29): deep targets far away and shallow ones nearby, each alone and both. Tseng et al.,
ICML 2025, arXiv:2502.09356.

Real colour, relief and climate of the Earth (tiles of 3 degrees, blocks of which are never divided)
in place of satellites, and two things to be read off the colour alone, linearly: the climate zone of
a tile of land, and whether a patch of it is land or sea. The mean of both accuracies decides, as the
claim is about being good at both kinds. Arms are the page with both tasks and with one of them, at
the same rate, batch and steps. The control is the local task alone, which learns patches.
"""

import numpy as np
import torch

from amodal import methods
from amodal.core import Batch, Column
from amodal.nn.patch_vectors import patch_features
from amodal_claims import Comparison
from amodal_claims._arms import Budget, features, labelled, probe, trained, untrained
from amodal_claims._floors import simple_probe

CLAIM = (
    "Predicting deep features of distant groups and shallow features of scattered tokens together gives a higher mean accuracy of linear "
    "probes of the climate zone of tiles and of land in patches than the shallow ones alone."
)
DATA = "globe"
STEPS = (150, 300)
ROW, BATCH, RATE = 29, 128, 2e-3
FIELDS = ("colour", "relief", "climate")
ARMS = ("both", "global", "local")
TILES = 800
"""Of which patches are read, of each part."""
MEAN = "accuracy, mean of zones of tiles and land in patches, from colour"
PRIMARY = Comparison(
    "both tasks against the local one", MEAN, "mean: both", "mean: local", interest=0.02
)
SECONDARY = (
    Comparison("both tasks against the global one", MEAN, "mean: both", "mean: global"),
    Comparison("zones: global against local", "accuracy", "zones: global", "zones: local"),
    Comparison("patches: local against global", "accuracy", "patches: local", "patches: global"),
)
FLOORS = ("chance", "untrained", "simple features")


def made(task):
    return lambda encoder: methods.build("galileo", encoder, tasks=task)


def tiles(dataset, part, seed):
    """Tiles of which a tenth to nine tenths are land."""
    rows, share = dataset.split(part), dataset.label("land")
    rows = rows[(share[rows] > 0.1) & (share[rows] < 0.9)]
    return np.sort(np.random.default_rng([seed, ROW]).permutation(rows)[:TILES])


def land(dataset, rows):
    """(patches,) land or sea, of 4 by 4 patches of each tile in reading order."""
    metres = np.stack([dataset.value(int(i), "relief")[0] for i in rows]) * 65535 - 12000
    share = (metres > 0).reshape(len(rows), 4, 8, 4, 8).mean((2, 4)).ravel()
    return np.where(share > 0.5, "land", "sea")


def patches(dataset, rows, encoder=None):
    """(patches, D) of colour: of an encoder, or pixels."""
    modality = dataset.fields["colour"]
    values = modality.collate([dataset.value(int(i), "colour") for i in rows])
    if encoder is None:
        flat = modality.targets(values).flatten(1)
    else:
        column = Column(values, torch.arange(len(rows)))
        with torch.no_grad():
            flat = patch_features(encoder, Batch.of(len(rows), {"colour": column}), "colour").x
    return Column(flat.float(), torch.arange(len(flat)))


def zones(dataset):
    train, test = labelled(dataset, "train", "zone"), labelled(dataset, "test", "zone")
    return train, test, dataset.label("zone")


def scores(arm, encoder, dataset, seed):
    train, test, labels = zones(dataset)
    by_tile = probe(
        features(encoder, dataset.select(["colour"]), train)["colour"],
        labels[train],
        features(encoder, dataset.select(["colour"]), test)["colour"],
        labels[test],
    )
    seen, unseen = (tiles(dataset, part, seed) for part in ("train", "test"))
    by_patch = probe(
        patches(dataset, seen, encoder),
        land(dataset, seen),
        patches(dataset, unseen, encoder),
        land(dataset, unseen),
    )
    return {
        f"zones: {arm}": by_tile,
        f"patches: {arm}": by_patch,
        f"mean: {arm}": (by_tile + by_patch) / 2,
    }


def chosen(dataset):
    return dataset.select(FIELDS)


def of_arm(arm, seed, dataset, steps):
    globe, budget = chosen(dataset), Budget(steps, BATCH, (RATE,))
    options = methods.encoder_options("galileo")
    rows = globe.split("train")
    method = trained(globe, rows, made(arm), budget, seed, RATE, **options)
    return scores(arm, method.encoder.eval(), globe, seed)


def floors(seed, dataset):
    globe = chosen(dataset)
    begun = untrained(
        globe, made("both"), Budget(0, BATCH), seed, **methods.encoder_options("galileo")
    )
    train, test, labels = zones(globe)
    seen, unseen = (tiles(globe, part, seed) for part in ("train", "test"))
    truth, wanted = land(globe, seen), land(globe, unseen)
    simple = simple_probe(globe.select(["colour"]), train, labels[train], test, labels[test])
    pixels = probe(patches(globe, seen), truth, patches(globe, unseen), wanted)
    usual = [np.unique(x, return_counts=True)[1].max() / len(x) for x in (labels[test], wanted)]
    return {
        "chance": float(np.mean(usual)),
        "untrained": scores("begun", begun.encoder.eval(), globe, seed)["mean: begun"],
        "simple features": (simple + pixels) / 2,
    }


def control(seed, dataset, steps):
    return of_arm("local", seed, dataset, steps)


def measure(seed, dataset, steps):
    return {k: v for arm in ARMS for k, v in of_arm(arm, seed, dataset, steps).items()}
