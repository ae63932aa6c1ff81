"""MMRL++ (row 198): one map into each tower that blocks change a little, and tokens that go on from
block to block. Guo and Gu, 2025, arXiv:2505.10088.

The set-up of the claim of MMRL (row 187): a small CLIP of emoji, adapted to eight pictures of each
of half of the subgroups and tested on both halves. Arms: `mmrl`; `pp`, MMRL++ as published (beta
.9, rank 4), but with a residual of rank 8 for the projection, whose full rank is 64 here;
`replaced`, the same with beta 1. In towers of two blocks a token goes on once, from the first to
the second."""

from amodal_claims import Comparison
from amodal_claims._arms import Budget
from amodal_claims._new_classes import DATA as DATA
from amodal_claims._new_classes import adapted, predicted, task

CLAIM = (
    "With fewer trained parameters than MMRL, MMRL++ reaches a harmonic mean of base and new classes that is as high (not lower by .02), "
    "and handing tokens on (beta .9) gives a higher one than replacing them (beta 1)."
)
SEEDS = 5
BUDGET = Budget(steps=60, batch=32, rates=(1e-3, 4e-3))
ARMS = {
    "mmrl": ("mmrl", {}),
    "pp": ("mmrl_pp", {"head_rank": 8}),
    "replaced": ("mmrl_pp", {"head_rank": 8, "beta": 1.0}),
}
HARMONIC = "harmonic mean of accuracies on base and new classes"
COMPARISONS = (
    Comparison(
        "fewer parameters: MMRL against MMRL++",
        "trained parameters, thousands",
        "parameters: mmrl",
        "parameters: pp",
    ),
    Comparison("MMRL++ against MMRL", HARMONIC, "harmonic: pp", "harmonic: mmrl", margin=-0.02),
    Comparison("tokens handed on against replaced", HARMONIC, "harmonic: pp", "harmonic: replaced"),
)


def measure(seed, dataset):
    made = task(dataset, seed)
    zero = made.judged(made.pictures(made.encoder, made.test) @ made.names(made.encoder).T)
    found = {"harmonic: zero": zero.harmonic}
    for arm, (name, options) in ARMS.items():
        method = adapted(name, made, BUDGET, seed, **options)
        own = made.judged(
            predicted(method, made, made.test, True), predicted(method, made, made.test, False)
        )
        found |= {f"{n}: {arm}": getattr(own, n) for n in ("base", "new", "harmonic")}
        found[f"parameters: {arm}"] = (
            sum(p.numel() for p in method.parameters() if p.requires_grad) / 1000
        )
    return found
