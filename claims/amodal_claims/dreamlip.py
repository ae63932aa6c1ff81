"""DreamLIP (row 104): sentences as positives of their own, tied to the patches they describe,
against CLIP on the whole caption. Zheng et al., ECCV 2024, arXiv:2403.17007. GENERATED scenes of one
to four shapes with a sentence each, because the box of every sentence must be known; 400 of them to
learn from. Both arms see the same pictures and captions as they are, at the same steps, batch and
rate. DreamLIP reads K + 1 texts where CLIP reads one, and so computes more a step.

The control is CLIP, which has to do better than chance, than itself before the first step and than a
CCA of simple features. An earlier form of this claim learnt from all 3,175 scenes with crops and
slices for views, without floors: Recall@1 from picture to caption .238 for DreamLIP, .470 for CLIP;
.789 and .066 of the sentences had their best patch in the box.
"""

from statistics import mean

import torch

from amodal import methods
from amodal.evaluate.grounding import mass_inside, pointing
from amodal.objectives.grouping import group_patches
from amodal_claims import Comparison, _scene_pairs, _scenes

CLAIM = (
    "With the same long captions, sampled sentences as positives plus grouping find held-out pictures by their whole captions and the reverse "
    "better (Recall@1) than CLIP on the whole caption."
)
DATA = _scene_pairs.DATA
STEPS = (150, 300)
ROW, CAPTIONS = 104, 4
PRIMARY = Comparison(
    "DreamLIP against CLIP",
    _scene_pairs.RECALL,
    "recall: dreamlip",
    "recall: clip",
    interest=_scene_pairs.INTEREST,
)
SECONDARY = (
    Comparison(
        "DreamLIP against CLIP",
        "share of lines whose best patch touches the box",
        "pointing: dreamlip",
        "pointing: clip",
    ),
    Comparison(
        "DreamLIP against CLIP",
        "share of the group's weight that lies in the box",
        "mass: dreamlip",
        "mass: clip",
    ),
)
FLOORS = _scene_pairs.FLOORS


def dreamlip(encoder):
    method = methods.build("dreamlip", encoder, width=_scene_pairs.WIDTH, captions=CAPTIONS)
    method.views = {f: ("plain", *v[1:]) for f, v in method.views.items()}  # sentences as before
    return method


ARMS = {"clip": _scene_pairs.clip, "dreamlip": dreamlip}


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


def floors(seed, dataset):
    words = _scenes.cells(dataset)
    cover = _scenes.places(words, words.split("test"))
    return _scene_pairs.floors(_scene_pairs.clip, words, seed, ROW) | {
        "pointing: chance": float((cover > 0).double().mean())
    }


def arm(name, seed, dataset, steps):
    words = _scenes.cells(dataset)
    method = _scene_pairs.learnt(ARMS[name], words, seed, ROW, steps)
    test = words.split("test")
    (maps, groups), cover = pointed(method, words, test), _scenes.places(words, test)
    return {
        f"recall: {name}": _scene_pairs.recall(method, words),
        f"pointing: {name}": mean(pointing(maps, cover).tolist()),
        f"mass: {name}": mean(mass_inside(groups, cover).tolist()),
    }


def control(seed, dataset, steps):
    return arm("clip", seed, dataset, steps)


def measure(seed, dataset, steps):
    return {key: value for name in ARMS for key, value in arm(name, seed, dataset, steps).items()}
