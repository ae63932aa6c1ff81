"""One half of a pretrained pair (CLIP, SigLIP, CLAP) up to the space that both halves share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.modalities import Modality
from amodal.nn.backbones.body import Body, ImageBody, ImageField, map_tokens, ones_like_rows
from amodal.nn.backbones.hf_sound import ProjectedSound, SoundField, is_sound
from amodal.nn.backbones.hf_text import HfText, Known, TextField
from amodal.nn.backbones.layer_hooks import layers_of
from amodal.nn.backbones.model_sources import PROJECTED


def projected(model: Any, known: Known, modality: Any, directory: str, *, is_scratch: bool) -> Body:
    """A half as a body, one vector a value.

    Args:
        model: Of both halves.
        known, directory, is_scratch: As for `HfText`.
        modality: Of the field, which says the half.

    Raises:
        AmodalError: For a model whose halves have no common space.
    """
    half = half_of(modality)
    if not hasattr(model, "text_model") or not hasattr(model, half):
        raise AmodalError(
            f"{PROJECTED} is for models of two kinds that share a space, such as CLIP and CLAP, "
            f"and {directory} holds a {type(model).__name__} without a half for {modality.kind}; "
            f"leave {PROJECTED} out"
        )
    return MADE[half](model, known, modality, directory, is_scratch)


def half_of(modality: Modality) -> str:
    """What transformers calls the half of a model of two kinds that reads a field."""
    if modality.takes_prompts:
        return "text_model"
    return "audio_model" if is_sound(modality) else "vision_model"


def _made_text(
    model: Any, known: Known, modality: TextField, directory: str, is_scratch: bool
) -> Body:
    return ProjectedText(model, known, modality, directory, is_scratch=is_scratch)


def _made_images(
    model: Any, known: Known, modality: ImageField, directory: str, is_scratch: bool
) -> Body:
    return ProjectedImages(model, known, modality, is_scratch=is_scratch)


def _made_sound(
    model: Any, known: Known, modality: SoundField, directory: str, is_scratch: bool
) -> Body:
    return ProjectedSound(model, known, modality, directory, is_scratch=is_scratch)


MADE: dict[str, Callable[..., Body]] = {
    "text_model": _made_text,
    "vision_model": _made_images,
    "audio_model": _made_sound,
}
"""Half of a model of two kinds -> what makes its body."""


class ProjectedImages(ImageBody):
    """Images -> their vectors in the common space.

    Args:
        model: Of both halves.
        known: Its `mean` and `std` are those of images.
        modality: Of the field.
        is_scratch: See `Body`.
    """

    is_one_vector = is_space = True

    def __init__(self, model: Any, known: Known, modality: ImageField, *, is_scratch: bool):
        side = model.config.vision_config.image_size
        half, to_space = model.vision_model.eval(), map_to_space(model, "visual_projection")
        with torch.no_grad():
            z = to_space(half(pixel_values=torch.zeros(1, 3, side, side)).pooler_output)
        super().__init__(
            modality, width=z.shape[1], side=side, mean=known["mean"], std=known["std"]
        )
        self.model, self.to_space, self.is_scratch = half, to_space, is_scratch

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images -> (N, width), lengths (N,), all 1, positions (N, 3) of their middles."""
        z_ND = self.to_space(self.model(pixel_values=self.scaled(images_NCHW)).pooler_output)
        return map_tokens(z_ND[:, None, None], self.grid)


class ProjectedText(HfText):
    """Texts -> their vectors in the common space.

    Args:
        model: Of both halves.
        known, modality, directory, is_scratch: See `HfText`.
    """

    is_one_vector = is_space = True

    def __init__(
        self, model: Any, known: Known, modality: TextField, directory: str, *, is_scratch: bool
    ):
        super().__init__(model.text_model.eval(), known, modality, directory, is_scratch=is_scratch)
        self.to_space = map_to_space(model, "text_projection")
        with torch.no_grad():
            self.width = self.forward(self.example())[0].shape[1]

    def forward(self, texts: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N lists of ids -> (N, width), lengths (N,), all 1, positions (N, 3), all 0."""
        inputs, _, _ = self.padded(texts)
        z_ND = self.to_space(self.model(**inputs).pooler_output)
        return z_ND, ones_like_rows(z_ND), z_ND.new_zeros(len(z_ND), 3)


def token_space(body: nn.Module, field: str) -> tuple[nn.Module, nn.Linear]:
    """The norm and the map by which a half makes a vector of the common space of one token.

    Args:
        body: Of the backbone.
        field: Its field, for messages.

    Raises:
        AmodalError: For a body that is no half with such parts: SigLIP pools in another way.
    """
    names = ("post_layernorm", "final_layer_norm")
    model, to_space = getattr(body, "model", None), getattr(body, "to_space", None)
    norm = next((getattr(model, name) for name in names if hasattr(model, name)), None)
    if not isinstance(to_space, nn.Linear) or norm is None:
        raise AmodalError(
            f"tokens of a common space enter the two halves of a CLIP, and the backbone of "
            f"{field!r} is none: take transformers:DIR{PROJECTED} of a CLIP for all fields, or "
            f"leave the backbone of {field!r} out (--backbone {field}=tokens)"
        )
    return norm, to_space


def unlock_last(backbone: Any, count: int, field: str) -> None:
    """Let the last layers of a pretrained model learn, with the norm and the map behind them.

    Args:
        backbone: A `Backbone`; all else of its model is frozen.
        count: How many layers.
        field: Its field, for messages.

    Raises:
        AmodalError: For a model without a list of layers, and more layers than it has.
    """
    body = backbone.body
    layers = layers_of(getattr(body, "model", body))
    if count > len(layers):
        raise AmodalError(
            f"the backbone of {field!r} has {len(layers)} layers, of which {count} cannot learn"
        )
    backbone.thaw()
    learns = {id(p) for p in body.parameters() if p.requires_grad}
    names = ("post_layernorm", "final_layer_norm", "layernorm", "norm")
    ends = [getattr(getattr(body, "model", body), name, None) for name in names]
    upper = [*layers[len(layers) - count :], *ends, getattr(body, "to_space", None)]
    body.requires_grad_(False)
    for part in (p for p in upper if isinstance(p, nn.Module)):
        for parameter in part.parameters():
            parameter.requires_grad_(id(parameter) in learns)


def map_to_space(model: Any, name: str) -> nn.Module:
    """The map from a half's pooled state into the common space; SigLIP's is part of its half."""
    out: nn.Module = getattr(model, name, None) or nn.Identity()
    return out
