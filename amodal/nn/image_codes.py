"""Discrete codes of images by a pretrained variational autoencoder (dVAE) of transformers.

The encoder of DALL-E's dVAE (Ramesh et al. 2021, arXiv:2102.12092), which BEiT and FLAVA take their
targets from: a code for every 8 x 8 pixels.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from amodal.core import AmodalError
from amodal.core.hub_client import model_folder

CELL = 8
"""Side in pixels of what one code is of."""
MARGIN = 0.1
"""Its pixels lie between this and one minus this (DALL-E's logit-Laplace epsilon)."""


class ImageCodes(nn.Module):
    """The code of each token of square images with three channels of 0 to 1.

    Its weights are frozen, no part of a run, and loaded when the first image is encoded.

    Args:
        named: DIR, a folder with a `FlavaImageCodebook` of transformers; or DIR#K with its number
            of codes, with which a run can be opened that has lost the folder.
        tile: Side of a token in pixels.

    Attributes:
        named: DIR#K.
        codes: K.

    Raises:
        AmodalError: If the folder holds no such model.
    """

    def __init__(self, named: str, tile: int):
        super().__init__()
        self.folder, _, codes = named.partition("#")
        self.codes = int(codes) if codes.isdigit() else _codes_of(self.folder)
        self.named, self.tile = f"{self.folder}#{self.codes}", tile
        # in a list, which torch does not look into: not saved, trained or averaged with the rest
        self._loaded: list[nn.Module] = []

    @torch.no_grad()
    def forward(self, images_NCHW: Tensor) -> Tensor:
        """(N x rows x columns,) int64 codes, in the order of tokens."""
        if not self._loaded:
            self._loaded.append(_load(self.folder))
        model: Any = self._loaded[0].to(images_NCHW.device)
        size = [CELL * (n // self.tile) for n in images_NCHW.shape[2:]]
        pixels = images_NCHW.float()
        if list(pixels.shape[2:]) != size:
            pixels = interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        codes: Tensor = model.get_codebook_indices((1 - 2 * MARGIN) * pixels + MARGIN)
        return codes.flatten()


def _codes_of(folder: str) -> int:
    file = model_folder(folder) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if config.get("model_type") != "flava_image_codebook":
        raise AmodalError(
            f"{folder} holds no codebook of images: expected a folder of transformers with the "
            'model_type "flava_image_codebook", such as a copy of facebook/flava-image-codebook'
        )
    return int(config.get("vocab_size", 8192))


def _load(folder: str) -> nn.Module:
    try:
        from transformers import FlavaImageCodebook
    except ImportError:
        raise AmodalError(
            "a codebook of images needs the package `transformers`: pip install 'amodal[language]'"
        ) from None
    path = model_folder(folder)
    try:
        loaded: Any = FlavaImageCodebook.from_pretrained(
            path, local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # no weights, or damaged ones
        raise AmodalError(f"cannot read the weights in {path}: {error}") from error
    model: nn.Module = loaded.eval().requires_grad_(False)
    return model
