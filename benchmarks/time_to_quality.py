"""How long until ours is as good as what a library reaches: lightly's SimCLR, MAE and DINO on
Fashion-MNIST, open_clip's CLIP on OpenMoji.

The peer trains for a fixed number of epochs of 2,048 records, 2,005 emoji (4 of SimCLR, 16 of MAE,
2 of DINO, 4 of CLIP), with its library's own augmentations and the optimizer of its own examples,
from pictures that are decoded beforehand; ours trains with our defaults, its schedule set to as
many steps of as many records, by the real loop from the real files, and is stopped once it is
there. Batches are of 64 records for DINO and CLIP, as in those examples, and of 128 for SimCLR and
MAE, where the examples have 256. Both have an encoder of 4 blocks, 128 wide. Quality is the
accuracy of 20 nearest neighbours (class of clothes, group of emoji) on held-out records, looked at
before training and eight times on the way, which is not timed. To be reached is what the peer has
at its end; a side is there from the first of two looks in a row that are as good, or at its last
look. Time is that of training with data and augmentation, in CPU seconds. Each of three seeds gives
both sides other weights and another order of the data. The speed is the median over seeds, in which
one that does not get there counts as 0; the range is of those that do. A seed in which either side
is as good untrained says nothing and has no ratio, and where most say nothing there is no speed. It
takes half an hour of one core and runs by name only.
"""

from __future__ import annotations

import io
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from amodal import data, methods
from amodal.core import Embeddings, Recipe
from amodal.data.loader import class_numbers
from amodal.evaluate.protocols.knn import neighbours
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from benchmarks import _peer_recipes
from benchmarks._timing import Row, on_one_thread

ONLY_BY_NAME = True
RECORDS, TESTED, EVALUATIONS = 2048, 1000, 8
SEEDS = (0, 1, 2)
EPOCHS = {"simclr": 4, "mae": 16, "dino": 2, "clip": 4}
BATCH = {"simclr": 128, "mae": 128, "dino": 64, "clip": 64}
PEERS = ("timm", "lightly", "open_clip_torch")
GOAL = 2.0


@on_one_thread()
def run() -> list[Row]:
    return [compared(name) for name in EPOCHS]


class Trial:
    """A set: its records to train on, those to test on, and what tells how good an encoder of
    pictures is."""

    def __init__(self, name: str, fields: tuple[str, ...], label: str):
        whole = data.open(name)
        self.set, self.label = (
            whole.select(list(fields)),
            torch.as_tensor(class_numbers(whole.label(label))[0]),
        )
        rng = np.random.default_rng(0)
        parts = {p: rng.permutation(whole.split(p)) for p in ("train", "test", "valid")}
        held_out = np.concatenate([parts["test"], parts["valid"]])
        self.train, self.test = np.sort(parts["train"][:RECORDS]), np.sort(held_out[:TESTED])

    def raw(self, field: str) -> list:
        return [self.set.raw(int(i), field) for i in self.train]

    def score(self, features: Callable[[np.ndarray], Tensor]) -> float:
        """Accuracy of the nearest neighbours among the training records, of features(records) (n,
        D)."""
        x, q = features(self.train), features(self.test)
        y, truth = self.label[self.train], self.label[self.test]
        return float((neighbours(x, y, int(self.label.max()) + 1)(q) == truth).float().mean())


class Evaluation(NamedTuple):
    """The accuracy after some steps, and the CPU and wall seconds that they took."""

    step: int
    accuracy: float
    cpu: float
    wall: float


class LearningCurve:
    """The curve of one side: its looks so far, and a clock that stands still during them."""

    def __init__(self, score: Callable[[], float]):
        self.score, self.points = score, []
        self.cpu, self.wall = -time.process_time(), -time.perf_counter()

    def __call__(self, step: int) -> None:
        here, cpu, wall = time.thread_time(), time.process_time(), time.perf_counter()
        accuracy = self.score()
        self.points.append(Evaluation(step, accuracy, self.cpu + cpu, self.wall + wall))
        # What another thread prepares meanwhile is part of training: only this thread's time is
        # left out.
        self.cpu -= time.thread_time() - here
        self.wall -= time.perf_counter() - wall


def first_as_good(curve: Sequence[Evaluation], wanted: float, steps: int) -> Evaluation | None:
    """From when on a side is as good as wanted: the first of two looks in a row that are, or the
    one at the last step."""
    for look, following in zip(curve, curve[1:]):
        if min(look.accuracy, following.accuracy) >= wanted:
            return look
    last = curve[-1]
    return last if last.step == steps and last.accuracy >= wanted else None


class Enough(Exception):
    """Ours has reached what the peer has."""


