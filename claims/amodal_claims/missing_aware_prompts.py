"""Missing-aware prompts (row 202): a frozen transformer with other learned tokens for each set of
modalities that a record has. Lee et al., CVPR 2023, arXiv:2303.03369.

Emoji: picture and English text, with their group as target, split anew for each seed. A joint trunk is
trained without labels on the training records (masked tokens of both modalities, `mae`), and every arm
goes on from those same weights, with the same head, steps and two learning rates; kept is the rate
with the best macro-F1 on validation records that lack as much as the training records do. Arms:
`aware`; `shared`, the same prompts for all records; `head`, the frozen network without prompts;
`full`, all of it learns, for the record. At a rate of 70 % 35 % of the records lack their picture
and other 35 % their text. Which do is drawn once, so what is missing at a lower rate is missing at
a higher."""

import copy
from dataclasses import replace

import numpy as np
import torch
from sklearn.metrics import f1_score

from amodal import methods
from amodal.core import row_seeds
from amodal.data import Loader
from amodal.data.loader import class_numbers
from amodal.evaluate.drawing import drawing
from amodal.masking.hashing import uniform
from amodal.nn.heads.supervised import targets_of
from amodal_claims import Comparison, recorded
from amodal_claims._arms import Budget, fit, untrained

CLAIM = (
    "With 70 % of the training records lacking a modality, prompts for each set of modalities on a frozen multimodal transformer predict groups "
    "of emoji with higher macro-F1 than training only the head and than one shared set of prompts, whatever share of the test records "
    "lacks one."
)
DATA = "openmoji"
SEEDS = 5
ALONE = Budget(steps=150, batch=64, rates=(2e-3,))
BUDGET = Budget(steps=60, batch=64, rates=(2e-3, 1e-2))
LABEL, LEAST = "group", 50  # records of a class, or it is left out
FIELDS = ("image", "annotation")
TRAIN, TEST = (0.0, 0.35, 0.7), (0.0, 0.35, 0.7, 1.0)
ARMS = {
    "aware": ("missing_aware_prompts", {}),
    "shared": ("missing_aware_prompts", {"missing_aware": False}),
    "head": ("finetune", {"tuning": "head", "hidden": 128}),
    "full": ("finetune", {"tuning": "full", "hidden": 128}),
}
METRIC = "macro-F1, 70 % of the training records lack a modality"
COMPARISONS = tuple(
    Comparison(f"{rate:.0%} lack one at test: against {words}", METRIC, f"70%, {rate:.0%}: aware", f"70%, {rate:.0%}: {arm}")
    for rate in TEST
    for arm, words in (("head", "the head alone"), ("shared", "shared prompts"))
)  # fmt: skip


def prepared(dataset):
    """Pictures of 32 pixels in 16 patches, texts in tokens of 4 bytes."""
    image, text = (dataset.fields[s] for s in FIELDS)
    small = {
        FIELDS[0]: replace(image, size=32, patch=8),
        FIELDS[1]: replace(text, patch=4, max_length=16),
    }
    return dataset.select(FIELDS).with_fields(small)


def lacking(batch, rate, seed):
    """The batch without the picture of half of these records, and without the text of the other
    half."""
    luck = uniform(row_seeds(batch.keys, salt=seed))
    present = {FIELDS[0]: luck >= rate / 2, FIELDS[1]: (luck < rate / 2) | (luck >= rate)}
    columns = {s: c.at(present[s][c.rows]) for s, c in batch.columns.items()}
    return type(batch)(batch.size, columns, batch.keys, batch.seeds, batch.labels)


@torch.no_grad()
def predicted(method, dataset, rows, rate, seed):
    """(n,) numbers of the classes that are predicted from records of which a share `rate` lacks a modality."""
    batches = Loader(dataset, rows, batch=256, shuffle=False)
    return torch.cat(
        [method.head(method.head_inputs(lacking(b, rate, seed))).values.argmax(1) for b in batches]
    ).numpy()


