"""The libraries of backbones, and how a field must be decoded for a model of one of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from amodal.modalities import Modality

LIBRARIES = {
    "timm": "timm",
    "transformers": "transformers",
    "sentence-transformers": "sentence_vectors",
    "open_clip": "open_clip",
    "voice": "voice",
    "amdim": "amdim",
    "caffenet": "caffenet",
    "convnet": "convnet",
    "resnet1d": "resnet1d",
    "gru": "rnn",
    "lstm": "rnn",
    "mlp": "mlp",
    "transmil": "transmil",
    "informer": "informer",
    "cnn1d": "cnn1d",
    "vector_transformer": "vector_transformer",
    "vgg": "vgg",
}
"""The first word of a spec -> the module that reads the rest."""
TOKENS = "tokens"
"""In place of a spec, in `pretrain`: the field's own tokenizer and a transformer, whatever its
default on small data is."""
OWN = (
    "amdim",
    "caffenet",
    "convnet",
    "resnet1d",
    "gru",
    "lstm",
    "mlp",
    "transmil",
    "informer",
    "cnn1d",
    "vector_transformer",
    "vgg",
)
"""Those that need no name of a model and have no weights to begin with."""


def module_of(library: str) -> ModuleType:
    """What reads the specs of a library.

    It is imported when it is asked for: the libraries behind are slow to import, and some are
    optional.
    """
    return importlib.import_module(f"amodal.nn.backbones.{LIBRARIES[library]}")


def input_size(spec: object, modality: Modality) -> int:
    """The side at which a backbone reads pictures, in pixels.

    Args:
        spec: As in `backbone`.
        modality: Of the field.

    Returns:
        The side; 0 for a field without pixels, a module of the user's own, and a model that takes
        any size.

    Raises:
        AmodalError: If the library does not know the model.
    """
    if not isinstance(getattr(modality, "size", None), int):
        return 0
    side_of, rest = _reader("input_size", spec, modality)  # networks of our own take any size
    return 0 if side_of is None else int(side_of(rest))


def text_input(spec: object, modality: Modality, cache: Path) -> tuple[str, int]:
    """The tokenizer whose ids a backbone reads.

    Args:
        spec: As in `backbone`.
        modality: Of the field.
        cache: A folder in which a tokenizer may be written.

    Returns:
        The folder of the tokenizer, and how many ids of a text are read, 0 for no limit; ("", 0)
        for a field without texts, and a network that reads any ids.

    Raises:
        AmodalError: If the library does not know the model.
    """
    if not modality.takes_prompts:
        return "", 0
    read, rest = _reader("text_input", spec, modality)
    if read is None:
        return "", 0
    folder, longest = read(rest, cache)
    return str(folder), int(longest)


def _reader(name: str, spec: object, modality: Modality) -> tuple[Callable[..., Any] | None, str]:
    """The function of this name of the library that a spec is of, None where it has none or does
    not read such fields; and the rest of the spec."""
    library, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if library not in LIBRARIES or library not in modality.backbones or not rest:
        return None, ""
    return getattr(module_of(library), name, None), rest
