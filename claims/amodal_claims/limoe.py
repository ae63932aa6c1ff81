"""LIMoE (row 168): entropies that keep the words of a sparse one-tower model from crowding into few
experts. Mustafa et al., NeurIPS 2022, arXiv:2206.02770.

OpenMoji at 48 pixels (36 tokens) with its annotation (about 5 tokens). One tower of two blocks, of
which the second is sparse: dense; 8 experts with importance, load and z losses; the same with
LIMoE's entropies. A token passes one perceptron of the same size in all.
"""

from dataclasses import replace
from statistics import mean

import torch

from amodal import methods
from amodal.data import Loader
from amodal.evaluate import embed_records
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.evaluate.protocols.retrieval import retrieval
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best

CLAIM = (
    "At equal operations a token, the sparse tower with entropy losses finds held-out emoji by annotation and the reverse better than the "
    "dense tower (Recall@10); without them fewer tokens of the words get through to their expert, and fewer experts see words."
)
DATA = "openmoji"
SEEDS = 5
BUDGET = Budget(steps=200, batch=64, rates=(1e-3, 4e-3))
FIELDS = ("image", "annotation")
ARMS = {
    "dense": ("clip", {}, {"trunk": "shared"}),
    "classic": ("limoe", {"entropy": False}, {"trunk": "shared", "experts": 8}),
    "entropies": ("limoe", {}, {"trunk": "shared", "experts": 8}),
}
RECALL, PASSED, USED = (
    "Recall@10, mean of both directions",
    "share of words' tokens",
    "experts with 1 % of words' tokens",
)
COMPARISONS = (
    Comparison("entropies against dense", RECALL, "entropies", "dense"),
    Comparison("entropies against classic losses", RECALL, "entropies", "classic"),
    Comparison("words that reach their expert", PASSED, "passed, entropies", "passed, classic"),
    Comparison("experts that see words", USED, "used, entropies", "used, classic"),
)


def prepared(dataset):
    fields = dataset.select(FIELDS).fields
    image, text = (
        replace(fields["image"], size=48, patch=8),
        replace(fields["annotation"], patch=4, max_length=16),
    )
    return dataset.select(FIELDS).with_fields({"image": image, "annotation": text})


def recall(method, emoji, part):
    rows = retrieval(
        None, embed_records(method.encoder, emoji, emoji.split(part)), recall_at=(10,)
    ).rows
    return mean(row["value"] for row in rows if row["metric"] == "recall@10")


def arm(name, emoji, seed, budget=BUDGET):
    method, options, encoder = ARMS[name]
    make = lambda e: methods.build(method, e, **options)  # noqa: E731
    return best(
        emoji,
        emoji.split("train"),
        make,
        budget,
        seed,
        lambda m: recall(m, emoji, "valid"),
        **encoder,
    )


@torch.no_grad()
def routed(method, emoji, part="test"):
    """modality -> tokens of held-out records that go to each expert (E,), and the share of its tokens
    that reach theirs."""
    encoder, logits = method.encoder, {s: [] for s in FIELDS}
    for batch in Loader(emoji, emoji.split(part), batch=256, shuffle=False):
        routing = {}
        encoder.encode(encoder.tokenize(batch), router_logits=routing)
        for s in FIELDS:
            logits[s].append(routing["all", 0][s].x)
    least, found = encoder.trunks["all"].blocks[1].mlp.threshold, {}
    for s in FIELDS:
        surest, expert = torch.cat(logits[s]).softmax(1).max(1)
        passed = surest >= least[expert]
        found[s] = (
            torch.bincount(expert[passed], minlength=len(least)),
            float(passed.float().mean()),
        )
    return found


def measure(seed, dataset):
    emoji, found = prepared(dataset), {}
    for name in ARMS:
        method = arm(name, emoji, seed)
        found[name] = recall(method, emoji, "test")
        if name != "dense":
            counts, passed = routed(method, emoji)["annotation"]
            found[f"passed, {name}"], found[f"passed by pictures, {name}"] = (
                passed,
                routed(method, emoji)["image"][1],
            )
            found[f"used, {name}"] = float((counts >= 0.01 * counts.sum()).sum())
    return found


def picture(dataset, path):
    """Of the tokens that each modality sends through, the share that each expert gets."""
    emoji = prepared(dataset)
    with drawing(path, 7, 2.6) as figure:
        for ax, name in zip(figure.subplots(1, 2, sharey=True), ("classic", "entropies")):
            for k, (field, (counts, passed)) in enumerate(
                routed(arm(name, emoji, 0), emoji).items()
            ):
                share, label = counts / counts.sum(), f"{field}: {passed:.0%} get through"
                ax.bar(
                    [e + 0.4 * k for e in range(len(share))],
                    share.tolist(),
                    0.4,
                    color=COLOURS[k],
                    label=label,
                )
            ax.set(
                title=f"{name} losses" if name == "classic" else "with entropies",
                xlabel="expert",
                ylabel="share of tokens",
            )
            ax.margins(y=0.4)  # room for the legend above the bars
            ax.legend()
