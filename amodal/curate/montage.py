"""Large pictures and scans become small ones: of their patches those that prompts point at, side by
side in one montage.

The first half of the pipeline for interstitial lung disease of Van Uden et al. 2023,
arXiv:2306.01111 (row 55 of the catalogue, with `amodal/methods/adaptation/clip_ild.py`), with any
dual encoder in the place of CLIP and any findings. No volume modality here yet: a scan is a list of
slices, given to `Finder`, and in a dataset a picture. How many patches, their size and the wordings
are the user's, as there.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image as Picture
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from amodal.core import AmodalError, Batch, Column, unknown
from amodal.curate.poison import spoil
from amodal.data import Dataset
from amodal.nn.encoder import Encoder

TILES_AT_ONCE = 1024


def window(x: Tensor, level: float, width: float) -> Tensor:
    """A scanner's units -> 0 … 1, linear in a window of `width` around `level` (lungs in Hounsfield
    units: -600 and 1500)."""
    return ((x - level) / width + 0.5).clamp(0, 1)


def cut(x_SCHW: Tensor, tile: int, stride: int = 0) -> Tensor:
    """(P, C, tile, tile): the patches of all slices, from left to right, top to bottom, slice by
    slice; what is left over at the edges is dropped. stride: `tile` unless given. Raises
    AmodalError for a picture smaller than a patch."""
    if x_SCHW.dim() != 4 or min(x_SCHW.shape[2:]) < tile or tile < 1:
        raise AmodalError(
            f"patches of {tile} pixels are cut from (slices, channels, H, W), not from {tuple(x_SCHW.shape)}"
        )
    x = x_SCHW.unfold(2, tile, stride or tile).unfold(3, tile, stride or tile)
    return x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


HOW = {"max": lambda cosines: cosines.max(1).values, "mean": lambda cosines: cosines.mean(1)}


def prompt_scores(
    z_PD: Tensor, findings: Sequence[Tensor], normal: Tensor | None = None, how: str = "max"
) -> Tensor:
    """(P, F): for each finding the max or mean cosine of a patch with its wordings (Q, D), less the
    mean cosine with `normal` (R, D)."""
    if how not in HOW:
        raise unknown("way to score by several wordings", how, HOW)
    z = normalize(z_PD, dim=1)
    score = torch.stack([HOW[how](z @ normalize(f, dim=1).T) for f in findings], 1)
    return (
        score if normal is None else score - (z @ normalize(normal, dim=1).T).mean(1, keepdim=True)
    )


def chosen(score_PF: Tensor, keep: int, each: bool = False) -> Tensor:
    """(min(keep, P),) patches with the highest score of any finding, best first; each: the findings
    choose in turn. Of equals the first."""
    if not each:
        return score_PF.max(1).values.argsort(descending=True, stable=True)[:keep]
    ranks = score_PF.argsort(dim=0, descending=True, stable=True)
    taken = dict.fromkeys(
        ranks.flatten().tolist()
    )  # rank by rank, and in each rank finding by finding
    return torch.tensor(list(taken)[:keep], dtype=torch.int64)


def tiled(tiles_KCTT: Tensor, side: int) -> Tensor:
    """(C, side, side): patches in a square, row by row, black where there are too few to fill it."""
    k, c, t, _ = tiles_KCTT.shape
    n = math.ceil(math.sqrt(k))
    full = torch.cat([tiles_KCTT, tiles_KCTT.new_zeros(n * n - k, c, t, t)])
    square = full.view(n, n, c, t, t).permute(2, 0, 3, 1, 4).reshape(c, n * t, n * t)
    return resized(square[None], side)[0]


def resized(x_NCHW: Tensor, side: int) -> Tensor:
    if x_NCHW.shape[-1] == side:
        return x_NCHW
    return interpolate(
        x_NCHW, size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )


@dataclass
class Finder:
    """Looks for findings with an encoder that knows pictures and words.

    image, text: its fields; findings: name -> wordings; normal: wordings of what is no finding,
    whose score is taken off; tile, stride: of patches in pixels; keep: patches of a montage; how:
    "max" or "mean" over wordings; each: findings choose patches in turn.
    """

    encoder: Encoder
    findings: Mapping[str, Sequence[str]]
    image: str = "image"
    text: str = "text"
    normal: Sequence[str] = ()
    tile: int = 32
    stride: int = 0
    keep: int = 16
    how: str = "max"
    each: bool = False

    def __post_init__(self):
        for field in (self.image, self.text):
            if field not in self.encoder.fields:
                raise unknown("field of the encoder", field, self.encoder.fields)
        if self.encoder.fields[self.image].layout != "grid":
            raise AmodalError(
                f"montages are made for a field of images, and {self.image!r} is none"
            )
        if not self.findings or not all(self.findings.values()) or self.keep < 1:
            raise AmodalError(
                "a finder needs findings, at least one wording of each, and at least one patch to keep"
            )
        self.prompts = [self.worded(words) for words in self.findings.values()]
        self.without = self.worded(self.normal) if self.normal else None

    @property
    def side(self) -> int:
        return self.encoder.fields[self.image].size

    def worded(self, prompts: Sequence[str]) -> Tensor:
        """(n, D)"""
        text, still = self.encoder.fields[self.text], np.random.default_rng(0)
        return self.embedded(
            self.text, text.collate([text.augment(text.decode(p), "plain", still) for p in prompts])
        )

    @torch.no_grad()
    def embedded(self, field: str, values) -> Tensor:
        was, device = self.encoder.training, next(self.encoder.parameters()).device
        column = Column(values, torch.arange(len(values)))
        found = (
            self.encoder.eval()(Batch.of(len(values), {field: column}).to(device))[field]
            .values.float()
            .cpu()
        )
        self.encoder.train(was)
        return found

    def scores(self, tiles_PCTT: Tensor) -> Tensor:
        """(P, findings)"""
        z = [
            self.embedded(self.image, resized(part, self.side))
            for part in tiles_PCTT.split(TILES_AT_ONCE)
        ]
        return prompt_scores(torch.cat(z), self.prompts, self.without, self.how)

    def __call__(self, x_SCHW: Tensor) -> Tensor:
        """Slices of one scan, 0 … 1 -> its montage (C, side, side), of the size that the encoder
        reads."""
        tiles = cut(x_SCHW, self.tile, self.stride)
        return tiled(tiles[chosen(self.scores(tiles), self.keep, self.each)], self.side)


def montage(
    dataset: Dataset, finder: Finder, *, field: str = "", rows: Iterable[int] | None = None
) -> Dataset:
    """The dataset with montages in the place of the pictures of `field` (that of the finder unless
    given), in the size that the encoder reads; the dataset's own size of this field is that of the
    whole picture. rows: the records to make them for, all unless given. They are made once, now, in
    8 bits. Raises AmodalError for pictures of other than 1 or 3 channels."""
    field, cells = field or finder.image, {}
    if dataset.fields[field].channels not in (1, 3):
        raise AmodalError(
            f"montages have 1 or 3 channels, and {field!r} has {dataset.fields[field].channels}"
        )
    for i in range(len(dataset)) if rows is None else rows:
        value = dataset.value(int(i), field)
        if value is not None:
            whole = torch.tensor(value).float() / (255 if value.dtype == np.uint8 else 1)
            cells[int(i)] = png(finder(whole[None]))
    small = spoil(dataset, cells={dataset.columns[field]: cells})
    return small.with_fields(small.fields | {field: finder.encoder.fields[finder.image]})


def png(x_CHW: Tensor) -> bytes:
    pixels = (x_CHW * 255).round().clamp(0, 255).byte().numpy()
    buffer = io.BytesIO()
    Picture.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()
