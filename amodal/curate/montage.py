"""Large images and scans become one montage of the patches that match text prompts.

The first half of the pipeline for interstitial lung disease of Van Uden et al. 2023,
arXiv:2306.01111 (row 55 of the catalogue, with `amodal/methods/adaptation/clip_ild.py`), with any
dual encoder in the place of CLIP and any findings. A scan is a list of slices for `PatchSelector`;
`amodal montage` reads volumes. The number and size of patches and the prompts are the user's, as in
the paper.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from amodal.core import AmodalError, Batch, Column, Ragged, unknown
from amodal.curate.poison import replace_cells
from amodal.data import Dataset
from amodal.modalities.shared.protocols import Grid, is_pixel_map
from amodal.nn.encoder import Encoder

BATCH = 1024
"""Patches that are embedded at a time."""


def window(x: Tensor, level: float, width: float) -> Tensor:
    """A scanner's units scaled to 0 … 1, linear within a window.

    Args:
        x: intensities, such as Hounsfield units.
        level: middle of the window (lungs: -600).
        width: of the window (lungs: 1500).
    """
    return ((x - level) / width + 0.5).clamp(0, 1)


def extract_patches(x_SCHW: Tensor, patch: int, stride: int = 0) -> Tensor:
    """Cut slices into patches, left to right, top to bottom, slice by slice.

    What is left over at the edges is dropped.

    Args:
        x_SCHW: S slices.
        patch: side in pixels.
        stride: in pixels; 0 for `patch`.

    Returns:
        (P, C, patch, patch)

    Raises:
        AmodalError: a slice is smaller than a patch.
    """
    if x_SCHW.dim() != 4 or min(x_SCHW.shape[2:]) < patch or patch < 1:
        raise AmodalError(
            f"patches of {patch} pixels are cut from (slices, channels, H, W), not from "
            f"{tuple(x_SCHW.shape)}"
        )
    x = x_SCHW.unfold(2, patch, stride or patch).unfold(3, patch, stride or patch)
    return x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda cosines: cosines.max(1).values,
    "mean": lambda cosines: cosines.mean(1),
}


def prompt_scores(
    z_PD: Tensor,
    findings: Sequence[Tensor],
    normal: Tensor | None = None,
    reduction: str = "max",
) -> Tensor:
    """Score of each patch for each finding: its cosine with the prompts of the finding.

    Args:
        z_PD: embeddings of patches.
        findings: embeddings (Q, D) of the prompts of each of F findings.
        normal: embeddings (R, D) of prompts without a finding; their mean cosine is subtracted.
        reduction: "max" or "mean" over the prompts of a finding.

    Returns:
        (P, F)

    Raises:
        AmodalError: an unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise unknown("reduction over prompts", reduction, REDUCTIONS)
    reduce, z = REDUCTIONS[reduction], normalize(z_PD, dim=1)
    score = torch.stack([reduce(z @ normalize(f, dim=1).T) for f in findings], 1)
    if normal is None:
        return score
    return score - (z @ normalize(normal, dim=1).T).mean(1, keepdim=True)


def select_patches(score_PF: Tensor, keep: int, per_finding: bool = False) -> Tensor:
    """The patches with the highest scores, best first; of equal ones the first.

    Args:
        score_PF: scores for each finding.
        keep: number of patches.
        per_finding: findings choose in turn; else patches are ranked by their best finding.

    Returns:
        (min(keep, P),) int64
    """
    if not per_finding:
        return score_PF.max(1).values.argsort(descending=True, stable=True)[:keep]
    ranks = score_PF.argsort(dim=0, descending=True, stable=True)
    # rank by rank, and in each rank finding by finding
    ordered = dict.fromkeys(ranks.flatten().tolist())
    return torch.tensor(list(ordered)[:keep], dtype=torch.int64)


def make_grid(patches_KCTT: Tensor, side: int) -> Tensor:
    """(C, side, side): patches in a square, row by row, black where there are too few."""
    k, c, t, _ = patches_KCTT.shape
    n = math.ceil(math.sqrt(k))
    full = torch.cat([patches_KCTT, patches_KCTT.new_zeros(n * n - k, c, t, t)])
    square = full.view(n, n, c, t, t).permute(2, 0, 3, 1, 4).reshape(c, n * t, n * t)
    return resize(square[None], side)[0]


def resize(x_NCHW: Tensor, side: int) -> Tensor:
    """(N, C, side, side): square images resampled (bilinear, antialiased)."""
    if x_NCHW.shape[-1] == side:
        return x_NCHW
    return interpolate(
        x_NCHW, size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )


