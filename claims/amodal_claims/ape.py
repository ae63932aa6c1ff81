"""APE (row 102): a small head between two frozen encoders, against a CLIP that learns from the same
few pairs alone. Rosenfeld, Nakkiran, Pouransari, Tuzel and Faghri, 2022, arXiv:2210.03927. Real:
OpenMoji's pictures and English names to learn from and, other emoji, to test on; Tux Paint's stamps
and captions as another style, looked at once. Frozen are EfficientNet-lite0 (ImageNet) and MiniLM
(sentences), by the vectors that they give. LiT has the same frozen pictures and reads names with a
small tower of its own. Every arm takes the same steps of the same batch and has the better of two
learning rates on validation emoji. The paper's third baseline, to tune both encoders whole, is not
run: it is more work than all the rest."""

from dataclasses import replace

import numpy as np
import torch

from amodal import data, methods
from amodal.data import sets
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.modalities.image import Image
from amodal.modalities.text import Text
from amodal.nn import config
from amodal.nn.encoder import Encoder
from amodal.train import packaged
from amodal.train.cache_features import with_cached_features
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit

CLAIM = (
    "With the same pairs and steps, a head between frozen encoders finds held-out pictures and names better than CLIP from scratch and "
    "than LiT, and keeps a larger share of it on pictures of another style."
)
DATA = "openmoji"
SHIFT = "tuxpaint"
SEEDS = 5
BUDGET = Budget(steps=120, batch=128, rates=(1e-3, 4e-3))
FROZEN = {"image": "package:efficientnet_lite0", "name": "package:minilm"}
SIDE = 128  # of pictures for the backbone
ARMS = {"ape": ("image", "name"), "lit": ("image",), "clip": ()}
METRIC = "Recall@10, mean of both directions, 300 held-out"
COMPARISONS = (
    Comparison("emoji: APE against CLIP from scratch", f"{METRIC} emoji", "ape", "clip"),
    Comparison("emoji: APE against LiT", f"{METRIC} emoji", "ape", "lit"),
    Comparison("stamps, another style: APE against CLIP from scratch", f"{METRIC} stamps", "ape, stamps", "clip, stamps"),
    Comparison("stamps: APE against LiT", f"{METRIC} stamps", "ape, stamps", "lit, stamps"),
    Comparison("share that is kept on stamps: APE against LiT", "Recall@10 on stamps / on emoji", "ape, kept", "lit, kept"),
)  # fmt: skip


def pairs(dataset, text):
    """Pictures and English names of the records that have both, as a dataset of two fields."""
    there = np.flatnonzero(dataset.present("image") & dataset.present(text))
    columns = {
        "image": [dataset.raw(int(i), "image") for i in there],
        "name": [dataset.raw(int(i), text) for i in there],
    }
    picture = Image.infer(columns["image"][:100], size=32, channels=3, patch=8, flip=False)
    return data.open(columns, fields={"image": picture, "name": Text(max_length=24, patch=2)})


def fresh(fields, resolve_specs, seed):
    torch.manual_seed(seed)
    return Encoder(
        fields, size=BUDGET.size, backbones=config.backbones(resolve_specs, fields, BUDGET.size)
    )


def with_features(dataset, encoder):
    """The records as the encoder's frozen backbones see them, computed once for all arms and seeds."""
    dataset = dataset.with_fields(encoder.fields)
    if not any(map(encoder.contextual, encoder.fields)):
        return dataset
    return with_cached_features(dataset, encoder, torch.device("cpu"), pooled=True, progress=False)


def recall(method, dataset, rows):
    found = retrieval(
        None, embed_records(method.encoder, dataset, rows, labels=False), recall_at=(10,)
    ).rows
    return float(np.mean([row["value"] for row in found if row["metric"] == "recall@10"]))


def measure(seed, dataset):
    sets.ensure(SHIFT)
    home, away = pairs(dataset, "annotation"), pairs(data.open(SHIFT), "caption")
    order = np.random.default_rng(seed).permutation(len(home))
    train, valid, test = np.sort(order[:1600]), np.sort(order[1600:1900]), np.sort(order[1900:2200])
    other = np.sort(np.random.default_rng(seed).permutation(len(away))[:300])
    found = {}
    for arm, frozen in ARMS.items():
        resolve_specs = packaged.resolve_specs({field: FROZEN[field] for field in frozen})
        fields = dict(packaged.match_inputs(home, resolve_specs).fields)
        if "image" in frozen:
            fields["image"] = replace(fields["image"], size=SIDE, patch=SIDE // 8)

        records, stamps = (
            with_features(d, fresh(fields, resolve_specs, seed)) for d in (home, away)
        )
        made = [
            (methods.build(arm, fresh(fields, resolve_specs, seed)), rate) for rate in BUDGET.rates
        ]
        tried = [fit(method, records, train, BUDGET, seed, rate) for method, rate in made]
        method = max(tried, key=lambda one: recall(one, records, valid))
        found[arm], found[f"{arm}, stamps"] = (
            recall(method, records, test),
            recall(method, stamps, other),
        )
        found[f"{arm}, kept"] = found[f"{arm}, stamps"] / found[arm]
    return found
