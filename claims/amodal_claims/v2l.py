"""V2L (row 129): looks and names in one vector find the same product in another shop's picture
better than either, or than two of a kind. Wang et al., arXiv:2207.12994. Real pictures of emoji
stand for products and two vendors for shops (`emoji_vendors`): titles and coarse categories
(Unicode's subgroups) are learnt from, that two pictures show the same emoji is never given away, though
their titles are equal, as sellers' are. Emoji that were not learnt from are looked for, once:
Twemoji's picture among OpenMoji's of all of them and the reverse, by pictures alone. Two runs of
the method give two encoders of either kind, so that all pairs are of the same size.

The paper starts from large pretrained models: here encoders read the vectors that frozen models give,
EfficientNet-lite0's of pictures (their first 128 principal directions) and MiniLM's of titles. In an
earlier claim nothing was pretrained, and little was learnt. It also compared looks that are learnt
from coarse to fine with coarse ones, which is left out for time. How often the frozen vectors of
pictures find each other as they are is measured beside the floors."""

from dataclasses import replace
from functools import partial
from itertools import product
from statistics import mean

import numpy as np
import torch

from amodal import data, methods
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import ranked
from amodal.modalities.image import Image
from amodal.nn import config
from amodal.nn.encoder import Encoder
from amodal.search.ensemble import ensemble
from amodal.train import packaged
from amodal.train.cache_features import with_cached_features
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained, untrained
from amodal_claims._floors import simple_pair

CLAIM = (
    "Finding the picture that another vendor has of an emoji never seen, an encoder for looks and one for names end to end beat two for "
    "looks; also two for names, and either alone."
)
DATA = "emoji_vendors"
STEPS = (400, 800)
BATCH, RATE = 64, 2e-3
SIDE, DIRECTIONS = 128, 128
METRIC = "Recall@10, mean of both directions, 30 % of emoji held out"
PRIMARY = Comparison(
    "both against two for looks",
    METRIC,
    "looks + names",
    "looks + looks",
    # Of practice: what a second kind of model has to bring to be worth its training.
    interest=0.03,
)
SECONDARY = (
    Comparison("both against two for names", METRIC, "looks + names", "names + names"),
    Comparison("both against looks", METRIC, "looks + names", "looks"),
    Comparison("both against names", METRIC, "looks + names", "names"),
)
FLOORS = ("chance", "untrained", "simple features")
SEEN: dict = {}


def vectors(dataset):
    """The same records as frozen models see them."""
    if dataset.fingerprint not in SEEN:
        pictures = seen(dataset)
        pictures = pictures - pictures.mean(0)
        directions = np.linalg.svd(pictures, full_matrices=False)[2][:DIRECTIONS]
        columns = {
            "image": unit(pictures @ directions.T),
            "title": unit(packaged.sentence_encoder()(texts(dataset))),
        }
        labels = {name: list(dataset.label(name)) for name in ("subgroup", "emoji", "vendor")}
        made = data.open({f: list(x[:, None]) for f, x in columns.items()} | labels, name="vectors")
        SEEN[dataset.fingerprint] = made.with_fields(
            {f: replace(made.fields[f], mean=(), std=()) for f in columns}
        )
    return SEEN[dataset.fingerprint]


def texts(dataset):
    return [dataset.raw(i, "title") for i in range(len(dataset))]


def seen(dataset):
    """(N, 1280) by EfficientNet-lite0."""
    specs = packaged.resolve_specs({"image": "package:efficientnet_lite0"})
    columns = {"image": [dataset.raw(i, "image") for i in range(len(dataset))]}
    field = Image.infer(columns["image"][:100], size=SIDE, channels=3, patch=16, flip=False)
    pictures = data.open(columns, fields={"image": field})
    encoder = Encoder(
        pictures.fields, size="nano", backbones=config.backbones(specs, pictures.fields, "nano")
    )
    device = torch.device("cpu")
    cached = with_cached_features(pictures, encoder, device, pooled=True, progress=False)
    return np.stack([cached.value(i, "image")[0] for i in range(len(cached))])[:, :1280].astype(
        np.float32
    )


def unit(x_ND):
    """Of length sqrt(D)."""
    lengths = np.linalg.norm(x_ND, axis=1, keepdims=True)
    return (x_ND / np.maximum(lengths, 1e-9) * x_ND.shape[1] ** 0.5).astype(np.float32)


def held_out(dataset, seed):
    """(records to learn from, Twemoji's pictures of the other emoji, OpenMoji's in the same order)."""
    emoji, vendor = dataset.label("emoji"), dataset.label("vendor")
    names = np.unique(emoji.astype(str))
    tested = np.random.default_rng([seed, 1]).permutation(names)[: round(0.3 * len(names))]
    place = {(e, v): i for i, (e, v) in enumerate(zip(emoji, vendor))}
    train = np.flatnonzero(~np.isin(emoji.astype(str), tested))
    return train, *([place[e, v] for e in tested] for v in ("twemoji", "openmoji"))


def pictures_of(method, dataset, sides):
    """For each encoder of the method, the picture vectors (N, D) of both vendors."""
    parts, found = len(method.encoder.members), []
    for rows in sides:
        z = embed_records(method.encoder, dataset, rows, labels=False).aligned["image"].values
        found.append(z.chunk(parts, 1))
    return list(zip(*found))


def recall(*models):
    """Recall@10 of models end to end, mean of both directions. models: (vectors of one vendor, of
    the other)."""
    a, b = (ensemble(each) for each in zip(*models))
    return sum(ranked(x, y, recall_at=(10,))[0]["value"] for x, y in ((a, b), (b, a))) / 2


def maker(records):
    classes = len(set(records.label("subgroup")))
    return partial(methods.build, "v2l", label="subgroup", classes=classes, width=128)


def number(run, seed):
    """Of everything random in one of two runs."""
    return 1000 * run + seed


def floors(seed, dataset):
    records = vectors(dataset)
    train, *sides = held_out(records, seed)
    fresh = [
        untrained(records, maker(records), Budget(1, BATCH), number(run, seed), pool="gem").eval()
        for run in (0, 1)
    ]
    test = np.concatenate(sides)
    simple = simple_pair(dataset.select(["image"]), train, test)[1].features["image"].values.float()
    frozen = [torch.from_numpy(np.stack([records.value(i, "image")[0] for i in s])) for s in sides]
    return {
        "chance": 10 / len(sides[0]),
        "untrained": recall(*(pictures_of(m, records, sides)[0] for m in fresh)),
        "simple features": recall(simple.chunk(2)),
        "frozen vectors": recall(frozen),
    }


def runs(seed, dataset, steps):
    """Of two runs, both vendors' pictures by the encoder for looks and by the one for names."""
    records = vectors(dataset)
    train, *sides = held_out(records, seed)
    budget = Budget(steps, BATCH, (RATE,))
    for run in (0, 1):
        method = trained(
            records, train, maker(records), budget, number(run, seed), RATE, pool="gem"
        )
        yield pictures_of(method, records, sides)


def control(seed, dataset, steps):
    by_look, _ = zip(*runs(seed, dataset, steps))
    return {"looks + looks": recall(*by_look)}


def measure(seed, dataset, steps):
    by_look, names = zip(*runs(seed, dataset, steps))
    return {
        "looks": mean(recall(m) for m in by_look),
        "names": mean(recall(m) for m in names),
        "looks + looks": recall(*by_look),
        "names + names": recall(*names),
        "looks + names": mean(recall(a, b) for a, b in product(by_look, names)),
    }
