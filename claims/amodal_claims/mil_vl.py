"""LSE+NL (row 81): which pooling of regions matches a picture and its report, and which points at
what a sentence describes. Wang et al., IPMI 2023, arXiv:2212.05561. GENERATED scenes of one to four
shapes with a sentence each, because boxes must be known. Arms differ in the score alone: same
encoder, sentences, steps, batch and rate. Each retrieves by the score it was trained with, LSE+NL
by the sum of its two logits; every arm points by the cosine of a sentence with each patch."""

from functools import partial
from statistics import mean

import torch
from torch.nn.functional import normalize

from amodal import methods
from amodal.evaluate import embed_records
from amodal.evaluate.grounding import contrast_to_noise, pointing
from amodal.objectives.mil import bag_scores, pooling
from amodal_claims import Comparison, _scenes
from amodal_claims._arms import Budget, trained

CLAIM = (
    "Log-sum-exp over regions plus a global score finds held-out pictures and reports by each other (mean Recall@1) better than the global "
    "score, the best region or attention alone, and its maps have a higher contrast-to-noise ratio at the boxes than the global score's."
)
DATA = _scenes.DATA
SEEDS = 5
BUDGET = Budget(steps=150, batch=96, rates=(4e-3,))
SHARPNESS = 10.0
ARMS = {
    "global": {"local": 0.0}, "max": {"pool": "max", "whole": 0.0}, "attention": {"pool": "attention", "whole": 0.0},
    "lse": {"whole": 0.0}, "lse+nl": {},
}  # fmt: skip
RECALL = "Recall@1, mean of both directions"
COMPARISONS = tuple(
    Comparison(f"retrieval: LSE+NL against {arm}", RECALL, "recall: lse+nl", f"recall: {arm}")
    for arm in ("global", "max", "attention")
) + (
    Comparison(
        "grounding: LSE+NL against global",
        "contrast-to-noise ratio (signed)",
        "cnr: lse+nl",
        "cnr: global",
    ),
    Comparison(
        "grounding: LSE against global",
        "contrast-to-noise ratio (signed)",
        "cnr: lse",
        "cnr: global",
    ),
)


def measure(seed, dataset):
    words, found = _scenes.cells(dataset), {}
    train, test = words.split("train"), words.split("test")
    cover = _scenes.places(words, test)
    found["pointing: chance"] = float((cover > 0).double().mean())
    for arm, options in ARMS.items():
        make = partial(
            methods.build, "mil_vl", width=64, captions=4, sharpness=SHARPNESS, **options
        )
        method = trained(words, train, make, BUDGET, seed, BUDGET.rates[0])
        patches, (lines, lengths) = (
            _scenes.patches(method, words, test),
            _scenes.lines(method, words, test),
        )
        maps = _scenes.laid_over(patches, lines, lengths)
        pictures = (
            embed_records(method.encoder, words.select(["image"]), test, labels=False)
            .aligned["image"]
            .values
        )
        found[f"recall: {arm}"] = recall_at_1(
            scores(method, options, pictures, patches, lines, lengths)
        )
        found[f"cnr: {arm}"] = mean(contrast_to_noise(maps, cover).tolist())
        found[f"pointing: {arm}"] = mean(pointing(maps, cover).tolist())
    return found


@torch.no_grad()
def scores(method, options, pictures, patches, lines, lengths):
    """(N, N) pictures against reports, by the scores that the arm was trained with."""
    total, there = 0.0, torch.ones(patches.shape[:2], dtype=torch.bool)
    if options.get("local", 1.0):
        pool = pooling(options.get("pool", "lse"), SHARPNESS)
        parts = zip(patches.split(32), there.split(32))
        total = (
            torch.cat([bag_scores(p, m, lines, lengths, pool=pool) for p, m in parts])
            * method.scales["local"]()
        )
    if options.get("whole", 1.0):
        alone, one = (
            normalize(pictures, dim=1)[:, None],
            torch.ones(len(pictures), 1, dtype=torch.bool),
        )
        total = (
            total
            + bag_scores(alone, one, lines, lengths, pool=pooling("mean", 1.0))
            * method.scales["whole"]()
        )
    return total


def recall_at_1(scores):
    own = torch.arange(len(scores))
    return (
        float((scores.argmax(1) == own).double().mean() + (scores.argmax(0) == own).double().mean())
        / 2
    )
