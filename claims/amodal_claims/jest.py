"""Joint example selection (row 151): batches that are together hard for the learner and easy for a
model that knows clean data. Evans et al. 2024, arXiv:2406.17711.

Generated pictures of shapes with their captions. Of the pool half the captions belong to another
picture, and a quarter of the records are in it twice. The reference has learnt from 600 clean
records that are not in the pool. All arms take the same steps on batches of the same size, the
chosen ones out of super-batches four times as large; learner CLIP, whose softmax is what rows are
scored by.
"""

import json
import tempfile
from pathlib import Path
from statistics import mean

import numpy as np

from amodal.core import Recipe
from amodal.curate.jest import Jest
from amodal.curate.poison import mismatched, sample_rows
from amodal.data import Loader
from amodal.evaluate import embed_records
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from amodal_claims import Comparison
from amodal_claims._arms import Budget, plain_clip, trained, untrained
from amodal_claims._scenes import small

CLAIM = (
    "On a generated pool with half the captions mismatched and a quarter of the records doubled, joint learnability selection finds "
    "held-out records better after the same steps, and takes fewer steps to what uniform batches end at, than uniform batches; it is also "
    "better than independent learnability, the learner's loss alone and the reference's alone at the same filter ratio."
)
DATA = "scenes"
SEEDS = 5
RATE = 4e-3
BUDGET = Budget(steps=80, batch=64, rates=(RATE,))
KEEP, CLEAN, EVERY = 0.25, 600, 10
ARMS = {
    "uniform": None,
    "joint": {},
    "independent": {"joint": False},
    "hard": {"score": "hard"},
    "easy": {"score": "easy"},
}
METRIC = "Recall@1, mean of both directions, 402 held-out scenes"
COMPARISONS = (
    Comparison("against uniform batches", METRIC, "joint", "uniform"),
    Comparison("steps saved on the way to where uniform ends", "share of the steps", "saved by joint", 0.0),
    *(Comparison(f"against {words}", METRIC, "joint", arm) for arm, words in (
        ("independent", "independent learnability"), ("hard", "hard only"), ("easy", "easy for the reference only"))),
)  # fmt: skip


class Recall(CollapseMonitor):
    """Notes the recall of held-out records while a run goes on."""

    def __init__(self, dataset):
        super().__init__([])
        self.dataset, self.curve = dataset, []

    def measure(self, encoder):
        rows = retrieval(
            None, embed_records(encoder, self.dataset, self.dataset.split("test")), recall_at=(1,)
        ).rows
        self.curve.append(mean(row["value"] for row in rows if row["metric"] == "recall@1"))
        encoder.train()
        return {}


def parts_of(dataset, seed):
    """Clean records for the reference; the pool, half of it mismatched and some of it twice; the
    mismatched ones; the dataset."""
    order = np.random.default_rng([seed, 151]).permutation(dataset.split("train"))
    clean, pool = order[:CLEAN], order[CLEAN:]
    wrong = sample_rows(dataset, pool, 0.5, seed=seed)
    twice = sample_rows(dataset, pool, 0.25, seed=seed + 1000)
    return (
        clean,
        np.concatenate([pool, twice]),
        wrong,
        mismatched(dataset, wrong, field="text", seed=seed),
    )


def run(dataset, pool, seed, choose):
    """The arm's curve of recall, and how many of the rows that it trained on were mismatched."""
    method, recall = untrained(dataset, plain_clip, BUDGET, seed), Recall(dataset)
    size, taken = BUDGET.batch if choose is None else round(BUDGET.batch / KEEP), []

    def batches(first):
        return Loader(dataset, pool, batch=size, seed=seed, steps=BUDGET.steps, start_step=first)

    def note(method, batch, step):
        batch = batch if choose is None else choose(method, batch, step)
        taken.extend(batch.keys)
        return batch

    if choose is not None:
        choose.prepare(method)
    recipe = Recipe(steps=BUDGET.steps, lr=RATE, precision="float32")
    with tempfile.TemporaryDirectory() as out:
        quiet = dict(
            save_every=BUDGET.steps, measure_every=EVERY, tensorboard=False, progress=False
        )
        train(method, batches, recipe, Path(out), monitor=recall, choose=note, **quiet)
    return recall.curve, taken


def measure(seed, dataset):
    dataset = small(dataset)
    clean, pool, wrong, spoilt = parts_of(dataset, seed)
    reference = trained(dataset, clean, plain_clip, BUDGET, seed + 100, RATE).encoder
    bad, found, known = {dataset.keys[i] for i in wrong}, {}, {}
    for arm, options in ARMS.items():
        # the reference embeds each record once, for all arms
        settings = dict(keep=KEEP, cache_features=True, cache=known)
        choose = None if options is None else Jest(reference, **settings, **options)
        curve, taken = run(spoilt, pool, seed, choose)
        steps = [1, *range(EVERY, BUDGET.steps + 1, EVERY)]
        uniform = curve[-1] if arm == "uniform" else found["uniform"]
        reached = [s for s, value in zip(steps, curve) if value >= uniform]
        found |= {
            arm: curve[-1],
            f"saved by {arm}": 1 - (reached[0] if reached else BUDGET.steps) / BUDGET.steps,
            f"mismatched, {arm}": mean(key in bad for key in taken),
            f"work, {arm}": 1.0 if choose is None else choose.cost()["work"],
        }
        found |= {f"{arm}, step {s}": value for s, value in zip(steps, curve)}
    return found


def picture(dataset, path):
    """Recall on the way, and what joint selection takes of one super-batch: each picture with its
    caption, mismatched ones in red."""
    dataset = small(dataset)
    clean, pool, wrong, spoilt = parts_of(dataset, 0)
    reference = trained(dataset, clean, plain_clip, BUDGET, 100, RATE).encoder
    method = untrained(dataset, plain_clip, BUDGET, 0)
    batch = next(iter(Loader(spoilt, pool, batch=round(BUDGET.batch / KEEP), seed=0)))
    choose = Jest(reference, keep=KEEP)
    choose.prepare(method)
    taken = set(choose(method, batch, 1).keys)
    bad, number = {dataset.keys[i] for i in wrong}, {key: i for i, key in enumerate(dataset.keys)}
    each = (
        json.loads(path.with_suffix(".json").read_text())["measured"]
        if path.with_suffix(".json").exists()
        else []
    )
    with drawing(path, 11, 5.2) as drawn:
        grid = drawn.add_gridspec(4, 12, wspace=0.05)
        axes = drawn.add_subplot(grid[:, :4])
        for arm, colour in zip(ARMS, COLOURS):
            steps = [1, *range(EVERY, BUDGET.steps + 1, EVERY)]
            axes.plot(
                steps,
                [mean(m[f"{arm}, step {s}"] for m in each) if each else 0 for s in steps],
                color=colour,
                label=arm,
            )
        axes.set(title="Recall@1 of held-out scenes", xlabel="step")
        axes.legend()
        for row, (words, inside) in enumerate((("taken", True), ("left", False))):
            keys = [k for k in batch.keys if (k in taken) is inside]
            share = mean(k in bad for k in keys)
            for n, key in enumerate(keys[:12]):
                axes = drawn.add_subplot(grid[2 * row + n // 6, 5 + n % 6])
                axes.imshow(dataset.fields["image"].show(dataset.value(number[key], "image")))
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(
                    visible=True, color=COLOURS[5] if key in bad else COLOURS[2], linewidth=3
                )
                axes.set_title(f"{words}: {share:.0%} mismatched" if n == 0 else "", fontsize=9)
