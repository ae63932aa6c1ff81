"""CLIP for interstitial lung disease (row 55): patches that prompts point at, and contrast that
goes on with montages of them. Van Uden et al., 2023, arXiv:2306.01111. No CT is in any package:
real photographs of clothes (Fashion-MNIST), arranged here.

"Scans" are 6 x 6 garments of 16 pixels: tops (t-shirt, pullover, dress, coat, shirt), which are
normal, and in three of four scans two garments that are a finding: trousers, bags or ankle boots
(5.6 % of the area). Reports are GENERATED from what is there, under headings. A small dual encoder
learns from other photographs with a caption each (every class; one garment in full or half size),
then predicts the scans by prompts alone: p(class) is a softmax over cosines with the mean of the
wordings of each finding and of normal tops. It sees 32 pixels: the four patches that prompts choose
(the same encoder embeds them), four at random, or the whole scan made small. Then it goes on with
300 other montages and the sentences of their reports about clothes, without any class; going on
with one side alone is recorded and not compared. One learning rate each; the settings were fixed
before the first run."""

from functools import lru_cache, partial
from statistics import mean

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import data, methods
from amodal.curate.montage import (
    PatchSelector,
    encode_png,
    extract_patches,
    make_grid,
    montage,
    resize,
)
from amodal.curate.poison import replace_cells
from amodal.curate.report_sections import report_sections, sentences_about
from amodal.evaluate import embed_records
from amodal.modalities import make
from amodal.modalities.image import Image
from amodal.nn.encoder import Encoder
from amodal.stats.auroc import auroc
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit, trained

CLAIM = (
    "A zero-shot decision on a montage of prompt-selected patches has a higher AUROC than on a montage of random patches and on the whole "
    "picture made small, and continued contrastive training on unlabelled montages and sentences of their reports raises it further."
)
DATA = "fashion_mnist"
SEEDS = 5
GENERIC = Budget(steps=300, batch=64, rates=(2e-3,))
BUDGET = Budget(steps=60, batch=64, rates=(5e-4,))
PAIRS, SCANS = 2000, {"train": 300, "test": 300}
ACROSS, TILE, SIDE, KEEP, TEMPERATURE = 6, 16, 32, 4, 0.07
NORMAL = ("t-shirt", "pullover", "dress", "coat", "shirt")
FINDINGS = {"trouser": "trousers", "bag": "bags", "ankle boot": "ankle boots"}
CAPTIONS = ("a photo of a {}", "one {}", "this is a {}", "a small {} on black", "here you see a {}")
ARMS = (
    "montage",
    "random",
    "whole",
    "continued",
    "continued, pictures alone",
    "continued, text alone",
)
AUROC = "zero-shot AUROC, mean of three findings, held-out scans"
COMPARISONS = (
    Comparison("patches that prompts choose against random ones", AUROC, "montage", "random"),
    Comparison("patches that prompts choose against the whole", AUROC, "montage", "whole"),
    Comparison("continued on montages and reports against not", AUROC, "continued", "montage"),
)


@lru_cache(1)
def clothes(dataset):
    """class -> pictures (n, 28, 28) of 8 bits, the same for all seeds."""
    rows = np.random.default_rng(55).choice(dataset.split("train"), 6000, replace=False)
    labels = dataset.label("class")[rows]
    pictures = np.stack([dataset.value(int(i), "image")[0] for i in rows])
    return {c: pictures[labels == c] for c in sorted(set(labels))}


def small(picture, side):
    return (
        resize(torch.tensor(picture)[None, None].float(), side)[0, 0]
        .round()
        .clamp(0, 255)
        .byte()
        .numpy()
    )


def fields(size):
    image = Image(size=size, channels=1, patch=8, flip=False, mean=(0.29,), std=(0.33,))
    return {"image": image, "text": make("text", max_length=40, patch=2)}


