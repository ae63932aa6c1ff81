"""What claims about parts of pictures share: scenes whose captions are words, and where each line
of a caption points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.data import Dataset, Loader
from amodal.evaluate.grounding import coverage
from amodal.inference.embed import embed_values
from amodal.methods.contract import Method
from amodal.methods.shared.regions import alone, regions
from amodal.modalities import make
from amodal_claims.sets import scenes

DATA = "scenes"


def cells(dataset: Dataset) -> Dataset:
    """Captions in words, pictures in 3 x 3 patches: a patch holds one shape or none."""
    opened = scenes.words(dataset)
    image = replace(opened.fields["image"], patch=scenes.SIDE // scenes.CELLS)
    return opened.with_fields({"image": image, "text": opened.fields["text"]})


def small(dataset: Dataset) -> Dataset:
    """A cell of the grid that shapes are placed on is a patch of the picture; captions in words."""
    text = scenes.words(dataset).fields["text"]
    return dataset.with_fields(
        {"image": make("image", size=24, channels=3, patch=8, flip=False), "text": text}
    )


@torch.no_grad()
def patches(method: Method, dataset: Dataset, rows: Sequence[int]) -> Tensor:
    """(N, L, D): unit vectors of the patches of the pictures of `rows` in the aligned space."""
    pictures = Loader(dataset.select(["image"]), rows, batch=256, shuffle=False)
    parts = [regions(method.encoder, alone(method.encoder, part)["image"]) for part in pictures]
    return torch.cat([torch.stack(part.values.split()) for part in parts])


def lines(method: Method, dataset: Dataset, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(W, D) unit vectors of all lines of the captions of `rows`, end to end, and (N,) how many
    each has."""
    each = [dataset.raw(int(i), "text").split("\n") for i in rows]
    vectors = embed_values(method.encoder, "text", [line for text in each for line in text])
    return normalize(vectors, dim=1), torch.tensor([len(text) for text in each])


def places(dataset: Dataset, rows: Sequence[int]) -> Tensor:
    """(W, rows, columns): for each line, the share of each patch that its box covers."""
    boxes = scenes.boxes(dataset)
    image = dataset.fields["image"]
    grid = image.size // image.tile
    return coverage(
        torch.from_numpy(np.concatenate([boxes[int(i)] for i in rows])), image.size, (grid, grid)
    )


def laid_over(patches_NLD: Tensor, lines_WD: Tensor, lengths_N: Tensor) -> Tensor:
    """(W, rows, columns): cosine of each line with each patch of its own picture."""
    own = torch.repeat_interleave(patches_NLD, lengths_N, dim=0)
    side = round(own.shape[1] ** 0.5)
    return (own @ lines_WD[:, :, None]).view(-1, side, side)
