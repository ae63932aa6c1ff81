"""UDA-COPE (row 73): pseudo labels that geometry has checked carry poses from rendered objects to
sensed ones. Lee et al., CVPR 2022, arXiv:2111.12580. GENERATED views of mugs, chairs and cars
(`poses`), because the pose must be known exactly and no set here has real ones: rendered views with
coordinates are the source; sensed views (other colours and light, clutter, noise, flying pixels,
holes) without are the target. Arms, of the same network, steps and rate, on the same batches of
both: source alone; a teacher's raw pseudo labels; filtered ones (UDA-COPE); the truth of the target
too. Source and teacher share the steps half and half. Test objects are never seen in training;
their sensed views are measured once: share of poses at most 20 degrees and 5 cm off, and the mean
turn."""

from functools import partial

import torch

from amodal import data, methods
from amodal.stats.pose_error import pose_accuracy, rotation_angle
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained
from amodal_claims.sets import poses

CLAIM = (
    "Without labels of the target, a teacher whose pseudo labels pass the bidirectional filter gives more right poses of sensed objects "
    "than training on the source alone and than raw pseudo labels, and closes more than half of the gap to training on the target's truth."
)
DATA = "poses"
SEEDS = 5
BUDGET = Budget(steps=150, batch=24, rates=(3e-3,))
DEGREES, DECIMETRES = 20.0, 0.5
SMALL = {"labelled": "rendered", "bins": 16, "hidden": 128, "momentum": 0.95, "tries": 30}
ARMS = {
    "source": {"source": 1.0},
    "raw": {"filtered": False},
    "filtered": {},
    "truth": {"source": 1.0, "labelled": ""},
}
COMPARISONS = (
    Comparison(
        "filtered against the source alone",
        "poses within 20 degrees, 5 cm",
        "right: filtered",
        "right: source",
    ),
    Comparison(
        "filtered against raw pseudo labels",
        "poses within 20 degrees, 5 cm",
        "right: filtered",
        "right: raw",
    ),
    Comparison(
        "filtered against half of the way to the truth",
        "poses within 20 degrees, 5 cm",
        "right: filtered",
        "right: halfway",
    ),
    Comparison(
        "the source alone turns further from the truth than filtered",
        "mean turn, degrees",
        "turn: source",
        "turn: filtered",
    ),
)


def measured(method, dataset, rows):
    """The share of right poses and the mean turn of the records `rows`."""
    [batch] = data.Loader(dataset, rows, batch=len(rows), shuffle=False, labels=poses.POSE)
    found, truth = (
        method.poses(batch),
        {name: batch.labels[name].values.double() for name in poses.POSE},
    )
    rotation = torch.stack(
        [
            torch.from_numpy(poses.pose(*pair))
            for pair in zip(truth["turn"].tolist(), truth["tilt"].tolist())
        ]
    )
    centre = found(torch.full((len(rows), 1, 3), 0.5, dtype=torch.float64))[
        :, 0
    ]  # where the object's middle was put
    degrees = rotation_angle(found.rotation, rotation)
    distance = (centre - torch.stack([truth[x] for x in "xyz"], 1)).norm(dim=1)
    return pose_accuracy(degrees, distance, DEGREES, DECIMETRES), float(degrees.mean())


def sensed(dataset, part):
    return [int(i) for i in dataset.split(part) if dataset.label("rendered")[i] is None]


def measure(seed, dataset):
    training, test, found = dataset.split("train"), sensed(dataset, "test"), {}
    for arm, options in ARMS.items():
        make = partial(methods.build, "uda_cope", **(SMALL | options))
        method = trained(dataset, training, make, BUDGET, seed, BUDGET.rates[0])
        found[f"right: {arm}"], found[f"turn: {arm}"] = measured(method, dataset, test)
    found["right: halfway"] = (found["right: source"] + found["right: truth"]) / 2
    return found
