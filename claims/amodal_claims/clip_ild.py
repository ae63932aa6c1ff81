"""CLIP for interstitial lung disease (row 55): patches that prompts point at, and contrast that
goes on with montages of them. Van Uden et al., 2023, arXiv:2306.01111. No CT is in any package:
real photographs of clothes (Fashion-MNIST), arranged here.

"Scans" are 6 x 6 garments of 16 pixels: tops (t-shirt, pullover, dress, coat, shirt), which are
normal, and in three of four scans two garments that are a finding: trousers, bags or ankle boots
(5.6 % of the area). Reports are GENERATED from what is there, in several wordings, under headings;
each names a top or two beside the finding. A small dual encoder learns from other photographs with
a caption each (every class; one garment in full or half size), then predicts the scans by prompts
alone: p(class) is a softmax over cosines with the mean of the wordings of each finding and of
normal tops. It sees 32 pixels: the four patches that prompts choose (the same encoder embeds them),
four at random, or the whole scan made small.

Then it goes on for a fifth of its steps with 300 other montages and the sentences of their reports
about clothes, without any class. The control goes on for as long with the photographs that it knows
already, so that what decides is what is learnt from and not how long. Simple features are a CCA
between tiny pixels and tf-idf, fitted on the photographs, of whole scans and the same prompts."""

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
from amodal_claims._arms import Budget, fit, trained, untrained
from amodal_claims._floors import simple_pair

CLAIM = (
    "Continued contrastive training on unlabelled montages of patches that prompts choose and on sentences of their reports raises the "
    "zero-shot AUROC of findings over the same training continued on the photographs that it began with."
)
DATA = "fashion_mnist"
STEPS = (150, 300, 600)
SHARE = 5  # of the steps, one in so many is continued training
BATCH, RATE, LATER_RATE, SIZE = 64, 2e-3, 5e-4, "nano"
PAIRS, SCANS = 2000, {"train": 300, "test": 300}
ACROSS, TILE, SIDE, KEEP, TEMPERATURE = 6, 16, 32, 4, 0.07
NORMAL = ("t-shirt", "pullover", "dress", "coat", "shirt")
FINDINGS = {"trouser": "trousers", "bag": "bags", "ankle boot": "ankle boots"}
CAPTIONS = ("a photo of a {}", "one {}", "this is a {}", "a small {} on black", "here you see a {}")
REPORTS = ("There is {}.", "Seen: {}.", "In one row {}.", "The goods show {}.")
AUROC = "zero-shot AUROC, mean of three findings, held-out scans"
PRIMARY = Comparison(
    "continued on montages and reports against on photographs",
    AUROC,
    "continued",
    "longer",
    # Between two readers a difference of .05 in AUROC would be noticed.
    interest=0.05,
)
SECONDARY = (
    Comparison("continued on photographs against not", AUROC, "longer", "montage"),
    Comparison("patches that prompts choose against random ones", AUROC, "montage", "random"),
    Comparison("patches that prompts choose against the whole", AUROC, "montage", "whole"),
)
FLOORS = ("chance", "untrained", "simple features")


MADE: dict = {}


def clothes(dataset):
    """side -> class -> pictures (n, side, side) of 8 bits, the same for all seeds."""
    if dataset.fingerprint not in MADE:
        rows = np.random.default_rng(55).choice(dataset.split("train"), 6000, replace=False)
        labels = dataset.label("class")[rows]
        pictures = torch.from_numpy(np.stack([dataset.value(int(i), "image") for i in rows]))
        sides = {n: small(pictures, n) for n in (TILE, SIDE)}
        MADE[dataset.fingerprint] = {
            n: {c: x[labels == c] for c in sorted(set(labels))} for n, x in sides.items()
        }
    return MADE[dataset.fingerprint]


def small(pictures, side):
    """(N, 1, H, W) of 8 bits -> (N, side, side) of 8 bits."""
    return resize(pictures.float(), side)[:, 0].round().clamp(0, 255).byte().numpy()


def fields(size):
    image = Image(size=size, channels=1, patch=8, flip=False, mean=(0.29,), std=(0.33,))
    return {"image": image, "text": make("text", max_length=40, patch=2)}


def pairs(garments, rng):
    """Photographs with a caption each: a garment in full or half size, somewhere on black."""
    pictures, captions = [], []
    for _ in range(PAIRS):
        name, side = str(rng.choice(list(garments[SIDE]))), int(rng.choice([SIDE, TILE]))
        top, left = rng.integers(SIDE - side + 1, size=2)
        canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
        drawn = garments[side][name]
        canvas[top : top + side, left : left + side] = drawn[rng.integers(len(drawn))]
        pictures.append(canvas)
        captions.append(str(rng.choice(CAPTIONS)).format(name))
    return data.open({"image": pictures, "text": captions}).with_fields(fields(SIDE))


def scans(garments, rng, count):
    """Large pictures with a report each, and what is found: the number of a finding, or 3 for none."""
    pictures, texts, found = [], [], rng.integers(len(FINDINGS) + 1, size=count)
    for kind in found:
        names = [str(n) for n in rng.choice(NORMAL, ACROSS**2)]
        name, other = "" if kind == len(FINDINGS) else list(FINDINGS)[kind], names[0]
        for place in rng.choice(ACROSS**2, 2, replace=False) if name else ():
            names[place] = name
        drawn = [garments[TILE][n] for n in names]
        square = np.stack([pictures_of[rng.integers(len(pictures_of))] for pictures_of in drawn])
        square = square.reshape(ACROSS, ACROSS, TILE, TILE).transpose(0, 2, 1, 3)
        pictures.append(square.reshape(ACROSS * TILE, ACROSS * TILE))
        texts.append(report(name, other, rng))
    return data.open({"image": pictures, "text": texts}).with_fields(fields(ACROSS * TILE)), found


