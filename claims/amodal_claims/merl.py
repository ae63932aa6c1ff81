"""MERL (row 9): reports teach what a signal shows; dropout in the latent space, and prompts that
say more than a name. Liu et al., ICML 2024, arXiv:2403.06659. Data: `heartbeats`, GENERATED
electrocardiograms with reports, because twelve findings must be known for each; a finding's name
stands in about a quarter of the reports that mention it, other words in the rest. Reports are read as
words by an encoder without pretraining, where the paper has a clinical one. 1,120 records to learn
from and 480 to test on are drawn anew for each seed. All arms take the same steps of the same batch
at the learning rate that the library uses for this size; SimCLR learns from two strong views of the
signals alone, and its probe, for each finding, from the labels of 112 records."""

from functools import partial
from statistics import mean

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import methods
from amodal.evaluate import embed_records
from amodal.inference.embed import embed_values
from amodal.inference.knowledge_prompts import knowledge_prompts
from amodal.stats.auroc import auroc
from amodal.stats.logistic import logistic
from amodal_claims import Comparison
from amodal_claims._arms import Budget, features, trained
from amodal_claims.sets import heartbeats

CLAIM = (
    "With the term between two latent dropouts, zero-shot prompts predict findings in held-out signals with a higher macro AUC than with "
    "cross-modal alignment alone; prompts with what a base of knowledge has of a finding do better than its bare name; and they are at "
    "most .02 below a linear probe with 10 % of the labels on features of SimCLR from signals alone."
)
DATA = "heartbeats"
SEEDS = 5
BUDGET = Budget(steps=250, batch=64, rates=(2e-3,))
TRAIN, LABELS = 1120, 112
METRIC = "macro AUC, 12 findings, 480 held-out signals"
COMPARISONS = (
    Comparison("with the latent views against without", METRIC, "merl, knowledge", "cross-modal alone, knowledge"),
    Comparison("prompts with knowledge against names", METRIC, "merl, knowledge", "merl, names"),
    Comparison("zero-shot against SimCLR with 10 % of labels", METRIC, "merl, knowledge", "simclr, 10 % of labels", margin=-0.02),
)  # fmt: skip


def zero_shot(method, dataset, rows, truth, prompts):
    """Macro AUC of the cosine between the signals of `rows` and the prompt of each finding."""
    asked = normalize(embed_values(method.encoder, "report", list(prompts.values())), dim=1)
    seen = (
        embed_records(method.encoder, dataset.select(["ecg"]), rows, labels=False)
        .aligned["ecg"]
        .values
    )
    scores = normalize(seen, dim=1) @ asked.T
    return mean(auroc(scores[:, k].numpy(), truth[rows, k]) for k in range(len(prompts)))


def probed(method, dataset, few, test, truth):
    """Macro AUC of logistic regressions, one a finding, from the records `few`."""
    a, b = (features(method.encoder, dataset, rows)["ecg"].values for rows in (few, test))
    found = []
    for k in range(truth.shape[1]):
        weights, _, _ = logistic(a, torch.from_numpy(truth[few, k].astype(np.int64)), 2)
        found.append(auroc((b @ (weights[:, 1] - weights[:, 0])).numpy(), truth[test, k]))
    return mean(found)


def measure(seed, dataset):
    dataset, truth = heartbeats.words(dataset), heartbeats.truth(dataset)
    order = np.random.default_rng(seed).permutation(len(dataset))
    few, train, test = order[:LABELS], order[:TRAIN], order[TRAIN:]
    few, train, test = (np.sort(rows) for rows in (few, train, test))
    names = {name: name for name in heartbeats.FINDINGS}
    prompts = {"names": names, "knowledge": knowledge_prompts(names, heartbeats.KNOWLEDGE)}
    found = {}
    for arm, weight in (("merl", 1.0), ("cross-modal alone", 0.0)):
        make = partial(methods.build, "merl", weight=weight, width=64, hidden=64)
        method = trained(
            dataset, train, make, BUDGET, seed, BUDGET.rates[0], **methods.encoder_options("merl")
        )
        for kind, some in prompts.items():
            found[f"{arm}, {kind}"] = zero_shot(method, dataset, test, truth, some)
        found[f"{arm}, 10 % of labels"] = probed(method, dataset.select(["ecg"]), few, test, truth)
    signals = dataset.select(["ecg"])
    alone = trained(
        signals,
        train,
        partial(methods.build, "simclr", temperature=0.1),
        BUDGET,
        seed,
        BUDGET.rates[0],
    )
    return found | {"simclr, 10 % of labels": probed(alone, signals, few, test, truth)}
