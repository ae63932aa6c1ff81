"""SkillNet (row 98): skills switched on by a rule, in one model of several kinds of data. Dai et al.,
2022, arXiv:2205.06126. GENERATED scenes of one to four shapes in nine patches with captions in words;
400 pairs to learn from, by contrast. Of the paper's five kinds of data these are two, and of its tasks
the retrieval of pictures by text.

All arms have values as they are, the same steps, batch and rate and differ in the trunk: `dense`, one
for both; `separate`, one for each; `skills`, one whose projections of attention have copies for
pictures, for words, for both (general) and for relating them, of which three are averaged. A token
passes perceptrons and attention of the same size in all. `wrong` is `skills` tested with the other
modality's skill in the place of its own. The rate is half of that of `_scene_pairs`, at which a trunk
that is shared stays at chance on some seeds; on five seeds of pilots it has .43 to .51.

The control is the dense trunk, which has to do better than chance, than itself before the first step
and than a CCA of simple features. An earlier form of this claim had five tasks of one modality each
(emoji, written and spoken languages, a watch, code), no floors and four comparisons that decided
together: .604 with skills, .605 dense, .610 separate, .494 with another modality's skills.
"""

from amodal import methods
from amodal_claims import Comparison, _scene_pairs, _scenes
from amodal_claims._arms import Budget, trained

CLAIM = (
    "At the same activated parameters, one trunk whose skills a rule switches on finds held-out pictures by caption and the reverse better "
    "(Recall@1) than a dense trunk that both share."
)
DATA = _scene_pairs.DATA
STEPS = (150, 300)
ROW, RATE = 98, 2e-3
SKILLS = "image=image+general, text=text+general"
PRIMARY = Comparison(
    "skills against a dense trunk",
    _scene_pairs.RECALL,
    "skills",
    "dense",
    interest=_scene_pairs.INTEREST,
)
SECONDARY = (
    Comparison(
        "skills against separate trunks, at most .03 less",
        _scene_pairs.RECALL,
        "skills",
        "separate",
        margin=-0.03,
    ),
    Comparison("own skills against another modality's", _scene_pairs.RECALL, "skills", "wrong"),
)
FLOORS = _scene_pairs.FLOORS
ARMS = {"dense": "shared", "separate": "separate", "skills": "shared"}


def skilled(encoder):
    method = methods.build(
        "skillnet_mm", encoder, skills=SKILLS, masked=0.0, width=_scene_pairs.WIDTH
    )
    method.views = ("plain",)
    return method


def learnt(arm, words, seed, steps):
    rows, budget = _scene_pairs.learnt_from(words, seed, ROW), Budget(steps, _scene_pairs.BATCH)
    make = skilled if arm == "skills" else _scene_pairs.clip
    return trained(words, rows, make, budget, seed, RATE, trunk=ARMS[arm])


def floors(seed, dataset):
    words = _scenes.cells(dataset)
    return _scene_pairs.floors(_scene_pairs.clip, words, seed, ROW, trunk="shared")


def control(seed, dataset, steps):
    words = _scenes.cells(dataset)
    return {"dense": _scene_pairs.recall(learnt("dense", words, seed, steps), words)}


def measure(seed, dataset, steps):
    words, found = _scenes.cells(dataset), {}
    for arm in ARMS:
        method = learnt(arm, words, seed, steps)
        found[arm] = _scene_pairs.recall(method, words)
        if arm == "skills":
            hook = method.encoder.block_hook
            image, text = hook.rules["image"], hook.rules["text"]
            with hook.instead({"image": text, "text": image}):
                found["wrong"] = _scene_pairs.recall(method, words)
    return found
