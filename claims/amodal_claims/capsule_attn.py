"""Capsules routed by self-attention (row 115): better than dynamic routing and several times
faster, and better than a linear map. Duarte et al., 2021, arXiv:2112.00775. Tux Paint's stamps:
picture, French caption and that caption spoken; a fifth of the captions to learn from are another
record's. All arms have the same trunks, loss, steps, batch and rates, and only the head from a
trunk into the common space differs. Beside the comparisons: a perceptron of as many hidden units as
all poses have together, and the time of EM routing.

Times are processor seconds of whole training steps at the size of the comparison, in turns within
one process, medians; and of one head alone with the paper's 128 capsules of 32, forward and
backward."""

from functools import partial
from statistics import mean, median
from time import process_time

import numpy as np
import torch

from amodal import methods
from amodal.data import Dataset, Loader
from amodal.data.readers import Reader
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.nn.heads.capsules import CapsuleHead
from amodal.train.step import gradients
from amodal_claims import Comparison, _stamps
from amodal_claims._arms import Budget, best, untrained
from amodal_claims.gram import small

CLAIM = (
    "With the same number of capsules, self-attention routing gives a higher mean Recall@10 between picture, caption and speech of "
    "held-out records than dynamic routing, at less than half of its time a step; and both give a higher one than a linear map."
)
DATA = "tuxpaint"
SEEDS = 5
BUDGET = Budget(steps=80, batch=64, rates=(1e-3, 4e-3))
FIELDS, TEXT, WRONG = ("caption_fr", "image", "speech"), "caption_fr", 0.2
CAPSULES, POSE, WIDTH = 32, 16, 64
ARMS = ("attention", "dynamic", "linear", "perceptron")
METRIC = "Recall@10, mean of three pairs of modalities and both directions, held out"
COMPARISONS = (
    Comparison("attention against dynamic routing", METRIC, "attention", "dynamic"),
    Comparison(
        "time of a step: dynamic / attention",
        "ratio of medians, above 2",
        "step: dynamic / attention",
        2.0,
    ),
    Comparison("attention against a linear map", METRIC, "attention", "linear"),
    Comparison("dynamic routing against a linear map", METRIC, "dynamic", "linear"),
)


class ReplacedText(Reader):
    """The records of another reader, some of which (by number) have another text in `column`."""

    def __init__(self, reader: Reader, column: str, texts: dict[int, str]):
        self.reader, self.column, self.texts = reader, column, texts
        self.keys, self.columns, self.base, self.ignored = (
            reader.keys,
            reader.columns,
            reader.base,
            reader.ignored,
        )

    def get(self, i, column):
        return (
            self.texts[i]
            if column == self.column and i in self.texts
            else self.reader.get(i, column)
        )

    def present(self, column):
        return self.reader.present(column)

    def check(self, column):
        return self.reader.check(column)

    def stamp(self):
        return self.reader.stamp()


def build(arm, encoder):
    routed = {"routing": arm} if arm in ("attention", "dynamic", "em") else {}
    method = methods.build(
        "capsule_attn", encoder, capsules=CAPSULES, pose=POSE, width=WIDTH, **routed
    )
    if not routed:
        encoder.align(WIDTH, hidden=CAPSULES * POSE if arm == "perceptron" else 0)
    return method


def mispaired(dataset: Dataset, rows, rng) -> Dataset:
    """Some of the captions of `rows` change places."""
    wrong = rng.permutation(rows)[: round(WRONG * len(rows))]
    texts = {int(i): dataset.raw(int(j), TEXT) for i, j in zip(wrong, np.roll(wrong, 1))}
    reader = ReplacedText(dataset.reader, dataset.columns[TEXT], texts)
    return Dataset(reader, dataset.schema, dataset.path, dataset.name)


def recall(method, dataset, rows):
    found = retrieval(
        None, embed_records(method.encoder, dataset, rows, labels=False), recall_at=(10,)
    ).rows
    return mean(row["value"] for row in found if row["metric"] == "recall@10")


def medians(calls, repeat):
    """Processor seconds of each, called in turns."""
    taken = {name: [] for name in calls}
    for turn in range(repeat + 1):
        for name, call in calls.items():
            begun = process_time()
            call()
            taken[name] += [process_time() - begun] * (turn > 0)  # the first is to warm up
    return {name: median(each) for name, each in taken.items()}


def head_alone(routing):
    head, x = CapsuleHead(64, WIDTH, capsules=128, pose=32, routing=routing), torch.randn(16, 64)
    return lambda: torch.autograd.grad(head(x).square().sum(), list(head.parameters()))


def times(dataset, rows, seed):
    batch = next(iter(Loader(dataset, rows, batch=BUDGET.batch, seed=seed, steps=1)))
    arms = {arm: untrained(dataset, partial(build, arm), BUDGET, seed) for arm in (*ARMS, "em")}
    steps = medians({arm: partial(gradients, method, batch) for arm, method in arms.items()}, 7)
    heads = medians({arm: head_alone(arm) for arm in ("attention", "dynamic")}, 3)
    return {f"step, ms: {arm}": 1000 * seconds for arm, seconds in steps.items()} | {
        "step: dynamic / attention": steps["dynamic"] / steps["attention"],
        "head alone, 128 capsules: dynamic / attention": heads["dynamic"] / heads["attention"],
    }


def measure(seed, dataset):
    stamps = small(dataset, FIELDS)
    parts = _stamps.parts(dataset, seed)
    noisy = mispaired(stamps, parts["train"], np.random.default_rng([seed, 1]))

    def score(method):
        return recall(method, stamps, parts["valid"])

    found = {}
    for arm in ARMS:
        method = best(noisy, parts["train"], partial(build, arm), BUDGET, seed, score)
        found[arm] = recall(method, stamps, parts["test"])
    return found | times(noisy, parts["train"], seed)
