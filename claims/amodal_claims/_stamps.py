"""What claims about pictures and captions share: Tux Paint's stamps in a small size, split anew for
each seed, and zero-shot classes.

A class is described by captions that its members could have, because words like "household" stand
in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal.core import Column
from amodal.data import Dataset
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.inference.embed import embed_values
from amodal.methods.contract import Method
from amodal_claims._arms import features, probe

DATA = "tuxpaint"
IMAGE, TEXT, LABEL = "image", "caption", "category"
CLASSES = {  # the categories of at least 30 stamps
    "animals": ("dog", "cat", "bird", "fish", "bear", "butterfly", "lion", "pig", "frog", "horse"),
    "clothes": ("hat", "shirt", "dress", "jacket", "crown", "boot", "pair of pants", "pair of glasses", "scarf", "cap"),
    "food": ("red apple", "banana", "lemon", "pear", "cake", "strawberry", "potato", "loaf of bread", "tomato", "pepper"),
    "household": ("pair of scissors", "fork", "cup", "telephone", "computer", "hammer", "wrench", "pencil", "chair", "box"),
    "people": ("man", "woman", "girl", "boy", "brown eye", "head", "doctor", "police officer", "nurse", "fireman"),
    "plants": ("flower", "tree", "rose", "red flower", "leaf", "cactus", "daisy", "mushroom", "palm tree", "tulip"),
    "seasonal": ("Christmas tree", "candle", "Easter egg", "ghost", "candy cane", "gift", "dreidel", "pumpkin", "snowman", "bunny"),
    "symbols": ("letter a", "letter e", "letter o", "number 1", "coin of 5 cents", "dollar note", "sign", "arrow", "heart", "star"),
    "town": ("house", "flag", "tower", "castle", "stop sign", "traffic light", "bridge", "tent", "windmill", "yellow sign"),
    "vehicles": ("truck", "car", "bus", "airplane", "bicycle", "fire truck", "boat", "train", "tractor", "locomotive"),
}  # fmt: skip


def stamps(dataset: Dataset, *, size: int = 32, tile: int = 8, **text) -> Dataset:
    """Pictures of `size` pixels in patches of `tile`, and English captions of at most 48 bytes, in
    tokens of two. text: other options of the captions."""
    short = replace(dataset.fields[TEXT], **{"max_length": 24, "patch": 2} | text)
    return dataset.with_fields(
        {IMAGE: replace(dataset.fields[IMAGE], size=size, patch=tile), TEXT: short}
    )


def parts(dataset: Dataset, seed: int) -> dict[str, np.ndarray]:
    """Pairs to train on (65 %), to choose by (10 %) and to test on, drawn by the seed: there are
    too few for one split."""
    pairs = np.flatnonzero(dataset.present(IMAGE) & dataset.present(TEXT))
    order = np.random.default_rng(seed).permutation(pairs)
    bounds = [round(0.65 * len(pairs)), round(0.75 * len(pairs))]
    return dict(zip(("train", "valid", "test"), (np.sort(p) for p in np.split(order, bounds))))


def classed(dataset: Dataset, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The records among `rows` that belong to one of CLASSES, and their categories."""
    labels = dataset.label(LABEL)[rows]
    known = np.isin(labels, list(CLASSES))
    return np.asarray(rows)[known], labels[known]


def zero_shot(method: Method, dataset: Dataset, rows: Sequence[int]) -> float:
    """Balanced accuracy over CLASSES of pictures predicted by the nearest class, the mean of its
    captions' unit vectors."""
    rows, labels = classed(dataset, rows)
    prompts = [
        f"{'An' if w[0] in 'aeiou' else 'A'} {w}." for words in CLASSES.values() for w in words
    ]
    vectors = normalize(embed_values(method.encoder, TEXT, prompts), dim=1).view(
        len(CLASSES), -1, method.encoder.heads_width
    )
    pictures = (
        embed_records(method.encoder, dataset.select([IMAGE]), rows, labels=False)
        .aligned[IMAGE]
        .values
    )
    guess = (normalize(pictures, dim=1) @ normalize(vectors.mean(1), dim=1).T).argmax(1).numpy()
    right = np.array(list(CLASSES))[guess] == labels
    return mean(float(right[labels == c].mean()) for c in np.unique(labels))


def recall(method: Method, dataset: Dataset, rows: Sequence[int], k: int = 10) -> float:
    """Recall@k, mean of both directions between pictures and captions."""
    found = retrieval(
        None, embed_records(method.encoder, dataset, rows, labels=False), recall_at=(k,)
    ).rows
    return mean(row["value"] for row in found if row["metric"] == f"recall@{k}")


def linear(method: Method, dataset: Dataset, train: Sequence[int], test: Sequence[int]) -> float:
    """Accuracy over CLASSES of a linear probe on the features of pictures alone."""
    pictures = dataset.select([IMAGE])
    (train, train_labels), (test, test_labels) = classed(dataset, train), classed(dataset, test)
    a, b = (features(method.encoder, pictures, rows)[IMAGE].values for rows in (train, test))
    columns = (Column(x, torch.arange(len(x))) for x in (a, b))
    return probe(next(columns), train_labels, next(columns), test_labels)
