"""V2L (row 129): looks and names in one vector find the same product in another shop's picture
better than either, or than two of a kind. Wang et al., arXiv:2207.12994. Real pictures of emoji
stand for products and two vendors for shops (`emoji_vendors`): titles and coarse categories
(Unicode's subgroups) are learnt from, that two pictures show the same emoji is never given away, though
their titles are equal, as sellers' are. Emoji that were not learnt from are looked for, once:
Twemoji's picture among OpenMoji's of all of them and the reverse, by pictures alone. Two runs of
the method give two encoders of either kind, so that all pairs are of the same size. Nothing is
pretrained, where the paper starts from large models."""

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from amodal import methods
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import ranked
from amodal.search.ensemble import ensemble
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained

CLAIM = (
    "Finding the picture that another vendor has of an emoji never seen: an encoder for looks and one for names end to end beat either of "
    "them, two for looks and two for names; and looks that are learnt from coarse to fine beat coarse ones."
)
DATA = "emoji_vendors"
SEEDS = 5
BUDGET = Budget(steps=100, batch=64, rates=(2e-3,))
METRIC = "Recall@10, mean of both directions, 30 % of emoji held out"
COMPARISONS = (
    Comparison("both against looks", METRIC, "looks + names", "looks"),
    Comparison("both against names", METRIC, "looks + names", "names"),
    Comparison("both against two for looks", METRIC, "looks + names", "looks + looks"),
    Comparison("both against two for names", METRIC, "looks + names", "names + names"),
    Comparison("looks: coarse to fine against coarse alone", METRIC, "looks", "looks, coarse"),
)


def held_out(dataset, seed):
    """(records to learn from, Twemoji's pictures of the other emoji, OpenMoji's in the same order)."""
    emoji, vendor = dataset.label("emoji"), dataset.label("vendor")
    names = np.unique(emoji.astype(str))
    tested = np.random.default_rng([seed, 1]).permutation(names)[: round(0.3 * len(names))]
    place = {(e, v): i for i, (e, v) in enumerate(zip(emoji, vendor))}
    train = np.flatnonzero(~np.isin(emoji.astype(str), tested))
    return train, *([place[e, v] for e in tested] for v in ("twemoji", "openmoji"))


def pictures(method, dataset, sides):
    """For each encoder of the method, the picture vectors (N, D) of both vendors."""
    parts, found = len(method.encoder.members), []
    for rows in sides:
        z = embed_records(method.encoder, dataset, rows, labels=False).aligned["image"].values
        found.append(z.chunk(parts, 1))
    return list(zip(*found))


def recall(*models):
    """Recall@10 of models end to end, mean of both directions. models: (vectors of one vendor, of
    the other)."""
    a, b = (ensemble(vectors) for vectors in zip(*models))
    return sum(ranked(x, y, recall_at=(10,))[0]["value"] for x, y in ((a, b), (b, a))) / 2


def measure(seed, dataset):
    dataset = dataset.select(["image", "title"])
    image, title = dataset.fields["image"], dataset.fields["title"]
    dataset = dataset.with_fields(
        {"image": replace(image, patch=8), "title": replace(title, max_length=32, patch=4)}
    )
    train, *sides = held_out(dataset, seed)
    classes = len(set(dataset.label("subgroup")))

    def run(number, **options):
        make = partial(methods.build, "v2l", label="subgroup", classes=classes, width=64, **options)
        method = trained(
            dataset, train, make, BUDGET, 1000 * number + seed, *BUDGET.rates, pool="gem"
        )
        return pictures(method, dataset, sides)

    runs = [run(0), run(1)]
    coarse = run(0, coarse=1.0)
    by_look, names = zip(*runs)
    found = {"looks": by_look, "names": names, "looks, coarse": coarse[:1]}
    found = {name: float(np.mean([recall(m) for m in models])) for name, models in found.items()}
    found["looks + looks"], found["names + names"] = recall(*by_look), recall(*names)
    found["looks + names"] = float(np.mean([recall(a, b) for a, b in product(by_look, names)]))
    return found
