"""SSMA (row 6): gates for each place let through what a modality has to say there, and shut where it
is spoilt. Valada, Mohan and Burgard, arXiv:1808.03833. GENERATED scenes in colour and depth
(`tabletop`), because the place of what is spoilt must be known: fog over a third of the colour, or
a hole in the depth. Half of the training scenes are spoilt, in one modality each. Arms, of the same
encoders, maps, decoder, steps and rate: gates; plain concatenation; experts averaged late, which
spend all steps alone; colour and depth stacked into one picture of four channels. mIoU of six
classes on 150 test scenes, as they are and spoilt; the gap is the lead on spoilt scenes less that
on whole ones. Gates: AUC with which the mean gate of the spoilt modality (at the deepest fusion) is
lower inside than outside; a cell of the grid is spoilt if half of it is."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from amodal import data, methods
from amodal.methods.contract import Features
from amodal.methods.shared.dense import class_map, maps_of
from amodal.stats.auroc import auroc
from amodal.stats.mask_overlap import mean_iou
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained
from amodal_claims.sets import tabletop

CLAIM = (
    "Gated fusion of maps gives a higher mean IoU than plain concatenation, late averaging and stacked channels, by more where one "
    "modality is spoilt, and the gate of the spoilt modality is lower where it is spoilt."
)
DATA = "tabletop"
SEEDS = 5
BUDGET = Budget(steps=120, batch=20, rates=(3e-3,))
SCENES = {"train": 400, "test": 150}
CLASSES = 1 + len(tabletop.THINGS)
SMALL = {"label": "areas", "classes": CLASSES, "width": 32, "skip": 8}
ARMS = {
    "gates": {},
    "concatenation": {"gated": False},
    "late": {"alone": 1.0, "fixed": 0.0},
    "stacked": {"gated": False},
}
COMPARISONS = (
    *(
        Comparison(f"gates against {arm}, whole scenes", "mIoU", "whole: gates", f"whole: {arm}")
        for arm in [*ARMS][1:]
    ),
    *(
        Comparison(f"gates against {arm}, spoilt scenes", "mIoU", "spoilt: gates", f"spoilt: {arm}")
        for arm in [*ARMS][1:]
    ),
    *(
        Comparison(
            f"the lead over {arm} grows where a modality is spoilt",
            "mIoU",
            f"lead spoilt: {arm}",
            f"lead whole: {arm}",
        )
        for arm in ("concatenation", "late")
    ),
    *(
        Comparison(
            f"the gate of {field} is lower where it is spoilt",
            "AUC of cells",
            f"gate: {field}",
            0.5,
        )
        for field in ("colour", "depth")
    ),
)


def made(dataset, rows, rng, share):
    """The scenes of `rows`, this share of them spoilt in one modality, with all arms' fields; which
    modality (n,), "" for none, and where."""
    columns, fields, places = {"colour": [], "depth": [], "both": [], "areas": []}, [], []
    for i in rows:
        colour, depth, areas = (
            dataset.value(int(i), name) for name in ("colour", "depth", "areas")
        )
        colour, depth, where = colour.transpose(1, 2, 0), depth[0], np.zeros(depth[0].shape, bool)
        field = str(rng.choice(("colour", "depth"))) if rng.random() < share else ""
        if field:
            colour, depth, where = tabletop.spoilt(colour, depth, rng, field)
        both = np.concatenate([colour, depth[..., None]], 2).transpose(2, 0, 1) / np.float32(255)
        for name, value in zip(columns, (colour, depth, both, areas[0])):
            columns[name].append(value)
        fields.append(field)
        places.append(where)
    colour, depth = dataset.fields["colour"], dataset.fields["depth"]
    both = replace(colour, channels=4, mean=colour.mean + depth.mean, std=colour.std + depth.std)
    return (
        data.open(columns, name="scenes", fields=dataset.fields | {"both": both}),
        np.array(fields),
        np.stack(places),
    )


def loaded(scenes, arm):
    [batch] = data.Loader(
        scenes.select(fields_of(arm)), range(len(scenes)), batch=len(scenes), shuffle=False
    )
    return batch


def fields_of(arm):
    return ("both", "areas") if arm == "stacked" else ("colour", "depth", "areas")


def iou(method, batch):
    truth = class_map(batch["areas"].values)
    return mean_iou(method.probabilities(batch, tabletop.SIDE).values.argmax(1), truth, CLASSES)


@torch.no_grad()
def gate_auc(method, batch, fields, places):
    """Modality -> how well its mean gate separates the cells that are spoilt from the others of the same
    scenes."""
    z = Features(maps_of(method.encoder, batch, method.sides), batch.size)
    gates = method.network.gates(z, torch.arange(batch.size)).numpy()
    side = gates.shape[2]
    cells = places.reshape(len(places), side, tabletop.SIDE // side, side, -1).mean((2, 4)) >= 0.5
    return {
        f"gate: {s}": auroc(-gates[fields == s, k].ravel(), cells[fields == s].ravel())
        for k, s in enumerate(method.sides)
    }


def measure(seed, dataset):
    rng, found = np.random.default_rng([seed, 6]), {}
    chosen = {part: rng.permutation(dataset.split(part))[:most] for part, most in SCENES.items()}
    training, _, _ = made(dataset, chosen["train"], rng, 0.5)
    whole, _, _ = made(dataset, chosen["test"], rng, 0.0)
    hurt, fields, places = made(dataset, chosen["test"], rng, 1.0)
    for arm, options in ARMS.items():
        seen = training.select(fields_of(arm))
        make = partial(methods.build, "ssma", **(SMALL | options))
        method = trained(seen, range(len(seen)), make, BUDGET, seed, BUDGET.rates[0])
        for kind, scenes in (("whole", whole), ("spoilt", hurt)):
            found[f"{kind}: {arm}"] = iou(method, loaded(scenes, arm))
            found[f"lead {kind}: {arm}"] = found[f"{kind}: gates"] - found[f"{kind}: {arm}"]
        if arm == "gates":
            found |= gate_auc(method, loaded(hurt, arm), fields, places)
    return found