def pairs(garments, rng):
    """Photographs with a caption each: a garment in full or half size, somewhere on black."""
    pictures, captions = [], []
    for _ in range(PAIRS):
        name = str(rng.choice(list(garments)))
        side = int(rng.choice([SIDE, SIDE // 2]))
        top, left = rng.integers(SIDE - side + 1, size=2)
        canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
        canvas[top : top + side, left : left + side] = small(
            garments[name][rng.integers(len(garments[name]))], side
        )
        pictures.append(canvas)
        captions.append(str(rng.choice(CAPTIONS)).format(name))
    return data.open({"image": pictures, "text": captions}).with_fields(fields(SIDE))


def scans(garments, rng, count):
    """Large pictures with a report each, and what is found: the number of a finding, or 3 for none."""
    pictures, texts, found = [], [], rng.integers(len(FINDINGS) + 1, size=count)
    for kind in found:
        names = [str(n) for n in rng.choice(NORMAL, ACROSS**2)]
        name = "" if kind == len(FINDINGS) else list(FINDINGS)[kind]
        for place in rng.choice(ACROSS**2, 2, replace=False) if name else ():
            names[place] = name
        each = [small(garments[n][rng.integers(len(garments[n]))], TILE) for n in names]
        square = np.stack(each).reshape(ACROSS, ACROSS, TILE, TILE).transpose(0, 2, 1, 3)
        pictures.append(square.reshape(ACROSS * TILE, ACROSS * TILE))
        texts.append(report(name, names[0], rng))
    return data.open({"image": pictures, "text": texts}).with_fields(fields(ACROSS * TILE)), found


def report(name, other, rng):
    findings = (
        f"There are {FINDINGS[name]}, such as a {name}."
        if name
        else f"Only tops such as a {other} are seen."
    )
    return f"HISTORY: routine.\nTECHNIQUE: {rng.choice(['daylight', 'flash'])}.\nFINDINGS: Rows of goods. {findings}\nIMPRESSION: see above."


def sentence(text):
    words = [*FINDINGS, *FINDINGS.values(), *NORMAL]
    return " ".join(sentences_about(report_sections(text)["findings"], words))


def paired(records, selector):
    """The scans as montages, with the sentences of their reports that name clothes."""
    texts = {i: sentence(records.raw(i, "text")) for i in range(len(records))}
    return montage(replace_cells(records, cells={records.columns["text"]: texts}), selector)


def scaled(records, picture):
    """The scans as what `picture` (record, 0 … 1) makes of them, in the size that the encoder
    reads."""
    cells = {
        i: encode_png(picture(i, torch.tensor(records.value(i, "image"))[None] / 255))
        for i in range(len(records))
    }
    return replace_cells(records, cells={records.columns["image"]: cells}).with_fields(
        {"image": fields(SIDE)["image"]}
    )


def decided(selector, records, truth):
    """Mean AUROC over findings of the softmax over classes."""
    classes = torch.stack(
        [normalize(p, dim=1).mean(0) for p in (*selector.prompts, selector.normal_prompts)]
    )
    pictures = embed_records(
        selector.encoder, records.select(["image"]), range(len(records)), labels=False
    )
    like = normalize(pictures.aligned["image"].values.float(), dim=1) @ normalize(classes, dim=1).T
    predicted = (like / TEMPERATURE).softmax(1).numpy()
    return mean(auroc(predicted[:, k], truth == k) for k in range(len(FINDINGS)))


def seeker(encoder):
    findings = {name: [c.format(name) for c in CAPTIONS] for name in FINDINGS}
    normal = [c.format(name) for name in NORMAL for c in CAPTIONS]
    return PatchSelector(encoder, findings, normal=normal, patch=TILE, keep=KEEP)


def measure(seed, dataset):
    garments, rng = clothes(dataset), np.random.default_rng([seed, 55])
    photographs = pairs(garments, rng)
    (learnt, _), (asked, truth) = (scans(garments, rng, SCANS[part]) for part in ("train", "test"))
    generic = trained(
        photographs, range(PAIRS), partial(methods.build, "clip"), GENERIC, seed, *GENERIC.rates
    )
    selector = seeker(generic.encoder)
    drawn = [rng.choice(ACROSS**2, KEEP, replace=False) for _ in range(len(asked))]
    seen = {
        "montage": montage(asked, selector),
        "random": scaled(asked, lambda i, x: make_grid(extract_patches(x, TILE)[drawn[i]], SIDE)),
        "whole": scaled(asked, lambda i, x: resize(x, SIDE)[0]),
    }
    found = {arm: decided(selector, records, truth) for arm, records in seen.items()}
    montages = paired(learnt, selector)
    for arm, learn in zip(ARMS[3:], ("both", "seen", "text")):
        method = goes_on(generic, learn, seed)
        fit(method, montages, range(len(montages)), BUDGET, seed, *BUDGET.rates)
        found[arm] = decided(seeker(method.encoder), seen["montage"], truth)
    return found


def goes_on(generic, learn, seed):
    """The page's method with the weights of the generic encoder."""
    torch.manual_seed(seed)
    method = methods.build("clip_ild", Encoder(fields(SIDE), size=GENERIC.size), learn=learn)
    method.encoder.load_state_dict(generic.encoder.state_dict())
    method.learned.load_state_dict(generic.learned.state_dict())
    return method.train()
