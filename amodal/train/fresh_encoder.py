"""A new encoder for a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amodal import methods
from amodal.core import AmodalError
from amodal.nn import config as encoder_config
from amodal.nn.backbones.single_stream import is_model, single_stream
from amodal.nn.encoder import Encoder
from amodal.train.run_inputs import Inputs


def fresh_encoder(inputs: Inputs) -> Encoder:
    """A new encoder for the fields of the data, by default as on the method's page, or as what it
    starts from."""
    settings, fields = inputs.settings, inputs.dataset.fields
    arguments: dict[str, Any] = inputs.encoder_arguments
    backbones = encoder_config.backbones(
        inputs.backbones, fields, arguments["size"], frozen=not settings.train_backbones
    )
    if is_model(settings.trunk):
        check_labelled(inputs.method, backbones)
        backbones, more = single_stream(str(settings.trunk), fields, arguments["size"])
        arguments |= more
    return Encoder(fields, backbones=backbones, **arguments)


def check_labelled(method: methods.MethodLike, backbones: Mapping[str, object]) -> None:
    """Check that a pretrained trunk can be used.

    Args:
        method: Must learn a label: others train trunks of this library.
        backbones: Must be none: the trunk has tokenizers of its own.

    Raises:
        AmodalError: If it cannot.
    """
    if "label" not in methods.options(method):
        raise AmodalError(
            "a pretrained trunk is for methods that learn a label, such as missing_aware_prompts "
            f"and finetune, and {methods.title(method)} trains trunks of this library: "
            "--trunk separate, shared or joint"
        )
    if backbones:
        raise AmodalError(
            f"a pretrained trunk reads its fields itself; leave the backbone of "
            f"{', '.join(backbones)} out"
        )
