# %% [markdown]
# # Bring your own encoder and modality
#
# Two things amodal does not have are added without changing it: a network of one's own for pictures, any torch module, and a
# modality of one's own, here sets of points of any number. Records hold a drawing and the points that it was drawn from. The data are made
# here: stars with three to six corners, turned by chance.

# %%
from pathlib import Path

import numpy as np
import torch

import amodal
import amodal.modalities

rng = np.random.default_rng(0)


def star(corners):
    angle = np.linspace(0, 2 * np.pi, rng.integers(60, 120)) + rng.uniform(0, 2 * np.pi)
    radius = (1 + 0.35 * np.cos(corners * angle)) * rng.uniform(0.6, 1)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return (points + 0.05 * rng.normal(size=points.shape)).astype(np.float32)


def drawing(points):
    picture = np.full((32, 32, 3), 255, np.uint8)
    x, y = ((points / 3 + 0.5).clip(0, 0.999) * 32).astype(int).T
    picture[y, x] = 0
    return picture


# %% [markdown]
# ## A network of one's own
#
# It maps pictures (N, C, H, W) to vectors (N, D) or tokens (N, T, D), and says its `width`. It learns with the rest. Pictures
# without colour have one channel.


# %%
class Network(torch.nn.Module):
    width = 64

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 32, 5, 2, 2), torch.nn.GELU(), torch.nn.Conv2d(32, 64, 3, 2, 1), torch.nn.GELU(),
            torch.nn.Conv2d(64, 64, 3, 2, 1), torch.nn.GELU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        )  # fmt: skip

    def forward(self, values):
        return self.layers(values)


# %% [markdown]
# ## A modality of one's own
#
# It reads a value, augments it, puts values together, and says the vectors of its tokens: here a token is 8 points in a row. The
# rest has defaults; the page on adding to amodal lists all hooks.

# %%
OUTLINE = '''
from dataclasses import dataclass

import numpy as np
import torch

from amodal.modalities.shared import files, ragged
from amodal.modalities.shared.vectors import VectorTokens


@dataclass(frozen=True)
class Outline(VectorTokens):
    """A value is (n, 2) float32: points in the plane."""

    axes = 2
    token_size = 16

    @classmethod
    def infer(cls, samples, **overrides):
        return cls(**overrides)

    def decode(self, raw):
        return files.read_numbers(raw, None).astype(np.float32)

    def augment(self, value, view, rng):
        return value

    def collate(self, values):
        return ragged.pack(values, np.zeros((0, 2), dtype=np.float32))

    def vectors(self, values):
        points, counts = ragged.patches(values, 8, torch.nan)
        centre = points.nanmean(1)
        return (points - centre[:, None]).flatten(1), centre, counts

    def show(self, value):
        return np.zeros((8, 8, 3), np.uint8)

    def describe(self, value):
        return f"{len(value)} points"

    def simple_groups(self, raws):
        return [np.array([[*np.std(v, 0), len(v)] for v in self.decode_all(raws)])]
'''
print(Path("my_outline.py").write_text(OUTLINE, encoding="utf-8"), "characters")

# %% [markdown]
# amodal finds it by an entry point of an installed package, so that a run that was saved can be opened again. `pip install` of a project with
# these two lines in its pyproject.toml writes that; here it is written by hand.
#
#     [project.entry-points."amodal.modalities"]
#     outline = "my_outline:Outline"

# %%
installed = Path("my_outline-1.0.dist-info")
installed.mkdir()
(installed / "METADATA").write_text(
    "Metadata-Version: 2.1\nName: my-outline\nVersion: 1.0\n", encoding="utf-8"
)
(installed / "entry_points.txt").write_text(
    "[amodal.modalities]\noutline = my_outline:Outline\n", encoding="utf-8"
)
print(amodal.modalities.names())

# %%
corners = rng.integers(3, 7, 1200)
outlines = [star(n) for n in corners]
frame = {
    "outline": [points if rng.random() < 0.8 else None for points in outlines],
    "drawing": [drawing(points) for points in outlines],
    "corners": [f"{n} corners" for n in corners],
}
data = amodal.as_dataset(frame, fields={"outline": "outline", "drawing": "image"})
print({name: modality.kind for name, modality in data.fields.items()}, "labels:", *data.labels)

# %%
model = amodal.pretrain(
    "clip",
    data,
    "run",
    size="nano",
    steps=150,
    batch_size=64,
    backbones={"drawing": Network()},
    logger=[],
)

# %% [markdown]
# ## Beside the simple thing
#
# 10 labels of each number of corners; chance, the same networks before training, and simple features: tiny pixels, and
# the spread and number of the points. Which drawing belongs to which points is given away by its size and its ink, so retrieval is
# a task for simple features; the table says so.

# %%
print(model.evaluate(data, label="corners", protocols=["linear", "retrieval"], few=10))
