"""DeCUR (row 2): keeping apart what two modalities share and what each has alone saves what cross-modal
training throws away. Wang et al., ECCV 2024, arXiv:2309.05300.

Two settings. Real: colour and relief of the Earth. Control, GENERATED because no real set comes
with its factors: real handwritten digits, painted in one of five hues in the first modality and turned
by one of five angles in the second, so that the digit is shared and hue and angle are private.
Three arms at the same steps, batch and search, all on weak augmentations, which are crops (jitter
would destroy the hue): DeCUR, Barlow Twins between modalities only, CLIP. DeCUR needs two views of each
modality and so computes twice as much a step.
"""

import colorsys
from functools import partial
from statistics import mean

import numpy as np
import torch
from PIL import Image as Picture

from amodal import data, methods
from amodal.core import Column, Embeddings
from amodal.methods.shared.shapes import Towers, field_pairs, share
from amodal.modalities.image import Image
from amodal.nn.heads.projectors import Projector
from amodal.objectives.barlow import barlow_twins
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best, features, labelled, probe, side_by_side

CLAIM = (
    "DeCUR's features predict private factors (and, on real data, the climate zone), from both modalities and from one alone, better than "
    "those of cross-modal-only Barlow Twins and of CLIP, with the shared factor within .05 of theirs; and of its projections the "
    "common block predicts the shared factor better than the unique block, the unique block the private ones."
)
DATA = "globe"
SEEDS = 5
BUDGET = Budget(steps=80, batch=128)
WIDTH = 256
FIELDS, VIEWS = ("colour", "relief"), ("painted", "turned")
HUES, ANGLES = 5, (-60, -30, 0, 30, 60)
JOINT, ALONE = "from both modalities", "from one modality, mean of two"
COMPARISONS = tuple(
    Comparison(f"{where}: DeCUR against {name}", f"accuracy, {metric}", f"{metric}: decur", f"{metric}: {arm}", within=within)
    for where, metrics, within in (
        ("real", (f"zone {JOINT}", f"zone {ALONE}"), None),
        ("control", (f"private {JOINT}", f"private {ALONE}"), None),
        ("control", (f"shared {JOINT}",), 0.05),
    )
    for metric in metrics
    for arm, name in (("barlow", "Barlow Twins between modalities"), ("clip", "CLIP"))
) + (
    Comparison("control: common against unique block", "accuracy, shared", "shared: common block", "shared: unique block"),
    Comparison("control: unique against common block", "accuracy, private", "private: unique block", "private: common block"),
)  # fmt: skip


def decur(common, encoder):
    method = methods.build("decur", encoder, width=WIDTH, common=common)
    method.views = ("weak", "weak")
    return method


def barlow(encoder):
    """Barlow Twins between modalities: they agree on every dimension, and nothing is asked of two views
    of one modality."""

    def objective(z):
        return share(
            {
                f"barlow/{a}~{b}": barlow_twins(*z.pair(a, b), off_diagonal=5.1e-3)
                for a, b in field_pairs(z)
            }
        )

    return Towers(
        encoder,
        objective,
        heads={f: Projector(encoder.width, WIDTH, layers=3) for f in encoder.fields},
    )


def arms(common):
    return {
        "decur": partial(decur, common),
        "barlow": barlow,
        "clip": lambda encoder: methods.build("clip", encoder),
    }