def split(dataset, seed):
    """Records of the classes that are common enough: 65 % to train on, 10 % to choose by, the
    others to test on."""
    labels = dataset.label(LABEL)
    names, count = np.unique([v for v in labels if v is not None], return_counts=True)
    rows = np.flatnonzero(np.isin(labels.astype(str), names[count >= LEAST]))
    order = np.random.default_rng([seed, 202]).permutation(rows)
    bounds = [round(0.65 * len(rows)), round(0.75 * len(rows))]
    return dict(zip(("train", "valid", "test"), (np.sort(p) for p in np.split(order, bounds))))


def pretrained(emoji, rows, seed):
    method = untrained(emoji, lambda e: methods.build("mae", e), ALONE, seed, trunk="joint")
    return fit(method, emoji, rows, ALONE, seed, *ALONE.rates).encoder


def measure(seed, dataset):
    emoji = prepared(dataset)
    parts, numbers = split(emoji, seed), class_numbers(emoji.label(LABEL))[0]
    targets, encoder = (
        targets_of(emoji, parts["train"], LABEL),
        pretrained(emoji, parts["train"], seed),
    )

    def f1(method, part, rate):
        return float(
            f1_score(
                numbers[parts[part]],
                predicted(method, emoji, parts[part], rate, seed),
                average="macro",
            )
        )

    found = {}
    for arm, (name, options) in ARMS.items():
        for lack in TRAIN if arm in ("aware", "head") else TRAIN[-1:]:
            each = {}
            for rate in BUDGET.rates:
                torch.manual_seed(seed)
                method = methods.build(
                    name, copy.deepcopy(encoder).train(), label=LABEL, targets=targets, **options
                )
                hide = lambda m, batch, step, lack=lack: lacking(batch, lack, seed)  # noqa: E731
                each[rate] = fit(method, emoji, parts["train"], BUDGET, seed, rate, choose=hide)
            chosen = max(each, key=lambda r: f1(each[r], "valid", lack))  # noqa: B023
            found |= {
                f"{lack:.0%}, {test:.0%}: {arm}": f1(each[chosen], "test", test) for test in TEST
            }
            found[f"learning rate, {lack:.0%}: {arm}"] = chosen
        learns = sum(p.numel() for p in method.encoder.parameters() if p.requires_grad)
        found[f"share of the encoder that learns: {arm}"] = learns / sum(
            p.numel() for p in method.encoder.parameters()
        )
    return found


def picture(dataset, path):
    """The matrix of training and test rates, means over the seeds of the ledger: prompts, and what
    they add to the head alone."""
    measured = recorded("missing_aware_prompts").entry["measured"]

    def matrix(arm):
        return np.array(
            [
                [np.mean([m[f"{i:.0%}, {j:.0%}: {arm}"] for m in measured]) for j in TEST]
                for i in TRAIN
            ]
        )

    aware, gain = matrix("aware"), matrix("aware") - matrix("head")
    with drawing(path, 7, 2.4) as figure:
        left, right = figure.subplots(1, 2)
        drawn(left, aware, "PuBu", 0.0, aware.max(), "{:.2f}")
        drawn(right, gain, "PuOr", -abs(gain).max(), abs(gain).max(), "{:+.2f}")
        left.set(
            title="Macro-F1, prompts for each set of modalities",
            ylabel="training records that lack one",
        )
        right.set(title="more than with the head alone")


def drawn(ax, values, colours, low, high, form):
    ax.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    ax.grid(False)
    for (i, j), v in np.ndenumerate(values):
        ax.text(
            j,
            i,
            form.format(v),
            ha="center",
            va="center",
            color="white" if abs(v) > 0.6 * high else "black",
        )
    ax.set(xlabel="test records that lack a modality")
    ax.set_xticks(range(len(TEST)), [f"{t:.0%}" for t in TEST])
    ax.set_yticks(range(len(TRAIN)), [f"{t:.0%}" for t in TRAIN])
