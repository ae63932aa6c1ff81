"""SORCE (row 176): several vectors of a picture against one, for queries about small things in it
and about large ones. Liu et al., 2025, arXiv:2505.24441. GENERATED scenes, because the size of what
a query names must be known. Small shapes cover 2.1 to 3.5 % of the picture and large ones 7 to 10
%; the paper is about smaller ones. Both arms are the same page with the same pictures, whole
captions and single sentences, losses, steps and rate; one keeps a vector of the whole alone, the
other also those of four quadrants, which do not follow the grid of nine that shapes are placed on.
The encoder is trained from nothing, not a language model that is asked."""

from dataclasses import replace
from functools import partial
from statistics import mean

import torch

from amodal import methods
from amodal.core import Column, Ragged
from amodal.data import Loader
from amodal.inference.embed import embed_values
from amodal.methods.shared.regions import alone
from amodal.nn.multi_vector import region_vectors
from amodal.objectives.late_interaction import late_interaction
from amodal_claims import Comparison, _scenes
from amodal_claims._arms import Budget, best
from amodal_claims.sets import scenes

CLAIM = (
    "For queries about small objects in pictures of several, the largest of the cosines with the vectors of a picture's regions puts a "
    "right picture first more often than one vector for each picture, and the gain shrinks as objects grow."
)
DATA = _scenes.DATA
SEEDS = 5
BUDGET = Budget(steps=200, batch=96, rates=(6e-3,))
ARMS = {"one": 1, "several": 2}  # cells along each side
METRIC = "share of {} queries whose first picture is right"
COMPARISONS = (
    Comparison(
        "several vectors against one, small objects",
        METRIC.format("small"),
        "small: several",
        "small: one",
    ),
    Comparison(
        "gain with small objects against gain with large ones",
        METRIC.format("…"),
        "small: gain",
        "large: gain",
    ),
    Comparison(
        "several vectors, learned as such, against those of the encoder that learned one",
        METRIC.format("small"),
        "small: several",
        "small: one, read in several",
    ),
)


def build(encoder, grid):
    method = methods.build("sorce", encoder, grid=grid, width=64)
    method.views = method.views | {"image": ("plain",)}
    return method


def measure(seed, dataset):
    text = scenes.words(dataset).fields["text"]
    pictures = dataset.with_fields(
        {"image": replace(dataset.fields["image"], patch=12), "text": text}
    )

    def score(method, grid, part="valid"):
        return mean(
            found(method, pictures, pictures.split(part), grid)[size] for size in scenes.SIZES
        )

    test, values = pictures.split("test"), {}
    values |= {f"{size}: chance": v for size, v in chance(pictures, test).items()}
    for arm, grid in ARMS.items():
        make, own = partial(build, grid=grid), partial(score, grid=grid)
        method = best(pictures, pictures.split("train"), make, BUDGET, seed, own)
        values |= {f"{size}: {arm}": v for size, v in found(method, pictures, test, grid).items()}
        if arm == "one":
            read = found(method, pictures, test, ARMS["several"])
            values |= {f"{size}: one, read in several": v for size, v in read.items()}
    return values | {
        f"{size}: gain": values[f"{size}: several"] - values[f"{size}: one"]
        for size in scenes.SIZES
    }


def held(dataset, rows):
    """(Q, N) bool: which of the pictures `rows` hold what each query names; and the queries, (size,
    colour, shape), of what any holds."""
    each = scenes.objects(dataset)
    kinds = sorted({kind for i in rows for kind in each[int(i)]})
    return torch.tensor([[kind in each[int(i)] for i in rows] for kind in kinds]), kinds


def by_size(right, kinds):
    return {
        size: mean(float(r) for r, kind in zip(right, kinds) if kind[0] == size)
        for size in scenes.SIZES
    }


def chance(dataset, rows):
    holds, kinds = held(dataset, rows)
    return by_size(holds.float().mean(1), kinds)


@torch.no_grad()
def found(method, dataset, rows, grid):
    """size -> the share of queries about things of this size for which the best of the pictures
    `rows` holds what they name."""
    holds, kinds = held(dataset, rows)
    asked = embed_values(method.encoder, "text", [f"there is a {' '.join(kind)}" for kind in kinds])
    parts = Loader(dataset.select(["image"]), rows, batch=256, shuffle=False)
    columns = [
        region_vectors(method.encoder, alone(method.encoder, part), "image", grid) for part in parts
    ]
    gallery = Column.stack(columns, [len(column) for column in columns]).values
    best_first = late_interaction(
        Ragged(asked, torch.ones(len(asked), dtype=torch.int64)), gallery
    ).argmax(1)
    return by_size(holds.gather(1, best_first[:, None]).squeeze(1), kinds)