def report(name, other, rng):
    """Sections under headings; findings in one of several wordings, tops beside them."""
    tops = [other, str(rng.choice(NORMAL))]
    seen = [FINDINGS[name], f"a {name}", f"two {FINDINGS[name]}"] if name else []
    what = str(rng.choice(seen)) if seen else f"only a {tops[0]} and a {tops[1]}"
    beside = f" beside a {tops[0]}" if name and rng.random() < 0.5 else ""
    said = str(rng.choice(REPORTS)).format(what + beside)
    return f"HISTORY: routine.\nTECHNIQUE: {rng.choice(['daylight', 'flash'])}.\nFINDINGS: Rows of goods. {said}\nIMPRESSION: see above."


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
    pictures = embed_records(
        selector.encoder, records.select(["image"]), range(len(records)), labels=False
    )
    prompts = (*selector.prompts, selector.normal_prompts)
    return auroc_of(pictures.aligned["image"].values.float(), prompts, truth)


def auroc_of(pictures, prompts, truth):
    """pictures: (N, D); prompts: for each class (n, D), vectors of its wordings."""
    classes = torch.stack([normalize(p, dim=1).mean(0) for p in prompts])
    like = normalize(pictures, dim=1) @ normalize(classes, dim=1).T
    predicted = (like / TEMPERATURE).softmax(1).numpy()
    return mean(auroc(predicted[:, k], truth == k) for k in range(len(FINDINGS)))


def wordings():
    """Finding -> its prompts; prompts of what is normal."""
    findings = {name: [c.format(name) for c in CAPTIONS] for name in FINDINGS}
    return findings, [c.format(name) for name in NORMAL for c in CAPTIONS]


def seeker(encoder):
    findings, normal = wordings()
    return PatchSelector(encoder, findings, normal=normal, patch=TILE, keep=KEEP)


def made(seed, dataset):
    """Photographs with captions, scans to go on with, scans to test on and what is found in them."""
    garments, rng = clothes(dataset), np.random.default_rng([seed, 55])
    photographs = pairs(garments, rng)
    (learnt, _), (asked, truth) = (scans(garments, rng, SCANS[part]) for part in ("train", "test"))
    return photographs, learnt, asked, truth


def budget(steps, rate):
    return Budget(steps, BATCH, (rate,), SIZE)


def plain(encoder):
    return methods.build("clip", encoder)


def floors(seed, dataset):
    photographs, _, asked, truth = made(seed, dataset)
    selector = seeker(untrained(photographs, plain, budget(1, RATE), seed).eval().encoder)
    return {
        "chance": 0.5,
        "untrained": decided(selector, montage(asked, selector), truth),
        "simple features": by_simple_features(photographs, asked, truth),
    }


def by_simple_features(photographs, asked, truth):
    """The same decision in the space of a CCA between tiny pixels and tf-idf."""
    findings, normal = wordings()
    prompts = [*findings.values(), normal]
    texts = [text for each in prompts for text in each]
    whole = scaled(asked, lambda i, x: resize(x, SIDE)[0])
    pictures = [photographs.raw(i, "image") for i in range(PAIRS)]
    captions = [photographs.raw(i, "text") for i in range(PAIRS)]
    columns = {
        "image": pictures + [whole.value(i, "image")[0] for i in range(len(whole))] + [None] * len(texts),
        "text": captions + [None] * len(whole) + texts,
    }  # fmt: skip
    every = data.open(columns).with_fields(fields(SIDE))
    space = simple_pair(every, range(PAIRS), range(PAIRS, len(every)))[1].aligned
    of_prompts = space["text"].values.float().split([len(each) for each in prompts])
    return auroc_of(space["image"].values.float(), of_prompts, truth)


def generic(photographs, steps, seed):
    return trained(photographs, range(PAIRS), plain, budget(steps, RATE), seed, RATE)


def continued(before, records, asked, truth, steps, seed):
    """AUROC on montages, which the encoder that went on chooses as the one before it did."""
    method = goes_on(before, seed)
    later = budget(max(steps // SHARE, 1), LATER_RATE)
    fit(method, records, range(len(records)), later, seed, LATER_RATE)
    return decided(seeker(method.encoder), asked, truth)


def control(seed, dataset, steps):
    photographs, _, asked, truth = made(seed, dataset)
    before = generic(photographs, steps, seed)
    seen = montage(asked, seeker(before.encoder))
    return {"longer": continued(before, photographs, seen, truth, steps, seed)}


def measure(seed, dataset, steps):
    photographs, learnt, asked, truth = made(seed, dataset)
    before = generic(photographs, steps, seed)
    selector, rng = seeker(before.encoder), np.random.default_rng([seed, 56])
    drawn = [rng.choice(ACROSS**2, KEEP, replace=False) for _ in range(len(asked))]
    seen = {
        "montage": montage(asked, selector),
        "random": scaled(asked, lambda i, x: make_grid(extract_patches(x, TILE)[drawn[i]], SIDE)),
        "whole": scaled(asked, lambda i, x: resize(x, SIDE)[0]),
    }
    found = {arm: decided(selector, records, truth) for arm, records in seen.items()}
    for arm, records in (("longer", photographs), ("continued", paired(learnt, selector))):
        found[arm] = continued(before, records, seen["montage"], truth, steps, seed)
    return found


def goes_on(before, seed):
    """The page's method with the weights of the encoder before."""
    torch.manual_seed(seed)
    method = methods.build("clip_ild", Encoder(before.encoder.fields, size=SIZE))
    method.encoder.load_state_dict(before.encoder.state_dict())
    method.learned.load_state_dict(before.learned.state_dict())
    return method.train()
