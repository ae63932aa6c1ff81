"""Pictures with planted squares, and a run whose patches are the mean colours of their places."""

import copy

import numpy as np
import torch
from torch import nn

from amodal.core import Column, Tokens
from amodal.data import open as open_data
from amodal.methods.contract import Method
from amodal.model import Model
from amodal.nn import config as encoder_config
from amodal.nn.encoder import Encoder

SIDE, TILE = 32, 4
RGB = {"red": (230, 10, 10), "green": (10, 230, 10), "blue": (10, 10, 230)}


def picture(colour, top, left, side=8, ground=40, height=SIDE, width=SIDE):
    """A square on a dark ground, and its mask."""
    pixels = np.full((height, width, 3), ground, np.uint8)
    pixels[top : top + side, left : left + side] = RGB[colour]
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + side, left : left + side] = 1 + list(RGB).index(colour)
    return pixels, mask


def squares(count=6, seed=0):
    """Pictures, masks and captions; squares begin where a patch does."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        colour = list(RGB)[i % 3]
        top, left = (rng.integers(0, 7, 2) * TILE).tolist()
        made.append((*picture(colour, top, left), f"a {colour} square"))
    return tuple(map(list, zip(*made)))


def records(count=6):
    """The same as a dataset."""
    pictures, masks, captions = squares(count)
    columns = {"image": pictures, "text": captions, "mask": masks}
    return open_data(columns, name="squares", fields={"text": "text"})


class Colours(nn.Module):
    """The mean colour of each tile of 4 x 4 pixels."""

    def forward(self, images):
        return nn.functional.avg_pool2d(images, TILE)


class Planted(Method):
    """Patches are their colours, and the K-th query is the K-th of red, green and blue."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def patch_vectors(self, batch, field):
        column = batch[field]
        x = nn.functional.avg_pool2d(column.flat, TILE)
        n, _, rows, columns = x.shape
        place = torch.cartesian_prod(*(torch.arange(s).float() for s in (1, rows, columns)))
        lengths = torch.full((n,), rows * columns)
        flat = x.permute(0, 2, 3, 1).reshape(-1, 3)
        unit = flat / flat.norm(dim=1, keepdim=True)
        return Tokens.of(unit, column.rows, lengths, place.repeat(n, 1), field, batch.size)

    def patch_queries(self, z, field):
        return torch.eye(3)[: len(z)]


class Halves(Method):
    """Has learnt that the right half of a picture is class 1."""

    classes = 2

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def class_maps(self, batch):
        column = batch["image"]
        maps = torch.tensor([[0.9, 0.9, 0.2, 0.2], [0.1, 0.1, 0.8, 0.8]])
        return Column(maps[None, :, None].expand(len(column), 2, 4, 4), column.rows)


def encoder_of(dataset, fields=("image", "text"), backbone=True, **options):
    """An encoder whose tokens of pictures are linear in mean colours; with heads if it has texts."""
    chosen = {name: dataset.fields[name] for name in fields}
    torch.manual_seed(0)
    modules = encoder_config.backbones({"image": Colours()}, chosen, "nano") if backbone else {}
    encoder = Encoder(chosen, size="nano", backbones=modules, **options)
    return encoder.align(16) if "text" in fields else encoder


class Run(Model):
    """Its encoder before training has patches that know nothing of the picture."""

    def untrained(self):
        before = copy.deepcopy(self.encoder)
        for backbone in before.tokenizers.values():
            torch.nn.init.normal_(backbone.project.weight, std=1e-3)
        return Model(before, self.config)


def planted(dataset, method=Planted, **options):
    """The run."""
    encoder = encoder_of(dataset, **options)
    return Run(encoder, {"method": "planted", "weights_sha256": "0" * 64}, method=method(encoder))