@dataclass
class PatchSelector:
    """Makes a montage of the patches that match prompts, by an encoder of images and text.

    Attributes:
        encoder: of both fields, in one space.
        findings: name -> prompts.
        image, text: the fields.
        normal: prompts without a finding, whose score is subtracted.
        patch: side of a patch in pixels.
        stride: of patches in pixels; 0 for `patch`.
        keep: patches of a montage.
        reduction: "max" or "mean" over the prompts of a finding.
        per_finding: findings choose patches in turn.

    Raises:
        AmodalError: an unknown field, a field of another kind, or no findings, prompts or patches.
    """

    encoder: Encoder
    findings: Mapping[str, Sequence[str]]
    image: str = "image"
    text: str = "text"
    normal: Sequence[str] = ()
    patch: int = 32
    stride: int = 0
    keep: int = 16
    reduction: str = "max"
    per_finding: bool = False

    def __post_init__(self) -> None:
        for field in (self.image, self.text):
            if field not in self.encoder.fields:
                raise unknown("field of the encoder", field, self.encoder.fields)
        if not is_pixel_map(self.encoder.fields[self.image]):
            raise AmodalError(
                f"montages are made for a field of square images, and {self.image!r} is none"
            )
        if not self.findings or not all(self.findings.values()) or self.keep < 1:
            raise AmodalError(
                "a selector of patches needs findings, at least one prompt of each, and at least "
                "one patch to keep"
            )
        self.prompts = [self.encode_prompts(prompts) for prompts in self.findings.values()]
        self.normal_prompts = self.encode_prompts(self.normal) if self.normal else None

    @property
    def side(self) -> int:
        """Side in pixels of the images that the encoder reads."""
        return cast(Grid, self.encoder.fields[self.image]).size

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """(n, D) embeddings of prompts."""
        text, rng = self.encoder.fields[self.text], np.random.default_rng(0)
        values = [text.augment(text.decode(p), "plain", rng) for p in prompts]
        return self.encode(self.text, text.collate(values))

    @torch.no_grad()
    def encode(self, field: str, values: Tensor | Ragged) -> Tensor:
        """(n, D) embeddings of n collated values, on the CPU."""
        training, device = self.encoder.training, next(self.encoder.parameters()).device
        column = Column(values, torch.arange(len(values)))
        batch = Batch.of(len(values), {field: column}).to(device)
        z: Tensor = self.encoder.eval()(batch)[field].values.float().cpu()
        self.encoder.train(training)
        return z

    def scores(self, patches_PCTT: Tensor) -> Tensor:
        """(P, F) scores of patches for each finding."""
        z = [self.encode(self.image, resize(part, self.side)) for part in patches_PCTT.split(BATCH)]
        return prompt_scores(torch.cat(z), self.prompts, self.normal_prompts, self.reduction)

    def __call__(self, x_SCHW: Tensor) -> Tensor:
        """The montage of a scan.

        Args:
            x_SCHW: its slices, 0 … 1.

        Returns:
            (C, side, side), of the size that the encoder reads.
        """
        patches = extract_patches(x_SCHW, self.patch, self.stride)
        index = select_patches(self.scores(patches), self.keep, self.per_finding)
        return make_grid(patches[index], self.side)


def montage(
    dataset: Dataset,
    selector: PatchSelector,
    *,
    field: str = "",
    rows: Iterable[int] | None = None,
) -> Dataset:
    """The dataset with montages in place of its images, computed once, now, in 8 bits.

    Args:
        dataset: its field has the size of whole images.
        selector: of patches.
        field: of images; "" for that of the selector.
        rows: records to compute montages for; None for all.

    Returns:
        The dataset; its field has the size that the encoder reads.

    Raises:
        AmodalError: the images have other than 1 or 3 channels.
    """
    field = field or selector.image
    channels = cast(Grid, dataset.fields[field]).channels
    if channels not in (1, 3):
        raise AmodalError(f"montages have 1 or 3 channels, and {field!r} has {channels}")
    column = dataset.columns[field]
    assert isinstance(column, str), "images are in one column"
    cells: dict[int, object] = {}
    for i in range(len(dataset)) if rows is None else rows:
        value = dataset.value(int(i), field)
        if value is not None:
            whole = torch.tensor(value).float() / (255 if value.dtype == np.uint8 else 1)
            cells[int(i)] = encode_png(selector(whole[None]))
    small = replace_cells(dataset, cells={column: cells})
    return small.with_fields(small.fields | {field: selector.encoder.fields[selector.image]})


def encode_png(x_CHW: Tensor) -> bytes:
    """A PNG file of an image, 0 … 1, of 1 or 3 channels."""
    pixels = (x_CHW * 255).round().clamp(0, 255).byte().numpy()
    buffer = io.BytesIO()
    image = Pillow.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    image.save(buffer, "PNG")
    return buffer.getvalue()
