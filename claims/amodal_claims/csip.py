"""CSIP (row 3): pictures of the ground that have learnt from heights predict what stands out of it,
where labels are few. Corley and Najafirad, arXiv:2202.13251. Real colour and relief of the Earth
(tiles of 3 degrees, blocks of which are never divided) in place of aerial photographs and
buildings. Two dense tasks that see colour alone, with 100 labelled examples, fine-tuned end to end
with the same steps, batch and rates: which pixels are above 500 m; and which pixels changed in
height by more than 500 m between two pictures, which are GENERATED (real tiles with a piece of
another tile pasted in and another brightness, because no set here has change; heights below the sea
count as 0). Arms: csip, SimCLR on colour at the same steps, no pretraining."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from amodal import data, methods
from amodal.core import Batch, Column
from amodal.core.column import shared_rows
from amodal.methods.contract import Features, Method
from amodal.methods.shared.regions import alone
from amodal.nn.heads.dense import DenseHead, SiameseHead
from amodal.objectives.common import connected_zero
from amodal.stats.mask_overlap import f1_and_iou
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit, trained, untrained

CLAIM = (
    "An encoder of colour that was pretrained against heights gives a higher F1 of pixels above 500 m, and of pixels whose height changed, "
    "with 100 labelled tiles, than no pretraining and than SimCLR on colour at equal steps."
)
DATA = "globe"
SEEDS = 5
BUDGET = Budget(steps=200, batch=128, rates=(2e-3,))
TUNING = Budget(steps=100, batch=32, rates=(1e-3, 4e-3))
WIDTH, LABELLED, PAIRS, HIGH = 64, 100, 200, 500.0
ARMS = {"csip": {"width": WIDTH, "image": "colour"}, "simclr": {"width": WIDTH}, "none": {}}
TASKS = ("high ground", "change")
COMPARISONS = tuple(
    Comparison(
        f"{task}: csip against {other}",
        "F1 of pixels, held out",
        f"F1 {task}: csip",
        f"F1 {task}: {arm}",
    )
    for task in TASKS
    for arm, other in (("none", "no pretraining"), ("simclr", "SimCLR"))
)


class Dense(Method):
    """A mask predicted from one picture, or from two; the encoder reads them as its field "colour"."""

    def __init__(self, encoder: nn.Module, pictures: tuple[str, ...]):
        super().__init__()
        tile = encoder.fields["colour"].tile
        self.encoder, self.pictures, self.side = (
            encoder,
            pictures,
            encoder.fields["colour"].size // tile,
        )
        self.head = (DenseHead if len(pictures) == 1 else SiameseHead)(
            encoder.width, tile, hidden=2 * encoder.width
        )

    def features(self, batch: Batch) -> Features:
        seen = {f"colour:{i}": batch[name] for i, name in enumerate(self.pictures, 1)}
        context = alone(self.encoder, replace(batch, columns=seen))
        logits = self.head(*(context[s].x for s in seen), self.side)
        return Features(
            {"logits": Column(logits, batch[self.pictures[0]].rows), "mask": batch["mask"]},
            batch.size,
        )

    def losses(self, features: Features) -> dict[str, torch.Tensor]:
        at, at_mask = shared_rows(features["logits"], features["mask"])
        logits, mask = features["logits"].values[at], features["mask"].values[at_mask]
        return {
            "cross_entropy": cross_entropy(logits, mask.round())
            if len(at)
            else connected_zero(logits)
        }

    @torch.no_grad()
    def scored(self, dataset) -> tuple[float, float]:
        [batch] = data.Loader(dataset, range(len(dataset)), batch=len(dataset), shuffle=False)
        found = self.features(batch)
        return f1_and_iou(found["logits"].values > 0, found["mask"].values > 0.5)


def tuned(encoder, pictures, sets, seed):
    """F1 and IoU on sets["test"] after fine-tuning on sets["train"] at the rate of the best F1 on
    sets["valid"]."""
    found = []
    for rate in TUNING.rates:
        torch.manual_seed(seed)
        method = Dense(copy.deepcopy(encoder).train(), pictures)
        fit(method, sets["train"], range(len(sets["train"])), TUNING, seed, rate)
        found.append((method.scored(sets["valid"])[0], method))
    return max(found, key=lambda pair: pair[0])[1].scored(sets["test"])


def opened(pictures, masks, colour):
    """The examples of a dense task as a dataset."""
    fields = dict.fromkeys(pictures, colour) | {
        "mask": replace(colour, channels=1, mean=(0.0,), std=(1.0,))
    }
    masks = [255 * m.astype(np.uint8) for m in masks]
    return data.open(pictures | {"mask": masks}, name="masks of the Earth", fields=fields)


def high_ground(earth, heights, part, rng, most):
    """Tiles of which a tenth to nine tenths are high."""
    rows = earth.split(part)
    share = (heights[rows] > HIGH).mean((1, 2))
    rows = rng.permutation(rows[(share > 0.1) & (share < 0.9)])[:most]
    pictures = {"picture": [earth.value(int(i), "colour").transpose(1, 2, 0) for i in rows]}
    return opened(pictures, [heights[i] > HIGH for i in rows], earth.fields["colour"])


def change(earth, heights, part, rng, most):
    """Pairs: a tile with land, and the same with an ellipse of another such tile, 15 % lighter or
    darker at most."""
    rows = earth.split(part)
    rows = rows[(heights[rows] > 0).mean((1, 2)) > 0.3]
    y, x = np.mgrid[:32, :32]
    pictures, masks = {"before": [], "after": []}, []
    for _ in range(most):
        i, j = rng.choice(rows, 2, replace=False)
        middle, radius = rng.uniform(6, 26, 2), rng.uniform(5, 12, 2)
        pasted = ((y - middle[0]) / radius[0]) ** 2 + ((x - middle[1]) / radius[1]) ** 2 < 1
        one, other = (earth.value(int(k), "colour").transpose(1, 2, 0) for k in (i, j))
        after = np.where(pasted[..., None], other, one) * rng.uniform(0.85, 1.15)
        pictures["before"].append(one)
        pictures["after"].append(after.clip(0, 255).astype(np.uint8))
        masks.append(pasted & (np.abs(heights[i] - heights[j]) > HIGH))
    return opened(pictures, masks, earth.fields["colour"])


def measure(seed, dataset):
    earth = dataset.select(("colour", "relief"))
    metres = [earth.value(i, "relief")[0] * 65535 - 12000 for i in range(len(earth))]
    heights, rng, found = np.maximum(np.stack(metres), 0), np.random.default_rng([seed, 1]), {}
    encoders = {}
    for arm, options in ARMS.items():
        seen = earth.select(["colour"]) if arm == "simclr" else earth
        make = partial(methods.build, "csip" if arm == "none" else arm, **options)
        if arm == "none":
            encoders[arm] = untrained(seen, make, BUDGET, seed).encoder
        else:
            encoders[arm] = trained(
                seen, seen.split("train"), make, BUDGET, seed, BUDGET.rates[0]
            ).encoder
    for task, build in zip(TASKS, (high_ground, change)):
        sizes = {"train": LABELLED, "valid": LABELLED, "test": PAIRS}
        sets = {part: build(earth, heights, part, rng, most) for part, most in sizes.items()}
        names = tuple(f for f in sets["train"].fields if f != "mask")
        for arm, encoder in encoders.items():
            found[f"F1 {task}: {arm}"], found[f"IoU {task}: {arm}"] = tuned(
                encoder, names, sets, seed
            )
    return found
