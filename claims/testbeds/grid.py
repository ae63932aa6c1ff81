"""Which methods and recipes `python -m testbeds defaults` compares, fixed before its first run.

A change here starts new studies; results of the old ones are refused, not mixed in.

**The score** of a recipe is the mean over testbeds of (value - simple) / max(1 - simple, 0.1), of a
testbed's tasks in the mean: the share of what simple features leave to be won. Ranks were the other
choice. They cannot be averaged over seeds trial by trial, as successive halving does, and count a
difference of noise on one testbed as much as one of ten points on another. The floor of 0.1 is for
testbeds where simple features get nearly all: there, noise would be divided by next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEAST_ROOM = 0.1
"""Of 1 - simple."""
SEEDS = (0,)
"""One: recipes are compared over many testbeds, whose differences are larger than those of seeds.
The table has more."""
RUNGS, ETA = 3, 2
"""A quarter, half and all of a testbed's steps."""

STEPS: Mapping[str, int] = {
    "basic_motions": 400,
    "globe": 80,
    "gse7390": 100,
    "penguins": 400,
    "watch": 100,
    "wine": 400,
}
"""Testbed -> steps of the last rung. All studies together are to take one core ten hours, so these
are the testbeds whose steps are cheap: of `simclr`, 0.1 to 0.3 s, watch 0.6 and globe 1.2 (of
foldoc 4.5 by `mae`). What is chosen on them says most about tables and series; `--only` adds others
at the steps of their pages."""

ENCODERS: Mapping[str, tuple[str, ...]] = {
    "image": ("convnet:stem=2,norm=group", "convnet:stem=2,stages=4,norm=group"),
    "series": ("resnet1d:stem=2,norm=layer", "resnet1d:stem=4,norm=layer"),
    "table": ("mlp:norm=layer", "mlp:norm=layer,width=512"),
}
"""Kind -> networks from scratch that `python -m testbeds encoders` compares with its tokens. Their
norms are of single rows: a default must not take micro-batches away, which batch statistics do."""
ENCODER_STEPS: Mapping[str, Mapping[str, int]] = {
    "image": {"fashion_mnist": 200, "globe": 80},
    "series": {"globe": 80, "watch": 150},
    "table": {"breast_cancer": 200, "digits": 100, "gse7390": 60, "penguins": 200, "wine": 200},
}
"""Kind -> testbed -> steps. Testbeds at the ceiling say nothing (basic_motions), and tuxpaint takes
six minutes a trial."""
ENCODER_SEEDS = (0, 1)
FOLLOWS: Mapping[str, str] = {
    "barlow_twins": "simclr",
    "byol": "simclr",
    "dino": "simclr",
    "siglip": "clip",
    "vicreg": "simclr",
}
"""Method -> another that learns from the same views of the same fields. Of the networks only the
winner of that one is compared with tokens, with `FOLLOW_SEEDS`: a whole study of each takes two
hours, and what suits a kind of field hardly depends on the loss. Where it does, tokens win."""
FOLLOW_SEEDS = (0,)
FOLLOW_STEPS: Mapping[str, Mapping[str, int]] = {
    "image": {"fashion_mnist": 100},
    "series": {"watch": 150},
    "table": {"breast_cancer": 200, "digits": 50, "gse7390": 60, "penguins": 200, "wine": 200},
}
"""Kind -> testbed -> steps, for these."""

AUGMENTATION: Mapping[str, str] = {
    "barlow_twins": "weak",
    "clip": "strong",
    "data2vec": "strong",
    "dino": "weak",
    "mae": "strong",
    "siglip": "strong",
    "simclr": "weak",
}
"""Method -> the other strength of augmentation, beside its own. These are the methods that fit any
data, whatever it is of."""
METHODS = tuple(sorted({*AUGMENTATION, *FOLLOWS}))
"""All that the commands compare."""
TABLE = tuple(sorted({*METHODS, "lejepa", "scarf", "simcse", "ts2vec"}))
"""Methods of `python -m testbeds table`: general ones, and those of one kind of data that people
would take first for it."""
ALIGNING = ("clip", "siglip")
"""Methods that align fields. A retrieval between fields counts for them alone: the fields of others
have no common space, whatever the recipe."""


def recipes(method: str) -> dict[str, dict[str, Any]]:
    """Name -> changes of the plain recipe.

    One thing is changed at a time, then those that are known to work together on small data: a high
    rate with regularization, and small batches with more steps (records are held equal).
    """
    views = {"views": {"all": (AUGMENTATION[method],)}}
    return {
        "plain": {},
        "lr 3e-4": {"lr": 3e-4},
        "lr 3e-3": {"lr": 3e-3},
        "no decay": {"weight_decay": 0.0},
        "decay 0.3": {"weight_decay": 0.3},
        "batch 32": {"batch_size": 32},
        "drop path 0.1": {"drop_path": 0.1},
        f"{AUGMENTATION[method]} views": views,
        "lr 3e-3, decay 0.3, drop path 0.1": {
            "lr": 3e-3,
            "weight_decay": 0.3,
            "drop_path": 0.1,
        },
        "batch 32, drop path 0.1": {"batch_size": 32, "drop_path": 0.1},
        f"lr 3e-3, {AUGMENTATION[method]} views": {"lr": 3e-3, **views},
        f"batch 32, {AUGMENTATION[method]} views": {"batch_size": 32, **views},
    }
