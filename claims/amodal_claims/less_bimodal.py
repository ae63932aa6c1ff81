"""Less bimodal supervision (row 135): how many pairs two encoders that were trained apart need
before they answer questions. Segal, Bogin and Berant, 2022, arXiv:2211.00262.

GENERATED scenes of one to four shapes, because questions need answers that are known. Encoders
learn from pictures and from captions, each for itself (SimCLR), anew for each seed; co-attention
learns from no pair, from 5 % of them, from all, or from all with a list of the colours and sizes in
place of the caption, words in random order; then each arm is fine-tuned on two tasks. One picture:
the colour of its only large (or only small) shape, among 8. Two pictures and a statement: have both
a shape of the colour? Half of the time yes, else one of both has it, so that one picture alone is
worth .75 and the statement .5. All arms take the same steps in each stage; arms without pairs have
only the second.
"""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from amodal import data, methods
from amodal.data import Loader
from amodal.nn.heads.supervised import Target
from amodal_claims import Comparison, _scenes
from amodal_claims._arms import Budget, fit, trained, untrained
from amodal_claims.sets import scenes

CLAIM = (
    "With encoders trained apart, leaving out pairs costs at most .05 of accuracy on the colour asked for in one picture, and costs "
    "accuracy on statements about two pictures, of which 5 % of the pairs, and lists of labels, win back more than half."
)
DATA = _scenes.DATA
SEEDS = 5
APART = Budget(steps=80, batch=48, rates=(2e-3,))
PAIRS = Budget(steps=150, batch=48, rates=(1e-3,))
TUNING = Budget(steps=150, batch=48, rates=(1e-3,))
LABELLED, TESTED = 2000, 600
TASKS = {"one": ("image",), "two": ("left", "right")}
OPTIONS = {"depth": 1, "view": "plain"}
ONE, TWO = "accuracy, colour in one picture", "accuracy, statements about two pictures"
COMPARISONS = (
    Comparison("no pairs against all", ONE, "one: none", "one: all", margin=-0.05),
    Comparison("all pairs against none", TWO, "two: all", "two: none"),
    Comparison(
        "5 % of the pairs against half way from none to all", TWO, "two: 5 %", "two: half way"
    ),
    Comparison(
        "lists of labels against half way from none to all", TWO, "two: labels", "two: half way"
    ),
)


def one(inside, rows, count, rng):
    """Columns of questions about one picture."""
    found = {"image": [], "text": [], "label": []}
    while len(found["label"]) < count:
        i, size = int(rng.choice(rows)), str(rng.choice(list(scenes.SIZES)))
        colours = [c for s, c in inside[i] if s == size]
        if len(colours) == 1:
            for column, value in zip(found.values(), (i, f"the {size}", colours[0])):
                column.append(value)
    return found


def two(inside, rows, count, rng):
    """Columns of statements about two pictures, true and false in turn."""
    found = {"left": [], "right": [], "text": [], "label": []}
    having = {c: [int(i) for i in rows if c in {k for _, k in inside[i]}] for c in scenes.COLOURS}
    without = {c: sorted({int(i) for i in rows} - set(having[c])) for c in scenes.COLOURS}
    for number in range(count):
        colour = str(rng.choice(list(scenes.COLOURS)))
        true = bool(number % 2)
        pair = rng.permutation(
            [rng.choice(having[colour]), rng.choice((having if true else without)[colour])]
        )
        for column, value in zip(
            found.values(), (*map(int, pair), f"a {colour}", "yes" if true else "no")
        ):
            column.append(value)
    return found


def task(name, dataset, inside, rows, count, rng):
    """So many questions as a dataset."""
    columns = {"one": one, "two": two}[name](inside, rows, count, rng)
    pictures = {f: [dataset.raw(i, "image") for i in columns[f]] for f in TASKS[name]}
    opened = data.open(
        pictures | {k: columns[k] for k in ("text", "label")}, name=f"questions, {name}"
    )
    image, text = dataset.fields["image"], replace(dataset.fields["text"], max_length=4)
    return opened.with_fields({f: image for f in TASKS[name]} | {"text": text})


def as_labels(dataset, inside, seed):
    """The same pictures with lists of what is in them, in random order, for captions."""
    rng, lists = np.random.default_rng([seed, 1]), []
    for each in inside:
        words = [word for pair in each for word in pair]
        lists.append(" ".join(words[k] for k in rng.permutation(len(words))))
    pictures = [dataset.raw(i, "image") for i in range(len(dataset))]
    return data.open({"image": pictures, "text": lists}, name="lists of labels").with_fields(
        dataset.fields
    )


def apart(encoder):
    method = methods.build("simclr", encoder)
    method.views = ("weak", "weak")
    return method


def begin_with(method, learnt, fields):
    """Copy what the encoders, and co-attention if it was trained, have learnt; each of `modalities`
    begins as the pictures' tower."""
    for name, value in method.state_dict().items():
        before = re.sub(rf"\.({'|'.join(fields)})(?=\.|$)", ".image", name)
        if before in learnt and name.startswith(("encoder.", "co.")):
            value.copy_(learnt[before])
    return method


@torch.no_grad()
def accuracy(method, dataset, rows):
    right = total = 0
    for batch in Loader(dataset, rows, batch=300, shuffle=False, labels=("label",)):
        guess = method.predict(batch).values.argmax(1)
        right, total = (
            right + int((guess == batch.labels["label"].values).sum()),
            total + len(guess),
        )
    return right / total


def measure(seed, dataset):
    dataset = _scenes.small(dataset)
    inside = [[tuple(words[:2]) for words in each] for each in scenes.objects(dataset)]
    train = dataset.split("train")
    held = np.concatenate([dataset.split("valid"), dataset.split("test")])
    before = trained(dataset, train, apart, APART, seed, *APART.rates)
    learnt = {f"encoder.{k}": v for k, v in before.encoder.state_dict().items()}
    few = np.random.default_rng([seed, 135]).permutation(train)[: len(train) // 20]
    build = partial(methods.build, "less_bimodal", **OPTIONS)
    sources = {
        "5 %": (dataset, np.sort(few)),
        "all": (dataset, train),
        "labels": (as_labels(dataset, inside, seed), train),
    }
    known = {"none": learnt}
    for arm, (records, rows) in sources.items():
        method = begin_with(
            untrained(records, partial(build, pairs=1.0), PAIRS, seed), learnt, TASKS["one"]
        )
        known[arm] = fit(method, records, rows, PAIRS, seed, *PAIRS.rates).state_dict()
    found = {}
    for name, fields in TASKS.items():
        rng = np.random.default_rng([seed, 2])
        parts = [
            task(name, dataset, inside, rows, n, rng)
            for rows, n in ((train, LABELLED), (held, TESTED))
        ]
        classes = tuple(sorted(set(parts[0].label("label"))))
        target = (Target("label", "classes", classes),)
        make = partial(build, label="label", targets=target, pairs=0.0)
        for arm, weights in known.items():
            method = begin_with(untrained(parts[0], make, TUNING, seed), weights, fields)
            method = fit(method, parts[0], range(len(parts[0])), TUNING, seed, *TUNING.rates)
            found[f"{name}: {arm}"] = accuracy(method, parts[1], range(len(parts[1])))
        found[f"{name}: half way"] = (found[f"{name}: none"] + found[f"{name}: all"]) / 2
    return found
