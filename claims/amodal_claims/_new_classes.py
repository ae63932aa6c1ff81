"""What claims about base and new classes share: a small CLIP of emoji and their texts, a few
pictures of each of half of the subgroups to adapt it to, and both halves to test on. A text is the
subgroup in words and the annotation ("animal mammal: dog face"), so that the CLIP has seen the
names that classes are predicted by, as one of the web has."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal import data, methods
from amodal.data import Dataset, Loader
from amodal.evaluate import embed_records
from amodal.evaluate.base_and_new import BaseToNew, base_and_new, base_to_new
from amodal.inference.embed import embed_values
from amodal.methods.contract import Method
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target
from amodal_claims._arms import Budget, fit, plain_clip, untrained

DATA, IMAGE, TEXT, LABEL = "openmoji", "image", "text", "class"
LEAST, SHOTS, MOST = 30, 8, 15
"""Records of a class, or it is left out; records of each base class to adapt to; test records of a
class at most."""
ALONE = Budget(steps=200, batch=96, rates=(2e-3,))


@dataclass(frozen=True)
class Task:
    """few: a data set of its own, SHOTS pictures of each base class with the label `class`; valid:
    records of base classes to choose by; test: of all classes. classes: base ones first; scale:
    that the CLIP has learnt for cosines as logits."""

    dataset: Dataset
    few: Dataset
    valid: np.ndarray
    test: np.ndarray
    base: tuple[str, ...]
    new: tuple[str, ...]
    encoder: Encoder
    scale: float

    @property
    def classes(self) -> tuple[str, ...]:
        return (*self.base, *self.new)

    @property
    def target(self) -> Target:
        return Target("class", "classes", self.base)

    def truth(self, rows: Sequence[int]) -> np.ndarray:
        return np.array([self.classes.index(c) for c in self.dataset.label(LABEL)[rows]])

    def pictures(self, encoder: Encoder, rows: Sequence[int]) -> Tensor:
        """(n, D) unit vectors."""
        found = (
            embed_records(encoder, self.dataset.select([IMAGE]), rows, labels=False)
            .aligned[IMAGE]
            .values
        )
        return normalize(found, dim=1)

    def names(self, encoder: Encoder) -> Tensor:
        """(classes, D) unit vectors."""
        return normalize(embed_values(encoder, TEXT, list(self.classes)), dim=1)

    def judged(self, scores: Tensor, new: Tensor | None = None) -> BaseToNew:
        """scores, new: (test records, classes)."""
        base = np.arange(len(self.classes)) < len(self.base)
        return base_to_new(
            scores.numpy(), self.truth(self.test), base, None if new is None else new.numpy()
        )

    def accuracy(self, scores: Tensor) -> float:
        """Of the records to choose by, among base classes. scores: (valid records, classes)."""
        return float(
            (scores[:, : len(self.base)].argmax(1).numpy() == self.truth(self.valid)).mean()
        )


def prepared(dataset: Dataset) -> Dataset:
    """Pictures of 32 pixels in 16 patches, texts in tokens of 4 bytes."""
    names, rows = named(dataset), range(len(dataset))
    texts = [f"{names[i]}: {dataset.raw(i, 'annotation')}" for i in rows]
    image, text = dataset.fields[IMAGE], dataset.fields["annotation"]
    fields = {IMAGE: replace(image, size=32, patch=8), TEXT: replace(text, patch=4, max_length=20)}
    columns = {IMAGE: [dataset.raw(i, IMAGE) for i in rows], TEXT: texts, LABEL: list(names)}
    return data.open(columns, name="emoji and texts that name the subgroup").with_fields(fields)


def named(dataset: Dataset) -> np.ndarray:
    """(records,) the names of the subgroups in words, None where there is none."""
    return np.array([v and v.replace("-", " ") for v in dataset.label("subgroup")], dtype=object)


def task(dataset: Dataset, seed: int) -> Task:
    """Everything is drawn by the seed: 65 % of the emoji to train the CLIP on, half of the classes
    as base ones, and the rest."""
    emoji, rng = prepared(dataset), np.random.default_rng([seed, 187])
    labels = emoji.label(LABEL)
    order = rng.permutation(np.flatnonzero(emoji.present(IMAGE) & emoji.present(TEXT)))
    train, valid, test = np.split(order, [round(0.65 * len(order)), round(0.75 * len(order))])
    names, count = np.unique([v for v in labels if v is not None], return_counts=True)
    base, new = (tuple(half) for half in base_and_new(names[count >= LEAST], seed))
    shots = np.concatenate([train[labels[train] == c][:SHOTS] for c in base])
    tested = np.concatenate([test[labels[test] == c][:MOST] for c in (*base, *new)])
    pictures = [emoji.raw(int(i), IMAGE) for i in shots]
    few = data.open({IMAGE: pictures, "class": [str(v) for v in labels[shots]]}, name="a few emoji")
    clip = untrained(emoji, plain_clip, ALONE, seed)
    clip = fit(clip, emoji, np.sort(train), ALONE, seed, *ALONE.rates)
    valid, scale = (
        np.sort(valid[np.isin(labels[valid].astype(str), base)]),
        float(clip.learned().detach()),
    )
    few = few.with_fields({IMAGE: emoji.fields[IMAGE]})
    return Task(emoji, few, valid, np.sort(tested), base, new, clip.encoder, scale)


def adapted(name: str, made: Task, budget: Budget, seed: int, **options) -> Method:
    """The CLIP adapted to the base classes, at the rate that predicts them best among records to
    choose by."""

    def at(rate: float) -> Method:
        torch.manual_seed(seed)
        encoder = copy.deepcopy(made.encoder).train()
        arguments = {"label": "class", "targets": (made.target,), "scale": made.scale} | options
        return fit(
            methods.build(name, encoder, **arguments),
            made.few,
            range(len(made.few)),
            budget,
            seed,
            rate,
        )

    return max(
        map(at, budget.rates), key=lambda m: made.accuracy(predicted(m, made, made.valid, True))
    )


@torch.no_grad()
def predicted(method: Method, made: Task, rows: Sequence[int], mixed: bool) -> Tensor:
    """(n, classes) probabilities among base classes, and among new ones; mixed: by class and
    representation features together."""
    batches = list(Loader(made.dataset.select([IMAGE]), rows, batch=256, shuffle=False))
    halves = [
        torch.cat([method.probabilities(b, half, mixed)[IMAGE].values for b in batches])
        for half in (made.base, made.new)
    ]
    return torch.cat(halves, 1)
