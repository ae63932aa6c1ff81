"""MLEM (row 7): contrastive and generative encoders of event sequences have different strengths,
and aligning them keeps both. Moskvoretskii et al., 2024, arXiv:2401.15935. Music (four windows of
48 notes of each piece) and CDNOW (customers with four purchases or more, without the last). Tasks
are read off frozen vectors by a linear probe: of the whole sequence, the repertory and how much a
customer buys later; of the next event, its pitch class, and how long it is in coming, in both sets.
All arms take the same steps of the same batch at the learning rate that the library uses for this
size; MLEM spends half of them on its contrastive encoder. Pieces and customers are divided anew for
each seed."""

from functools import partial
from statistics import mean

import numpy as np
import torch

from amodal import data, methods
from amodal.core import Column
from amodal.data import sets
from amodal_claims import Comparison
from amodal_claims._arms import Budget, features, probe, trained

CLAIM = (
    "On event sequences the contrastive encoder is better at tasks of the whole sequence and the generative one at predicting the next event; "
    "MLEM is at least as good (.02 less at most) as the better of the two on most tasks, and better than the sum of both losses on one "
    "encoder."
)
DATA = "music"
SEEDS = 5
BUDGET = Budget(steps=120, batch=32, rates=(2e-3,))
DECODER = {"decoder": 64, "depth": 1}
WINDOWS, NOTES, PURCHASES, TOLERANCE = 4, 48, 4, 0.02
ARMS = ("mlem", "contrastive", "generative", "sum")
WHOLE = ("music: repertory", "cdnow: later purchases")
NEXT = ("music: next pitch", "music: time until the next", "cdnow: time until the next")
SCORE = "accuracy or R2 of a linear probe, mean of"
COMPARISONS = (
    Comparison("whole sequence: contrastive against generative", f"{SCORE} 2 tasks", "whole: contrastive", "whole: generative"),
    Comparison("next event: generative against contrastive", f"{SCORE} 3 tasks", "next: generative", "next: contrastive"),
    Comparison("MLEM as good as the better of the two", "tasks, of 5, against half of them", "mlem as good as the better", 2.5),
    Comparison("MLEM against the sum of both losses", f"{SCORE} 5 tasks", "all: mlem", "all: sum"),
)  # fmt: skip


def music(dataset):
    """Windows of pieces: (events seen, the next event), the piece of each, and what is asked."""
    seen, after, piece = [], [], []
    for i in range(len(dataset)):
        notes, rng = dataset.raw(i, "notes"), np.random.default_rng([7, i])
        for start in rng.integers(max(len(notes) - NOTES, 1), size=WINDOWS):
            window = notes[start : start + NOTES + 1]
            seen.append(window[:-1])
            after.append(window[-1])
            piece.append(i)
    asked = {
        "music: repertory": dataset.label("collection")[piece],
        "music: next pitch": np.array([note["pitch"] for note in after], dtype=object),
        "music: time until the next": waits(seen, after),
    }
    return dataset.fields["notes"], seen, np.array(piece), asked


def cdnow(dataset):
    """Customers: their purchases but the last, and what is asked."""
    every = [dataset.raw(i, "events") for i in range(len(dataset))]
    chosen = np.array([i for i, events in enumerate(every) if len(events) >= PURCHASES])
    seen, after = [every[i][:-1] for i in chosen], [every[i][-1] for i in chosen]
    later = np.log1p(dataset.label("purchases")[chosen])
    asked = {"cdnow: later purchases": later, "cdnow: time until the next": waits(seen, after)}
    return dataset.fields["events"], seen, chosen, asked


def waits(seen, after):
    """(n,) log(1 + the time between the last event seen and the next), in the unit of the data."""
    return np.log1p(np.array([a["time"] - events[-1]["time"] for events, a in zip(seen, after)]))


def scores(arm, field, seen, group, asked, seed):
    """What is read off the vectors of held-out sequences: task -> accuracy or R2."""
    records = data.open({"events": seen}).with_fields({"events": field})
    groups = np.random.default_rng(seed).permutation(np.unique(group))
    within = np.isin(group, groups[: len(groups) * 6 // 10])
    parts = np.flatnonzero(within), np.flatnonzero(~within)
    make = partial(methods.build, "mlem", learns=arm, **DECODER)
    method = trained(
        records, parts[0], make, BUDGET, seed, BUDGET.rates[0], **methods.encoder_options("mlem")
    )
    vectors = [features(method.encoder, records, rows)["events"].values for rows in parts]
    columns = [Column(v, torch.arange(len(v))) for v in vectors]
    return {
        task: probe(columns[0], labels[parts[0]], columns[1], labels[parts[1]])
        for task, labels in asked.items()
    }


def measure(seed, dataset):
    sets.ensure("cdnow")
    made = music(dataset), cdnow(data.open("cdnow"))
    found = {}
    for arm in ARMS:
        tasks = {k: v for one in made for k, v in scores(arm, *one, seed).items()}
        found |= {f"{task}: {arm}": value for task, value in tasks.items()}
        found |= {
            f"{name}: {arm}": mean(tasks[t] for t in some)
            for name, some in (("whole", WHOLE), ("next", NEXT), ("all", WHOLE + NEXT))
        }
    better = {t: max(found[f"{t}: contrastive"], found[f"{t}: generative"]) for t in WHOLE + NEXT}
    return found | {
        "mlem as good as the better": float(
            sum(found[f"{t}: mlem"] >= b - TOLERANCE for t, b in better.items())
        )
    }
