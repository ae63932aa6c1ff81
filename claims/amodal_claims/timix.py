"""TiMix (row 79): pasting what fits one caption over what fits another least teaches more from the
same pairs. Jiang et al., AAAI 2024, arXiv:2312.08846. GENERATED scenes of one to four shapes, each
in a patch of its own, so that a window has something to be chosen for; 400 pairs to learn from. Every
arm has values as they are and the same steps, batch and rate; the arms that mix compute one more pass
of pictures a step. How well a patch fits its caption is predicted by the
encoder that is being trained; the paper trains a predictor on boxes.

The control is the same without mixing (CLIP), which has to do better than chance, than itself before
the first step and than a CCA of simple features. An earlier form of this claim had Tux Paint's stamps
and seven comparisons that decided together, without floors: Recall@10 .119 with TiMix, .110 without
mixing, .117 with CutMix, .105 with mixup.
"""

from functools import partial

from amodal import methods
from amodal_claims import Comparison, _scene_pairs, _scenes

CLAIM = "From the same pairs and steps, mixing guided by captions finds held-out pictures and captions better (Recall@1) than no mixing."
DATA = _scene_pairs.DATA
STEPS = (150, 300)
ROW = 79
ARMS = {
    "none": {"weight": 0.0},
    "cutmix": {"place": "random"},
    "timix": {"place": "text"},
}
PRIMARY = Comparison(
    "TiMix against no mixing",
    _scene_pairs.RECALL,
    "timix",
    "none",
    interest=_scene_pairs.INTEREST,
)
SECONDARY = (
    Comparison("TiMix against CutMix at random places", _scene_pairs.RECALL, "timix", "cutmix"),
)
FLOORS = _scene_pairs.FLOORS


def made(arm, encoder):
    method = methods.build("timix", encoder, width=_scene_pairs.WIDTH, **ARMS[arm])
    method.views = ("plain",)
    return method


def floors(seed, dataset):
    return _scene_pairs.floors(partial(made, "none"), _scenes.cells(dataset), seed, ROW)


def of_arm(arm, seed, dataset, steps):
    words = _scenes.cells(dataset)
    method = _scene_pairs.learnt(partial(made, arm), words, seed, ROW, steps)
    return {arm: _scene_pairs.recall(method, words)}


def control(seed, dataset, steps):
    return of_arm("none", seed, dataset, steps)


def measure(seed, dataset, steps):
    return {k: value for arm in ARMS for k, value in of_arm(arm, seed, dataset, steps).items()}
