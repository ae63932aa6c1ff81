"""MMRL (row 187): tokens of one learned space in the upper blocks of both towers, distinguished for
classes learnt and new ones. Guo and Gu, CVPR 2025, arXiv:2503.08497.

Emoji and texts that name their subgroup train a small CLIP; subgroups are the classes. Half of
them, drawn by the seed, are base classes with eight pictures each to adapt to; held-out pictures of
both halves are predicted among their own half. There is no second drawer of emoji here, as a change of
domain would want. Arms, at the same steps and two learning rates (kept is what predicts base classes
best among records to choose by): `mmrl`; `apart`, independent deep prompts in each tower, learned
by the class feature's loss alone; `free`, MMRL without its cosines to the frozen towers; `linear`,
a map of the frozen picture vectors that begins as the identity; `zero`, the CLIP as it is."""

import torch
from torch.nn.functional import cross_entropy, normalize

from amodal_claims import Comparison
from amodal_claims._arms import Budget
from amodal_claims._new_classes import DATA as DATA
from amodal_claims._new_classes import adapted, predicted, task

CLAIM = (
    "Adapted to a few pictures of half of the classes, MMRL has a higher harmonic mean of base and new classes than the CLIP as it is, "
    "than a linear map of its picture vectors and than independent deep prompts in each tower; new classes are predicted worse without the "
    "cosines to the frozen towers, and worse when representation features are mixed in."
)
SEEDS = 5
BUDGET = Budget(steps=60, batch=32, rates=(1e-3, 4e-3))
ARMS = {"mmrl": {}, "apart": {"space": 0, "alpha": 1.0, "weight": 0.0}, "free": {"weight": 0.0}}
HARMONIC, NEW = "harmonic mean of accuracies on base and new classes", "accuracy on new classes"
COMPARISONS = (
    Comparison("against the CLIP as it is", HARMONIC, "harmonic: mmrl", "harmonic: zero"),
    Comparison("against a linear map", HARMONIC, "harmonic: mmrl", "harmonic: linear"),
    Comparison("against independent deep prompts", HARMONIC, "harmonic: mmrl", "harmonic: apart"),
    Comparison(
        "with the cosines to the frozen towers against without", NEW, "new: mmrl", "new: free"
    ),
    Comparison("class features against both", NEW, "new: mmrl", "new by both: mmrl"),
)


def linear(made, rate, steps):
    """(D, D): trained on the frozen vectors of the pictures to adapt to."""
    from amodal.evaluate import embed_records

    shown = normalize(
        embed_records(made.encoder, made.few, range(len(made.few)), labels=False)
        .aligned["image"]
        .values,
        dim=1,
    )
    truth = torch.tensor([made.base.index(c) for c in made.few.label("class")])
    names = made.names(made.encoder)[: len(made.base)]
    weight = torch.eye(shown.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([weight], rate)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(made.scale * normalize(shown @ weight, dim=1) @ names.T, truth).backward()
        optimizer.step()
    return weight.detach()


def measure(seed, dataset):
    made = task(dataset, seed)
    names, frozen = (
        made.names(made.encoder),
        {
            p: made.pictures(made.encoder, r)
            for p, r in (("valid", made.valid), ("test", made.test))
        },
    )
    found = {"zero": made.judged(frozen["test"] @ names.T)}
    maps = (linear(made, rate, BUDGET.steps) for rate in BUDGET.rates)
    weight = max(maps, key=lambda w: made.accuracy(normalize(frozen["valid"] @ w, dim=1) @ names.T))
    found["linear"] = made.judged(normalize(frozen["test"] @ weight, dim=1) @ names.T)
    both = {}
    for arm, options in ARMS.items():
        method = adapted("mmrl", made, BUDGET, seed, **options)
        both[arm] = predicted(method, made, made.test, True)
        found[arm] = made.judged(both[arm], predicted(method, made, made.test, False))
    numbers = {
        f"{n}: {arm}": getattr(f, n)
        for arm, f in found.items()
        for n in ("base", "new", "harmonic")
    }
    return numbers | {
        "new by both: mmrl": made.judged(both["mmrl"]).new,
        "base classes": float(len(made.base)),
    }
