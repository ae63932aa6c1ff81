"""SkillNet (row 98): skills switched on by a rule, in one model of five kinds of data. Dai et al.,
arXiv:2205.06126.

Real data, five tasks of one modality each, records drawn anew for each seed: the group of an emoji
from its picture (OpenMoji, 8 classes), the language of a caption (Tux Paint, 8), the language in
which a caption is spoken (Tux Paint, 4), an exercise from a watch (7, split by recording, in the
place of video), and the package that lines of Python's own library come from (5, split by file;
which version of Python it was is in the ledger). 300 records of each modality to train on, of which
150 have a label, and up to 150 to test on.

All arms are nano, learn all tasks together in the same steps at the same rate, and differ in the
trunk: `dense`, one for all modalities; `separate`, one for each; `skills`, one whose projections of
attention have a copy for each kind of data and a general one, of which two are averaged; `router`,
one with four learned experts. A token passes perceptrons and attention of the same size in all,
skills average two maps before that. `pretrained` has the skills, and before the same fine-tuning as
many steps of masked prediction on all training records, which the other arms do not have. `wrong`
is `skills` tested with the skills of another modality. The rate was set by what `dense` gives on
another seed."""

import inspect
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from amodal import data, methods
from amodal.data import sets as public
from amodal.inference.forward_passes import sequential_loader
from amodal.modalities import make, name_of
from amodal.nn.adapters.skills import Skills
from amodal.nn.heads.supervised import targets_of
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit, trained, untrained

CLAIM = (
    "One model of five kinds of data whose skills a rule switches on predicts five tasks as well as separate trunks (within .03) and better "
    "than a dense trunk that all share; sparse pre-training raises their mean accuracy, and the skills of another modality cost it."
)
DATA = "openmoji"
SEEDS = 5
BUDGET = Budget(steps=120, batch=100, rates=(4e-3,))
TRAIN, LABELLED, TEST = 300, 150, 150
LANGUAGES = ("caption", *(f"caption_{x}" for x in ("fr", "de", "es", "it", "nl", "ro", "ca")))
SPOKEN = ("speech", "speech_ro", "speech_ca", "speech_es")
PACKAGES = ("asyncio", "email", "multiprocessing", "unittest", "xml")
FIELDS = ("picture", "text", "sound", "motion", "code")
METRIC = "balanced accuracy, mean of five tasks"
COMPARISONS = (
    Comparison(
        "skills against separate trunks, at most .03 less",
        METRIC,
        "skills",
        "separate",
        margin=-0.03,
    ),
    Comparison("skills against a dense trunk", METRIC, "skills", "dense"),
    Comparison("skills after sparse pre-training", METRIC, "pretrained", "skills"),
    Comparison("own skills against another modality's", METRIC, "skills", "wrong"),
)


@cache
def code():
    """(lines of Python's library, package, file) of stretches of six lines."""
    library, found = Path(inspect.getfile(inspect)).parent, []
    for package in PACKAGES:
        for file in sorted((library / package).rglob("*.py")):
            lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
            found += [
                ("\n".join(lines[i : i + 6]), package, str(file))
                for i in range(0, len(lines) - 5, 12)
            ]
    return found


def of(dataset, rows, field):
    return [dataset.raw(int(i), field) for i in rows]


