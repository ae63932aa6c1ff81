"""How long until ours is as good as what a library reaches: lightly's SimCLR, MAE and DINO on Fashion-MNIST, open_clip's CLIP on OpenMoji.

The peer trains for a fixed number of epochs with its library's own augmentations and the optimizer of its own examples, from pictures that
are decoded beforehand; ours trains with our defaults for as many steps of as many records, by the real loop from the real files. Both have
an encoder of 4 blocks, 128 wide. Quality is the accuracy of 20 nearest neighbours (class of clothes, group of emoji) on held-out records,
looked at eight times on the way and not timed. Time is that of training with data and augmentation, in CPU seconds; wall time is in the
note. Where ours does not reach the peer, or is there untrained, there is no ratio. It takes minutes and runs by name only.
"""

from __future__ import annotations

import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amodal import data, methods
from amodal.core import Embeddings
from amodal.data.loader import class_numbers
from amodal.evaluate.knn import neighbours
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of
from amodal.train.loop import Schedule, train
from amodal.train.watch import Watch
from benchmarks import _quality
from benchmarks._timing import Row

BY_NAME = True
BATCH, RECORDS, TESTED, LOOKS = 128, 2048, 1000, 8
EPOCHS = {"simclr": 4, "mae": 8, "dino": 2, "clip": 4}
PEERS = ("timm", "lightly", "open_clip_torch")
GOAL = 2.0


def run() -> list[Row]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [compared(name) for name in EPOCHS]
    finally:
        torch.set_num_threads(threads)


class Trial:
    """A set: its records to train on, those to test on, and what tells how good an encoder of pictures is."""

    def __init__(self, name: str, fields: tuple[str, ...], label: str):
        whole = data.open(name)
        self.set, self.label = whole.select(list(fields)), torch.as_tensor(class_numbers(whole.label(label))[0])
        rng = np.random.default_rng(0)
        parts = {p: rng.permutation(whole.split(p)) for p in ("train", "test")}
        self.train, self.test = np.sort(parts["train"][:RECORDS]), np.sort(parts["test"][:TESTED])

    def raw(self, field: str) -> list:
        return [self.set.raw(int(i), field) for i in self.train]

    def score(self, features: Callable[[np.ndarray], Tensor]) -> float:
        """Accuracy of the nearest neighbours among the training records, of features(records) (n, D)."""
        x, q = features(self.train), features(self.test)
        y, truth = self.label[self.train], self.label[self.test]
        return float((neighbours(x, y, int(self.label.max()) + 1)(q) == truth).float().mean())


class Clock:
    """CPU and wall seconds of what is not left out."""

    def __init__(self):
        self.cpu, self.wall = -time.process_time(), -time.perf_counter()

    def read(self) -> tuple[float, float]:
        return self.cpu + time.process_time(), self.wall + time.perf_counter()

    def leave_out(self, call: Callable[[], float]) -> float:
        cpu, wall = time.process_time(), time.perf_counter()
        found = call()
        self.cpu -= time.process_time() - cpu
        self.wall -= time.perf_counter() - wall
        return found


def compared(name: str) -> Row:
    emoji = name == "clip"
    trial = (
        Trial("openmoji", ("image", "annotation"), "group") if emoji else Trial("fashion_mnist", ("image",), "class")
    )
    steps = EPOCHS[name] * (len(trial.train) // BATCH)
    peer, reached, cpu, wall = theirs(name, trial, steps)
    curve = list(ours(name, trial, steps))
    there = next((point for point in curve if point[1] >= reached), None)
    best = max(point[1] for point in curve)
    note = f"{name}: {peer} reaches {reached:.3f} in {cpu:.0f} CPU seconds ({wall:.0f} on the clock, {steps} steps); "
    note += (
        f"ours begins at {curve[0][1]:.3f}, ends at {curve[-1][1]:.3f} after {curve[-1][2]:.0f} ({curve[-1][3]:.0f}), "
    )
    if there is None:
        note += f"and does not reach it (at best {best:.3f})."
        taken = math.nan
    elif there[0] == 0:
        note += "and is there before it has learnt anything, so that this says nothing."
        taken = math.nan
    else:
        taken = there[2]
        note += f"and is there after {there[0]} steps, {there[2]:.0f} CPU seconds ({there[3]:.0f} on the clock)."
    none = math.nan
    return Row(
        f"{name}, {reached:.3f} of {trial.set.name}",
        peer,
        cpu / taken,
        1000 * taken,
        1000 * cpu,
        none,
        none,
        (none, none),
        goal=GOAL,
        note=note,
    )


def ours(name: str, trial: Trial, steps: int) -> Iterator[tuple[int, float, float, float]]:
    """(step, accuracy, CPU seconds, wall seconds) on the way, by the training loop as `amodal pretrain` runs it."""
    torch.manual_seed(0)
    encoder = Encoder(trial.set.fields, size="tiny", **methods.encoder_options(name))
    method, shape = methods.build(name, encoder), size_of("tiny")
    schedule = Schedule(steps, shape.lr * (BATCH / shape.batch) ** 0.5)
    found, clock = [], None

    def score() -> float:
        encoder.eval()
        found = trial.score(lambda rows: pictures(encoder, trial, rows))
        encoder.train()
        return found

    def look(method, batch, step: int):
        if (step - 1) % max(steps // LOOKS, 1) == 0:
            note(step - 1)
        return batch

    def note(step: int) -> None:
        accuracy = clock.leave_out(score)
        found.append((step, accuracy, *clock.read()))

    def batches(first: int) -> data.Loader:
        return data.Loader(trial.set, trial.train, batch=BATCH, views=method.views, steps=steps, start_step=first)

    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        train(method, batches, schedule, Path(folder), watch=Watch([]), choose=look, progress=False)
        note(steps)
    return found


@torch.no_grad()
def pictures(encoder: Encoder, trial: Trial, rows: np.ndarray) -> Tensor:
    loader = data.Loader(trial.set.select(["image"]), rows, batch=256, shuffle=False)
    return Embeddings.stack([encoder.features(batch) for batch in loader])["image"].values


def theirs(name: str, trial: Trial, steps: int) -> tuple[str, float, float, float]:
    """(library, accuracy, CPU seconds, wall seconds) of the peer after its epochs."""
    from PIL import Image

    torch.manual_seed(0)
    every = {}
    for rows in (trial.train, trial.test):
        every |= {int(i): Image.open(io.BytesIO(trial.set.raw(int(i), "image"))).convert("RGB") for i in rows}
    side = next(iter(every.values())).size[0]
    peer = getattr(_quality, name)(side, steps, trial.raw("annotation") if name == "clip" else [])
    clock = Clock()
    pairs = _quality.Augmented([every[int(i)] for i in trial.train], peer.augment)
    loader = torch.utils.data.DataLoader(pairs, batch_size=BATCH, shuffle=True, drop_last=True)
    done = 0
    peer.parts.train()
    while done < steps:
        for views, which in loader:
            peer.step(views, which)
            done += 1
    cpu, wall = clock.read()
    peer.parts.eval()

    def features(rows: np.ndarray) -> Tensor:
        with torch.no_grad():
            stacked = torch.stack([peer.still(every[int(i)]) for i in rows])
            return torch.cat([peer.look(part) for part in stacked.split(256)])

    return peer.library, trial.score(features), cpu, wall