def factors(seed, digits):
    """The control's data, and factor -> (N,) labels."""
    rng = np.random.default_rng(seed)
    hue, angle = rng.integers(HUES, size=len(digits)), rng.integers(len(ANGLES), size=len(digits))
    light = rng.uniform(0.6, 1.0, len(digits))
    painted, turned = [], []
    for i in range(len(digits)):
        ink = digits.value(i, "pix").reshape(16, 15) * (255 / 6)  # 0 to 6 in the source
        ink = np.pad(ink, ((2, 2), (2, 3))).astype(np.uint8)
        painted.append(
            (ink[..., None] * light[i] * colorsys.hsv_to_rgb(hue[i] / HUES, 1, 1)).astype(np.uint8)
        )
        turned.append(
            np.asarray(Picture.fromarray(ink).rotate(ANGLES[angle[i]], Picture.Resampling.BILINEAR))
        )
    raw = dict(zip(VIEWS, (painted, turned)))
    size = {"size": 20, "patch": 5, "flip": False}
    fields = {
        s: Image.infer(values, channels=c, **size) for (s, values), c in zip(raw.items(), (3, 1))
    }
    labels = {
        "digit": digits.label("digit"),
        "hue": hue.astype("U1").astype(object),
        "angle": angle.astype("U1").astype(object),
    }
    return data.open(raw, name="painted and turned digits", fields=fields), labels


def read(vectors, train, test, wanted):
    """Probes. vectors: records -> Embeddings; wanted: name -> (modalities side by side, labels)."""
    a, b = vectors(train), vectors(test)
    return {
        n: probe(side_by_side(a, s), y[train], side_by_side(b, s), y[test])
        for n, (s, y) in wanted.items()
    }


def compare(make, seed, dataset, rows, wanted):
    """The best of an arm, and its probes on the test part. rows: part -> records that have the
    labels."""

    def probes(method, part):
        return read(
            lambda r: features(method.encoder, dataset, r), rows["train"], rows[part], wanted
        )

    method = best(
        dataset,
        dataset.split("train"),
        make,
        BUDGET,
        seed,
        lambda m: mean(probes(m, "valid").values()),
    )
    return method, probes(method, "test")


def block(method, dataset, common, records):
    """The projections of records: their common dimensions, or the unique ones."""
    with torch.no_grad():
        z = method.project(features(method.encoder, dataset, records))
    half = slice(None, WIDTH // 2) if common else slice(WIDTH // 2, None)
    return Embeddings({s: Column(z[s].values[:, half], z[s].rows) for s in z}, z.size)


def measure(seed, dataset):
    return real(seed, dataset.select(FIELDS)) | control(seed, data.open("digits"))


def real(seed, globe):
    rows = {part: labelled(globe, part, "zone") for part in ("train", "valid", "test")}
    zone, found = globe.label("zone"), {}
    wanted = {"both": (FIELDS, zone)} | {s: ((s,), zone) for s in FIELDS}
    for arm, make in arms(0.875).items():  # the paper's share for radar and optical images
        _, probes = compare(make, seed, globe, rows, wanted)
        found |= {
            f"zone {JOINT}: {arm}": probes["both"],
            f"zone {ALONE}: {arm}": mean(probes[s] for s in FIELDS),
        }
    return found


def control(seed, digits):
    dataset, labels = factors(seed, digits)
    rows = {part: dataset.split(part) for part in ("train", "valid", "test")}
    own = dict(zip(VIEWS, ("hue", "angle")))
    wanted = {"digit": (VIEWS, labels["digit"])}
    wanted |= {f"{f}, joint": (VIEWS, labels[f]) for f in own.values()}
    wanted |= {f"{f}, alone": ((v,), labels[f]) for v, f in own.items()}
    found = {}
    for arm, make in arms(0.5).items():  # equal halves, so that blocks compare at equal width
        method, probes = compare(make, seed, dataset, rows, wanted)
        found[f"shared {JOINT}: {arm}"] = probes["digit"]
        for metric, how in ((JOINT, "joint"), (ALONE, "alone")):
            found[f"private {metric}: {arm}"] = mean(probes[f"{f}, {how}"] for f in own.values())
        if arm == "decur":
            for name, common in (("common block", True), ("unique block", False)):
                vectors = partial(block, method, dataset, common)
                for kind, of in (("shared", dict.fromkeys(VIEWS, "digit")), ("private", own)):
                    each = {v: ((v,), labels[of[v]]) for v in VIEWS}
                    found[f"{kind}: {name}"] = mean(
                        read(vectors, rows["train"], rows["test"], each).values()
                    )
    return found