def drawn(emoji, seed):
    """modality -> (values, labels) to train on, and to test on."""
    rng, found = np.random.default_rng([seed, 98]), {}
    stamps, watch = (data.open(name) for name in ("tuxpaint", "watch"))
    group = emoji.label("group")
    usable = np.flatnonzero(
        emoji.present("image")
        & ~np.isin(group.astype(str), ("component", "extras-openmoji", "extras-unicode"))
    )
    usable = np.array(
        [i for i in usable if group[i] is not None and (group == group[i]).sum() > 100]
    )
    rows = rng.permutation(usable)[: TRAIN + TEST]
    found["picture"] = of(emoji, rows, "image"), group[rows].tolist()
    for field, names in (("text", LANGUAGES), ("sound", SPOKEN)):
        pairs = [(i, name) for i in range(len(stamps)) for name in names if stamps.present(name)[i]]
        chosen = [pairs[k] for k in rng.permutation(len(pairs))[: TRAIN + TEST]]
        found[field] = [stamps.raw(i, name) for i, name in chosen], [name for _, name in chosen]
    parts = {
        field: [tuple(x[:TRAIN] for x in both), tuple(x[TRAIN:] for x in both)]
        for field, both in found.items()
    }
    exercise = watch.label("exercise")
    recording = [rng.permutation(watch.split(part)) for part in ("train", "test")]
    recording = [rows[:n] for rows, n in zip(recording, (TRAIN, TEST))]
    parts["motion"] = [
        (of(watch, rows, "accelerometer"), exercise[rows].tolist()) for rows in recording
    ]
    snippets = code()
    files = rng.permutation(sorted({file for *_, file in snippets}))
    later = set(files[: len(files) // 3])
    parts["code"] = []
    for there, n in ((False, TRAIN), (True, TEST)):
        mine = [s for s in snippets if (s[2] in later) == there]
        chosen = [mine[k] for k in rng.permutation(len(mine))[:n]]
        parts["code"].append(([c[0] for c in chosen], [c[1] for c in chosen]))
    return parts


def assembled(emoji, seed):
    """A dataset of records that have one modality each; its rows with a label to train on, all to
    train on, and of each modality to test."""
    parts, columns, rows = (
        drawn(emoji, seed),
        {n: [] for s in FIELDS for n in (s, f"{s} class")},
        {"train": [], "labelled": []},
    )
    for part in (0, 1):
        for field in FIELDS:
            values, labels = parts[field][part]
            start = len(columns[FIELDS[0]])
            for name in columns:
                own = {field: values, f"{field} class": [f"{x}" for x in labels]}.get(
                    name, [None] * len(values)
                )
                columns[name] += own
            here = np.arange(start, start + len(values))
            rows[field] = here
            if not part:
                rows["train"], rows["labelled"] = (
                    [*rows["train"], *here],
                    [*rows["labelled"], *here[:LABELLED]],
                )
    stamps, watch = (data.open(name) for name in ("tuxpaint", "watch"))
    fields = {
        "picture": make("image", size=32, patch=8, channels=3, mean=emoji.fields["image"].mean, std=emoji.fields["image"].std),
        "text": make("text", max_length=16, patch=3),
        "sound": make("audio", rate=16000, max_seconds=1.0, mean=stamps.fields["speech"].mean, std=stamps.fields["speech"].std),
        "motion": replace(watch.fields["accelerometer"], patch=32),
        "code": make("text", max_length=32, patch=6),
    }  # fmt: skip
    return data.open(columns, fields=fields, name="five modalities"), {
        name: np.array(r) for name, r in rows.items()
    }


def rules(encoder):
    return {f: (f if f == "code" else name_of(m), "general") for f, m in encoder.fields.items()}


def tuned(encoder, targets):
    label = ",".join(t.name for t in targets)
    return methods.build("finetune", encoder, label=label, targets=targets, view="plain")


def skilled(then):
    return lambda encoder: then(encoder.set_block_hook(Skills(rules(encoder))))


def pretrained(five, rows, seed, finetune):
    """Masked prediction with the skills of each modality, then the same fine-tuning."""
    skills = ", ".join(
        f"{f}={'+'.join(s)}"
        for f, s in rules(untrained(five, finetune, BUDGET, seed).encoder).items()
    )
    make = partial(methods.build, "skillnet_mm", skills=skills, contrast=0.0)
    encoder = trained(
        five, rows["train"], make, BUDGET, seed, BUDGET.rates[0], trunk="shared"
    ).encoder
    torch.manual_seed(seed)
    return fit(finetune(encoder.train()), five, rows["labelled"], BUDGET, seed, BUDGET.rates[0])


@torch.no_grad()
def right(method, five, rows):
    """Balanced accuracy of each task."""
    found = {}
    for field in FIELDS:
        some = rows[field]
        batch = next(iter(sequential_loader(five, some, len(some))))
        predicted = (
            method.head.predictions(method.predict(batch))[f"{field} class"].argmax(1).numpy()
        )
        classes = next(t.classes for t in method.head.targets if t.name == f"{field} class")
        truth = five.label(f"{field} class")[some]
        hits = np.array(classes)[predicted] == truth
        found[field] = mean(float(hits[truth == c].mean()) for c in set(truth))
    return found


def arms(
    five, rows, seed, names=("dense", "separate", "skills", "router", "pretrained"), budget=BUDGET
):
    targets = targets_of(five, rows["labelled"], ",".join(f"{s} class" for s in FIELDS))
    finetune = partial(tuned, targets=targets)
    ways = {
        "dense": (finetune, {"trunk": "shared"}),
        "separate": (finetune, {"trunk": "separate"}),
        "skills": (skilled(finetune), {"trunk": "shared"}),
        "router": (finetune, {"trunk": "shared", "experts": 4}),
    }
    for name in names:
        if name == "pretrained":
            yield name, pretrained(five, rows, seed, finetune)
        else:
            make, encoder = ways[name]
            yield (
                name,
                trained(five, rows["labelled"], make, budget, seed, budget.rates[0], **encoder),
            )


def measure(seed, dataset):
    for name in ("tuxpaint", "watch"):
        public.ensure(name)
    five, rows = assembled(dataset, seed)
    found = {}
    for name, method in arms(five, rows, seed):
        each = {name: right(method, five, rows)}
        if name == "skills":
            own = method.encoder.block_hook.rules
            with method.encoder.block_hook.instead(
                dict(zip(own, [*own.values()][1:] + [*own.values()][:1]))
            ):
                each["wrong"] = right(method, five, rows)
        for arm, scores in each.items():
            found |= {arm: mean(scores.values())} | {
                f"{arm}, {field}": x for field, x in scores.items()
            }
    return found