def compared(name: str) -> Row:
    emoji = name == "clip"
    trial = (
        Trial("openmoji", ("image", "annotation"), "group")
        if emoji
        else Trial("fashion_mnist", ("image",), "class")
    )
    steps = EPOCHS[name] * (len(trial.train) // BATCH[name])
    pairs = []
    for seed in SEEDS:
        library, theirs = peer(name, trial, steps, seed)
        pairs.append((theirs, ours(name, trial, steps, seed, wanted=theirs[-1].accuracy)))
    return row(name, trial.set.name, library, steps, pairs)


def row(
    name: str,
    of: str,
    library: str,
    steps: int,
    pairs: Sequence[tuple[Sequence[Evaluation], Sequence[Evaluation]]],
) -> Row:
    """The line of the table, of (curve of the peer, curve of ours) for each seed."""
    ratios, taken, needed, per_seed = [], [], [], []
    for theirs, mine in pairs:
        wanted = theirs[-1].accuracy
        reference, found = first_as_good(theirs, wanted, steps), first_as_good(mine, wanted, steps)
        text = f"{library} {theirs[0].accuracy:.3f} to {wanted:.3f} by step {reference.step} ({reference.cpu:.0f} CPU s), "
        text += f"ours from {mine[0].accuracy:.3f} "
        if max(theirs[0].accuracy, mine[0].accuracy) >= wanted:
            text += f"to {mine[-1].accuracy:.3f} by step {mine[-1].step}: as good untrained, which says nothing"
        elif found is None:
            ratios.append(0.0)
            needed.append(reference.cpu)
            text += f"to {mine[-1].accuracy:.3f} at the end ({mine[-1].cpu:.0f} CPU s), at best {max(x.accuracy for x in mine):.3f}"
        else:
            ratios.append(reference.cpu / found.cpu)
            taken.append(found.cpu)
            needed.append(reference.cpu)
            text += f"to {found.accuracy:.3f} by step {found.step} ({found.cpu:.0f} CPU s)"
        per_seed.append(text)
    speed = statistics.median(ratios) if 2 * len(ratios) > len(pairs) else math.nan
    met = [ratio for ratio in ratios if ratio > 0]
    none = math.nan
    note = f"{name}, {steps} steps: of {len(pairs)} seeds {len(ratios)} show a difference, in {len(met)} ours is there; {'; '.join(per_seed)}."
    return Row(
        f"{name}, {statistics.median(theirs[-1].accuracy for theirs, _ in pairs):.3f} of {of}",
        library,
        speed or none,
        1000 * statistics.median(taken) if taken else none,
        1000 * statistics.median(needed) if needed else none,
        none,
        none,
        (min(met), max(met)) if met else (none, none),
        goal=GOAL,
        note=note,
    )


def ours(
    name: str, trial: Trial, steps: int, seed: int, wanted: float = math.inf
) -> list[Evaluation]:
    """The curve, by the training loop as `amodal pretrain` runs it, until it is there."""
    torch.manual_seed(seed)
    encoder = Encoder(trial.set.fields, size="tiny", **methods.encoder_options(name))
    method, shape = methods.build(name, encoder), size_of("tiny")
    recipe = Recipe(steps=steps, lr=shape.lr * (BATCH[name] / shape.batch) ** 0.5)

    def score() -> float:
        encoder.eval()
        found = trial.score(lambda rows: pictures(encoder, trial, rows))
        encoder.train()
        return found

    def look(method, batch, step: int):
        if (step - 1) % max(steps // EVALUATIONS, 1) == 0:
            curve(step - 1)
            if curve.points[0].accuracy < wanted and first_as_good(curve.points, wanted, steps):
                raise Enough
        return batch

    def batches(first: int) -> data.Loader:
        return data.Loader(
            trial.set,
            trial.train,
            batch=BATCH[name],
            views=method.views,
            seed=seed,
            steps=steps,
            start_step=first,
        )

    with tempfile.TemporaryDirectory() as folder:
        curve = LearningCurve(score)
        try:
            train(
                method,
                batches,
                recipe,
                Path(folder),
                monitor=CollapseMonitor([]),
                choose=look,
                progress=False,
            )
            curve(steps)
        except Enough:
            pass
    return curve.points


@torch.no_grad()
def pictures(encoder: Encoder, trial: Trial, rows: np.ndarray) -> Tensor:
    loader = data.Loader(trial.set.select(["image"]), rows, batch=256, shuffle=False)
    return Embeddings.stack([encoder.features(batch) for batch in loader])["image"].values


def peer(name: str, trial: Trial, steps: int, seed: int) -> tuple[str, list[Evaluation]]:
    """The library, and the curve of its epochs."""
    from PIL import Image

    torch.manual_seed(seed)
    np.random.seed(seed)  # some augmentations draw from these two
    random.seed(seed)
    every = {}
    for rows in (trial.train, trial.test):
        every |= {
            int(i): Image.open(io.BytesIO(trial.set.raw(int(i), "image"))).convert("RGB")
            for i in rows
        }
    side = next(iter(every.values())).size[0]
    theirs = getattr(_peer_recipes, name)(
        side, steps, trial.raw("annotation") if name == "clip" else []
    )
    pairs = _peer_recipes.Augmented([every[int(i)] for i in trial.train], theirs.augment)
    loader = torch.utils.data.DataLoader(
        pairs, batch_size=BATCH[name], shuffle=True, drop_last=True
    )

    still = {i: theirs.still(picture) for i, picture in every.items()}

    @torch.no_grad()
    def features(rows: np.ndarray) -> Tensor:
        pieces = np.array_split(rows, math.ceil(len(rows) / 256))
        return torch.cat(
            [theirs.look(torch.stack([still[int(i)] for i in piece])) for piece in pieces]
        )

    def score() -> float:
        theirs.parts.eval()
        found = trial.score(features)
        theirs.parts.train()
        return found

    curve = LearningCurve(score)
    for step, (views, which) in enumerate(endless(loader), 1):
        if (step - 1) % max(steps // EVALUATIONS, 1) == 0:
            curve(step - 1)
        theirs.step(views, which)
        if step == steps:
            break
    curve(steps)
    return theirs.package, curve.points


def endless(loader: torch.utils.data.DataLoader) -> Iterator:
    while True:
        yield from loader
