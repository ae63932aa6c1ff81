"""Text, image and sound models of transformers, in a folder or by their names on the Hub."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.core.hub_client import model_folder
from amodal.modalities import Modality
from amodal.nn.backbones.body import Body, ImageBody, ImageField, LoadReport, as_map
from amodal.nn.backbones.hf_sound import is_sound, sound_body
from amodal.nn.backbones.hf_text import (
    HfText,
    Known,
    longest_text,
    mask_token,
    special_tokens,
    states_of,
)
from amodal.nn.backbones.model_sources import FIRST, LAST, PROJECTED, preprocessing, source_of
from amodal.nn.backbones.projected import half_of, projected


def build(rest: str, modality: Any, load: bool) -> tuple[Body, str, LoadReport | None]:
    """A model of transformers.

    Args:
        rest: DIR or OWNER/NAME of the Hub, or DIR#{…}, where the braces hold the architecture as
            JSON, so that a saved encoder can be built without DIR. DIR@scratch takes the
            architecture and not the weights. DIR@first, of a text model, has the state of the
            special token before a text (BERT's [CLS]) in place of those of the text, and DIR@last
            that of the one behind it, for models that read from left to right. DIR@layerN has the
            states of the N-th block in place of the last ones. DIR@projected, of a model of two
            kinds such as CLIP, has one vector a value, in the space that both share.
        modality: Of the field, text, images or sound.
        load: Load the weights.

    Returns:
        The body, its name in specs, and the report of the weights, if any were loaded.

    Raises:
        AmodalError: If transformers is missing, or the directory holds no model for such fields.
    """
    library()  # says how to install what is missing, before anything else is looked for
    named, _, saved = rest.partition("#{")
    source = source_of(named)
    directory, is_scratch, layer = source.directory, source.is_scratch, source.layer
    if not saved:
        directory = str(model_folder(directory))
    known = json.loads("{" + saved) if saved else architecture(directory, modality)
    report = None
    if load and not is_scratch:
        model, report = load_model(directory)
    else:
        model = empty_model(known)
    name = f"transformers:{named}#{json.dumps(known)}"
    if source.is_projected:
        if source.is_first or source.is_last or layer:
            raise AmodalError(
                f"{PROJECTED} is of the whole model, so it has no {FIRST}, {LAST} or @layer beside "
                "it: "
                f"transformers:{named}"
            )
        return projected(model, known, modality, directory, is_scratch=is_scratch), name, report
    model = _part(model, modality)
    if (source.is_first or source.is_last) and not modality.takes_prompts:
        word = FIRST if source.is_first else LAST
        raise AmodalError(f"{word} is for text; leave it out of transformers:{named}")
    if layer > (deepest := getattr(model.config, "num_hidden_layers", layer)):
        raise AmodalError(f"{directory} has layers 1 to {deepest}, not {layer}")
    body: Body
    if not is_sound(modality):
        check_inputs(model, modality, directory)
    if modality.takes_prompts:
        body = HfText(
            model,
            known,
            modality,
            directory,
            is_scratch=is_scratch,
            is_first=source.is_first,
            is_last=source.is_last,
            layer=layer,
        )
    elif is_sound(modality):
        body = sound_body(model, known, modality, directory, is_scratch=is_scratch, layer=layer)
    else:
        body = HfImages(model, known, modality, is_scratch=is_scratch, layer=layer)
    return body, name, report


def input_size(rest: str) -> int:
    """The side in pixels of an image model's input; 0 for a model that has none of its own.

    Args:
        rest: DIR, or DIR#{…}.

    Raises:
        AmodalError: If there is no such directory.
    """
    directory, _, saved = rest.partition("#{")
    if saved:
        config = json.loads("{" + saved)["config"]
    else:
        file = model_folder(source_of(directory).directory) / "config.json"
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    size = (config.get("vision_config") or config).get("image_size")
    size = size[0] if isinstance(size, list) else size
    return size if isinstance(size, int) else 0


def text_input(rest: str, cache: Path) -> tuple[str, int]:
    """See `libraries.text_input`. The tokenizer is the folder's own."""
    folder = model_folder(source_of(rest.partition("#{")[0]).directory)
    return str(folder), longest_text(rest)


def library() -> Any:
    """The package `transformers`. Raises AmodalError where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise AmodalError(
            "a transformers backbone needs the package `transformers`: "
            "pip install 'amodal[language]'"
        ) from None
    return transformers


@contextmanager
def without_bars() -> Iterator[None]:
    """The package without its progress bars: one for each model that is read is in the way of
    ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def architecture(directory: str, modality: Modality) -> Known:
    """What a directory says, without its weights: the model's config, and special tokens or the
    scale of images.

    Raises:
        AmodalError: If it holds no model.
    """
    transformers = library()
    path = model_folder(directory)
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # no config.json, or one of an unknown kind
        raise AmodalError(f"{path} holds no model of transformers: {error}") from error
    known = {
        "config": json.loads(config.to_json_string(use_diff=True))
        | {"model_type": config.model_type}
    }
    known["config"].pop("transformers_version", None)
    if modality.takes_prompts:
        known |= dict(zip(("before", "after"), special_tokens(path)))
        return known | ({"mask": mask} if (mask := mask_token(path)) is not None else {})
    if is_sound(modality):
        scale = preprocessing(path, "feature_extractor")
        if not scale:
            raise AmodalError(
                f"there is no preprocessor_config.json in {path}: a sound backbone needs to know "
                "how waves were made into its inputs"
            )
        return known | {"extractor": scale}
    scale = preprocessing(path, "image_processor")
    return known | {
        "mean": scale.get("image_mean", [0.5] * 3),
        "std": scale.get("image_std", [0.5] * 3),
    }


def empty_model(known: Known) -> Any:
    """The model of a config, without weights. Some configs ask for half precision, in which the
    files are; numbers here are whole."""
    transformers = library()
    auto: Any = transformers.AutoModel
    return auto.from_config(transformers.AutoConfig.for_model(**known["config"])).float()


def check_inputs(model: nn.Module, modality: Modality, directory: str) -> None:
    """Raise AmodalError for a model that reads values of another kind than a field has."""
    wanted = "input_ids" if modality.takes_prompts else "pixel_values"
    if wanted not in inspect.signature(model.forward).parameters:
        raise AmodalError(
            f"{directory} holds a {type(model).__name__}, which does not read {modality.kind}: "
            "name a model that does, or another field"
        )


def load_model(directory: str) -> tuple[nn.Module, LoadReport]:
    """The model of a directory with its weights, and what they matched.

    Raises:
        AmodalError: If they cannot be read.
    """
    transformers = library()
    path = model_folder(directory)
    try:
        with without_bars():
            model, info = transformers.AutoModel.from_pretrained(
                path,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # no weights, or damaged ones
        raise AmodalError(f"cannot read the weights in {path}: {error}") from error
    model = model.float()
    state = model.state_dict()
    file = {n: tuple(t.shape) for n, t in state.items() if n not in info["missing_keys"]}
    file |= {name: tuple(shape) for name, shape, _ in info["mismatched_keys"]}
    file |= {n: () for n in info["unexpected_keys"]}
    return model, LoadReport.of(str(path), state, file)


def _part(model: Any, modality: Modality) -> nn.Module:
    """Of a model of two kinds (CLIP, SigLIP, CLAP) the one that is asked for; of an
    encoder-decoder the encoder."""
    part = getattr(model, half_of(modality), model)
    if getattr(part.config, "is_encoder_decoder", False):
        part = part.get_encoder()
    out: nn.Module = part
    return out


class HfImages(ImageBody):
    """An image model, or the image tower of a model with two."""

    def __init__(
        self,
        model: Any,
        known: Known,
        modality: ImageField,
        *,
        is_scratch: bool = False,
        layer: int = 0,
    ):
        side = getattr(model.config, "image_size", None) or 224
        side = side if isinstance(side, int) else side[0]
        with torch.no_grad():
            width, token = (
                _width(model.eval(), torch.zeros(1, 3, side, side)),
                getattr(model.config, "patch_size", None),
            )
        super().__init__(modality, width=width, side=side, mean=known["mean"], std=known["std"])
        self.model, self.is_scratch, self.layer = model, is_scratch, layer
        self.rows = (
            side // token
            if isinstance(token, int) and hasattr(model.config, "num_attention_heads")
            else None
        )

    def maps(self, images: Tensor) -> Tensor:
        """See `ImageBody.maps`."""
        return as_map(
            states_of(self.model, self.layer, pixel_values=images),
            self.width,
            rows=self.rows,
            spec=type(self.model).__name__,
        )

    def hidden_states(self, values: Tensor) -> list[Tensor]:
        """See `Layered.hidden_states`."""
        states = self.model(pixel_values=self.scaled(values), output_hidden_states=True)
        maps = (as_map(s, s.shape[-1], rows=self.rows) for s in states.hidden_states[1:])
        return [m.flatten(1, 2).mean(1) for m in maps]


def _width(model: Any, images: Tensor) -> int:
    """Channels of the last features, which configs call by many names."""
    features = model(pixel_values=images).last_hidden_state
    out: int = features.shape[1] if features.dim() == 4 else features.shape[2]
    return out
