"""DreamLIP (row 104): sentences as positives of their own, tied to the patches they describe,
against CLIP on the whole caption. Zheng et al., ECCV 2024, arXiv:2403.17007. GENERATED scenes,
because the box of every sentence must be known; both arms see the same pictures and captions at the
same steps, batch and rates. DreamLIP reads K + 1 texts where CLIP reads one, and so computes more a
step."""

from functools import partial
from statistics import mean

import torch

from amodal import methods
from amodal.evaluate import embed_records
from amodal.evaluate.grounding import mass_inside, pointing
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.objectives.grouping import group_patches
from amodal_claims import Comparison, _scenes
from amodal_claims._arms import Budget, best

CLAIM = (
    "With the same long captions, sampled sentences as positives plus grouping give a higher Recall@1 from a held-out picture to its whole "
    "caption than CLIP on the whole caption, and a sentence's patches lie more often in the box of what it describes."
)
DATA = _scenes.DATA
SEEDS = 5
BUDGET = Budget(steps=150, batch=96, rates=(2e-3, 6e-3))
OPTIONS = {"clip": {"width": 64}, "dreamlip": {"width": 64, "captions": 4}}
METRICS = {
    "recall": "Recall@1, picture to caption",
    "pointing": "share of lines whose best patch touches the box",
    "mass": "share of the group's weight that lies in the box",
}
COMPARISONS = tuple(
    Comparison("DreamLIP against CLIP", metric, f"{short}: dreamlip", f"{short}: clip")
    for short, metric in METRICS.items()
)


def measure(seed, dataset):
    words = _scenes.cells(dataset)

    def recall(method, part):
        found = retrieval(
            None,
            embed_records(method.encoder, words, words.split(part), labels=False),
            recall_at=(1,),
        )
        return found.value("image", "recall@1", target="text")

    test, found = words.split("test"), {}
    cover = _scenes.places(words, test)
    found["pointing: chance"] = float((cover > 0).double().mean())
    for arm, options in OPTIONS.items():
        make = partial(methods.build, arm, **options)
        method = best(
            words, words.split("train"), make, BUDGET, seed, partial(recall, part="valid")
        )
        found[f"recall: {arm}"] = recall(method, "test")
        maps, groups = pointed(method, words, test)
        found[f"pointing: {arm}"] = mean(pointing(maps, cover).tolist())
        found[f"mass: {arm}"] = mean(mass_inside(groups, cover).tolist())
    return found


def pointed(method, words, rows):
    """Of every line: its cosine with each patch, and the weight of each patch in its group."""
    patches, (lines, lengths) = (
        _scenes.patches(method, words, rows),
        _scenes.lines(method, words, rows),
    )
    own = torch.repeat_interleave(patches, lengths, dim=0)
    _, weights = group_patches(lines[:, None], own, torch.ones(own.shape[:2], dtype=torch.bool))
    maps = _scenes.laid_over(patches, lines, lengths)
    return maps, weights.view_as(maps)
