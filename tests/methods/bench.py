"""Small batches of every kind of data, for tests of methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch

from amodal import methods, modalities
from amodal.core import Batch, Column, Ragged
from amodal.nn import config as encoder_config
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target

SMALL = {  # options that keep a method small; everything else is as its page says
    "aa_ssl": {"action": "facts"},
    "barlow_twins": {"width": 32},
    "vicreg": {"width": 32, "hidden": 32},
    "lejepa": {"local_views": 1, "width": 16, "hidden": 32, "slices": 24},
    # the queue is full after one step; prototypes learn from the first
    "swav": {
        "prototypes": 12,
        "local_views": 2,
        "width": 16,
        "hidden": 32,
        "queue": 5,
        "queue_start": 0.0,
        "freeze": 0.0,
    },
    # the stage that trains the encoder
    "beit": {"codes": 6, "tokenizer": "kmeans"},
    "byol": {"width": 16, "hidden": 32},
    "simsiam": {"width": 32, "hidden": 32, "predictor_hidden": 8},
    "moco_v3": {"width": 16, "hidden": 32},
    "decur": {"width": 32},
    "dino": {"prototypes": 24, "local_views": 2},
    "ibot": {"prototypes": 24, "local_views": 1},
    "dinov2": {"prototypes": 24, "local_views": 1},
    # Gram anchoring from the second of three steps on
    "dinov3": {
        "prototypes": 24,
        "patch_prototypes": 20,
        "local_views": 1,
        "gram_snapshot": 0.2,
        "gram_start": 0.2,
    },
    "nnclr": {"width": 16, "hidden": 32, "predictor_hidden": 32, "queue": 9},
    "slip": {"width": 32, "hidden": 32, "projection": 16},
    "align": {"width": 32},
    "clip_rocket": {
        "width": 16,
        "hidden": 16,
        "add": "byolip",
        "added_width": 16,
        "added_hidden": 16,
    },
    "dreamlip": {"width": 32, "captions": 3},
    "multi_sk": {
        "width": 16,
        "anchors": 6,
        "queue": 0,
    },  # so that all terms are there from the first step
    "coca": {"width": 16, "queries": 3},
    # every row of the bench has several fields, and half of these few pairs should not match
    "flava": {"width": 16, "depth": 1, "codes": 6, "unimodal": "all", "mismatched": 0.5},
    "mil_vl": {"width": 32, "captions": 2},
    "softmask_vl": {"width": 16, "queue": 8, "warmup": 0.0, "ratio": 0.5},
    "amdim": {"width": 16},
    "mcl_multistage": {"width": 16, "parts": 2, "clusters": 2},
    "deepvs": {"width": 16},
    "duet": {
        "attributes": "facts",
        "prompt_probability": 1.0,
        "classes": 0.0,
    },  # no two records of the bench are of one class
    "limoe": {"text_share": 1.0, "other_share": 1.0},  # a new router already meets the paper's
    "medflip": {"width": 32, "semantics": "kind", "reconstruct": 1.0, "tuning": 0.3},
    "mirror": {"width": 32, "prototypes": 24, "hidden": 32, "latent": 8},
    "texttopicnet": {"topics": 6, "min_df": 1, "max_df": 1.0, "buckets": 256},
    "clippings": {"width": 32, "group": 8},
    "biofusionnet": {"hidden": 32, "latent": 8, "depth": 1},
    "ssma": {"width": 16, "skip": 6},
    # pictures say where their own pixels are; a teacher that knows nothing needs wide thresholds
    "uda_cope": {
        "points": "picture",
        "coordinates": "picture",
        "labelled": "kind",
        "source": 0.0,
        "bins": 8,
        "hidden": 32,
        "inlier_distance": 9.0,
        "filter_distance": 9.0,
        "iterations": 8,
    },  # fmt: skip
    "cuni_mmt": {"images": "both", "depth": 2},
    "cta_ttt": {"alone": 0.0, "width": 16},  # the stage that learns labels
    "skillnet_mm": {"width": 32, "ratio": 0.5},  # a row of facts has few cells to hide
    "capsule_attn": {"width": 16, "capsules": 6, "pose": 4},
    "mmrl": {"space": 16},
    "mmrl_pp": {"space": 16, "head_rank": 4},
    "cpp": {"width": 8, "hidden": 16, "warmup": 0.0},
    "mma_dfer": {"bottleneck": 8, "hidden": 32},
    "less_bimodal": {"depth": 1, "ratio": 0.5},
    "clamr": {"contrast": "negatives"},  # reads the label
    "v2l": {"width": 32},
    "mvpt": {"width": 32, "timed": "words, signal", "length": 2.0},
    "scot": {"change": "facts", "changed": "signal", "width": 16, "project": 1, "hidden": 1},
    "grace": {"branch": 4, "leaf": 4, "depth": 1, "capacity": 64, "width": 16},
}


REFUSED = {
    "amdim": "regions and patches have seen all of the value",
    "cma_harmonize": "set drop to 0",
    "croma": "hiding some of them hides nothing",
    "data2vec": "hiding some of them hides nothing",
    "dinov2": "hiding some of them hides nothing",
    "dinov3": "hiding some of them hides nothing",
    "beit": "hiding some of them hides nothing",
    "flava": "hiding some of them hides nothing",
    "maestro": "hiding some of them hides nothing",
    "galileo": "hiding some of them hides nothing",
    "less_vit": "hiding some of them hides nothing",
    "i_jepa": "hiding some of them hides nothing",
    "ibot": "hiding some of them hides nothing",
    "mae": "hiding some of them hides nothing",
    "medflip": "hiding some of them hides nothing",
    "mlem": "give away the values that are to be generated",
    "mma_dfer": "between the blocks of this library's own transformers",
    "mmrl": "enter the two halves of a CLIP",
    "mmrl_pp": "enter the two halves of a CLIP",
    "simcse": "no dropout in its backbone",
    "skillnet_mm": "hiding some of them hides nothing",
    "surgical_feedback": "hiding some of them hides nothing",
}
"""Methods that a network of convolutions would break -> why, as their message says."""

FIELDS = ("picture", "words", "signal", "facts")


SENSORS = {"optical": (("r", "g", "n"), 16), "radar": (("vv", "vh"), 16), "thermal": (("t",), 8)}
"""Rasters of one place: their bands, and pixels of a side."""
SCANS = {"anatomy": ((8, 8, 8), (1.0, 1.0, 1.0)), "diffusion": ((8, 8, 4), (1.0, 1.0, 2.0))}
"""Scans of one person: voxels along each axis, and their millimetres."""
CLOUDS = {"scan": (), "model": ("intensity",)}
"""Clouds of one object: their channels."""


@cache
def fields(fields: Sequence[str] = FIELDS) -> dict:
    rng = np.random.default_rng(0)
    every = {
        "picture": modalities.make("image", size=16, channels=3, patch=8),
        "words": modalities.make("text", max_length=24, patch=4),
        "signal": modalities.kind("series").infer([rng.normal(size=(20, 2)) for _ in range(8)]),
        "facts": modalities.kind("table").infer(
            [{"age": float(i), "colour": "red" if i % 2 else "blue"} for i in range(8)]
        ),
    }
    every |= {
        name: modalities.make("raster", bands=bands, size=size, patch=4, resolution=160 / size)
        for name, (bands, size) in SENSORS.items()
    }
    every |= {
        name: modalities.make(
            "volume", size=shape, patch=tuple(n // 2 for n in shape), spacing=spacing
        )
        for name, (shape, spacing) in SCANS.items()
    }
    every |= {
        name: modalities.make("points", channels=channels, points=48, groups=6, neighbours=8)
        for name, channels in CLOUDS.items()
    }
    return {name: every[name] for name in fields}


def raw(field: str, rng: np.random.Generator):
    if field in SENSORS:
        bands, side = SENSORS[field]
        value = rng.normal(size=(len(bands), side, side)).astype(np.float32)
        value[:, : side // 2, :4] = np.nan  # patches without data
        value[rng.random(value.shape) < 0.1] = np.nan
        return value
    if field in SCANS:
        shape, spacing = SCANS[field]
        voxels = rng.normal(size=[n - int(rng.integers(3)) for n in shape])
        voxels[:4, :4, : shape[2] // 2] = np.nan  # a patch without data
        voxels[rng.random(voxels.shape) < 0.1] = np.nan
        return {"values": voxels, "spacing": spacing}
    if field in CLOUDS:
        count = int(rng.integers(1, 60))
        columns = {name: rng.normal(size=count) for name in CLOUDS[field]}
        return {"points": rng.normal(size=(count, 3)), **columns}
    return {
        "picture": lambda: rng.integers(0, 255, (16, 16, 3), dtype=np.uint8),
        "words": lambda: " ".join(
            rng.choice(["red", "boat", "on", "the", "sea"], rng.integers(1, 5))
        ),
        "signal": lambda: rng.normal(size=(rng.integers(6, 20), 2)).astype(np.float32),
        "facts": lambda: {"age": float(rng.normal()), "colour": str(rng.choice(["red", "blue"]))},
    }[field]()


def batch(
    views: Sequence[str] | Mapping[str, Sequence[str]],
    size: int = 8,
    absent: Sequence[str] = (),
    seed: int = 0,
    patchy: bool = True,
    sources: Sequence[str] = FIELDS,
) -> Batch:
    """`size` rows; `patchy`: each source is missing from some rows; `absent`: sources that no row
    has; every fourth row has no label "kind"."""
    rng = np.random.default_rng(seed)
    columns = {}
    for k, (name, modality) in enumerate(fields(tuple(sources)).items()):
        own = views.get(name, ("plain",)) if isinstance(views, Mapping) else views
        rows = (
            [i for i in range(size) if not (patchy and (i + k) % 4 == 0)]
            if name not in absent
            else []
        )
        values = [modality.decode(raw(name, rng)) for _ in rows]
        for v, view in enumerate(own):
            source = name if len(own) == 1 else f"{name}:{v + 1}"
            seen = [
                modality.augment(
                    value, modality.known_view(view), np.random.default_rng([seed, i, v])
                )
                for i, value in zip(rows, values)
            ]
            columns[source] = Column(modality.collate(seen), torch.tensor(rows, dtype=torch.int64))
    known = torch.tensor([i for i in range(size) if i % 4 != 3])
    whole = Batch.of(size, columns, [f"record {seed}-{i}" for i in range(size)])
    return dataclasses.replace(whole, labels={"kind": Column(known % 3, known)})


def exact(module_or_batch):
    """In double precision, where equal means equal and not nearly so."""
    if isinstance(module_or_batch, torch.nn.Module):
        return module_or_batch.double()
    whole = module_or_batch
    return dataclasses.replace(
        whole, columns={s: Column(_double(c.values), c.rows) for s, c in whole.columns.items()}
    )


def _double(values):
    if isinstance(values, Ragged):
        return Ragged(_double(values.flat), values.lengths)
    return values.double() if values.is_floating_point() else values


def method(
    name: str,
    seed: int = 0,
    sources: Sequence[str] = FIELDS,
    backbones: Mapping[str, str] | None = None,
    size: str = "nano",
    **options,
):
    """A method on small encoders; one that learns from a label gets "kind", which has three
    classes.

    Args:
        backbones: Field -> spec.
        size: Of the encoder.
    """
    torch.manual_seed(seed)
    every = fields(tuple(sources))
    nets = encoder_config.backbones(backbones or {}, every, size)
    encoder = Encoder(every, size=size, backbones=nets, **methods.encoder_options(name))
    label = {"label": "kind", "classes": 3} if "label" in methods.options(name) else {}
    if "targets" in methods.options(name):
        label["targets"] = (Target("kind", "classes", ("a", "b", "c")),)
    label = {option: value for option, value in label.items() if option in methods.options(name)}
    return methods.build(name, encoder, **(label | SMALL.get(name, {}) | options))
