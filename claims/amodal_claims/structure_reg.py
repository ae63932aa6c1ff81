"""STRUCTURE (row 92): with few pairs, keep each modality's own neighbourhoods and align the layers
that agree most. Gröger et al., NeurIPS 2025, arXiv:2506.16895.

Frozen encoders: SimCLR on the pictures and on the captions of the training records, each modality for
itself, without pairs. Then linear heads learn from 50 or from 400 pairs. Layers are the trunk cut
after 0, 1 or 2 blocks; the pair of layers is chosen on the pairs alone.
"""

from functools import partial

import numpy as np
import torch

from amodal import methods
from amodal.data import Loader
from amodal.diagnose.neighbours import layer_agreement, most_alike
from amodal.nn.encoder import Encoder
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best, trained
from amodal_claims._stamps import IMAGE, TEXT, parts, recall, stamps, zero_shot

CLAIM = (
    "With 50 pairs, the structure term raises held-out recall@10 over InfoNCE between last layers, so does aligning the two layers that "
    "agree most, and both together also raise zero-shot accuracy; their gain in recall is larger with 50 pairs than with 400."
)
DATA = "tuxpaint"
SEEDS = 5
BEFORE = Budget(steps=200, batch=64, rates=(2e-3,))
BUDGET = Budget(steps=120, batch=64, rates=(2e-3, 1e-2))
FEW, MANY = 50, 400
RECALL = "Recall@10, held-out pairs, mean of both directions"
COMPARISONS = (
    Comparison(
        "structure term, last layers, 50 pairs",
        RECALL,
        "recall, structure, 50",
        "recall, plain, 50",
    ),
    Comparison(
        "layers that agree most, no term, 50 pairs",
        RECALL,
        "recall, layers, 50",
        "recall, plain, 50",
    ),
    Comparison(
        "both, 50 pairs",
        "balanced accuracy, zero-shot",
        "zero-shot, both, 50",
        "zero-shot, plain, 50",
    ),
    Comparison("gain of both, 50 pairs against 400", RECALL, "gain, 50", "gain, 400"),
)


def cut(weights: dict, layers: tuple[int, int], encoder: Encoder) -> Encoder:
    """The pretrained encoder, its trunks ended after so many blocks (image, caption)."""
    encoder.load_state_dict(weights)
    for field, blocks in zip((IMAGE, TEXT), layers):
        encoder.trunks[field].blocks = encoder.trunks[field].blocks[:blocks]
    return encoder


@torch.no_grad()
def by_layer(weights, dataset, rows):
    """For pictures and for captions: a list of (n, D), one for each layer."""
    depth = len(Encoder(dataset.fields, size=BUDGET.size).trunks[IMAGE].blocks)
    batch = next(iter(Loader(dataset, rows, batch=len(rows), steps=1)))
    found = [
        cut(weights, (k, k), Encoder(dataset.fields, size=BUDGET.size)).eval().features(batch)
        for k in range(depth + 1)
    ]
    return [[z.pair(IMAGE, TEXT)[side] for z in found] for side in (0, 1)]


def measure(seed, dataset):
    pictures = stamps(dataset)
    rows = parts(pictures, seed)
    before = trained(
        pictures, rows["train"], partial(methods.build, "simclr"), BEFORE, seed, *BEFORE.rates
    )
    weights, found = before.encoder.state_dict(), {}
    for n in (FEW, MANY):
        pairs = np.sort(np.random.default_rng([seed, n]).permutation(rows["train"])[:n])
        last = (len(before.encoder.trunks[IMAGE].blocks),) * 2
        chosen = most_alike(layer_agreement(*by_layer(weights, pictures, pairs)))
        found |= {f"layer of {s}, {n}": float(k) for s, k in zip((IMAGE, TEXT), chosen)}
        arms = {
            "plain": (last, 0.0),
            "structure": (last, 10.0),
            "layers": (chosen, 0.0),
            "both": (chosen, 10.0),
        }
        for arm, (layers, weight) in arms.items():

            def make(encoder, layers=layers, weight=weight):
                return methods.build(
                    "structure_reg",
                    cut(weights, layers, encoder),
                    weight=weight,
                    warmup=BUDGET.steps // 4,
                )

            method = best(
                pictures, pairs, make, BUDGET, seed, lambda m: recall(m, pictures, rows["valid"])
            )
            found[f"recall, {arm}, {n}"] = recall(method, pictures, rows["test"])
            found[f"zero-shot, {arm}, {n}"] = zero_shot(method, pictures, rows["test"])
        found[f"gain, {n}"] = found[f"recall, both, {n}"] - found[f"recall, plain, {n}"]
    return found
