"""The two halves of a model of open_clip, in the space that both share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged, unknown
from amodal.core.column import spans
from amodal.core.hub_client import check_weights
from amodal.nn.backbones.body import (
    Body,
    ImageBody,
    ImageField,
    LoadReport,
    existing,
    map_tokens,
    ones_like_rows,
)
from amodal.nn.backbones.hf_text import TextField

SCRATCH = "scratch"
VOCABULARY = 49408
"""Ids of CLIP's own tokenizer, the last two of which stand around a text."""


def build(rest: str, modality: Any, load: bool) -> tuple[Body, str, LoadReport | None]:
    """One half of a model, by the field that it reads.

    Args:
        rest: NAME[@WEIGHTS]. WEIGHTS is a tag of open_clip, a file, or "scratch".
        modality: Of the field, text or images.
        load: Load the weights.

    Returns:
        The body, its name in specs, and the report of the weights, if any were loaded.

    Raises:
        AmodalError: If open_clip is missing, does not know the name or the tag, cannot load the
            weights, or the text half has a tokenizer of another kind than CLIP's.
    """
    open_clip, config = library(), _config(rest)
    name, _, weights = rest.partition("@")
    is_file = bool(weights) and ("/" in weights or "." in weights)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if is_file:
        existing(weights, "weights file")
    elif weights not in ("", SCRATCH) and weights not in tags:
        raise unknown(f"weights of open_clip:{name}", weights, [*tags, SCRATCH], "Or give a file.")
    if modality.takes_prompts:
        _check_tokenizer(config["text_cfg"], name)
    is_loaded = load and weights not in ("", SCRATCH)
    options: dict[str, Any] = {"force_custom_text": True, "pretrained_text": False}
    if is_loaded:
        options["pretrained"] = str(Path(weights).expanduser()) if is_file else weights
    if is_loaded and not is_file and (hub := _repository(name, weights)):
        instead = f"give their file: open_clip:{name}@/path/to/weights.safetensors"
        check_weights(hub, f"open_clip:{rest}", instead)
    try:
        with _without_warning():
            model = open_clip.create_model(name, **options)
    except Exception as error:  # no network, another model's weights, files that are none
        raise AmodalError(
            f"open_clip could not make {rest}: {type(error).__name__}: {error}"
        ) from error
    is_scratch = weights == SCRATCH
    body: Body
    if modality.takes_prompts:
        body = ClipText(model.text, modality, name, is_scratch=is_scratch)
    else:
        body = ClipImages(model.visual, modality, is_scratch=is_scratch)
    report = LoadReport.of(rest, body.state_dict(), body.state_dict()) if is_loaded else None
    return body, f"open_clip:{rest}", report


def _repository(name: str, tag: str) -> str:
    """The repository of the Hub that has the weights of a tag, "" for other places."""
    from open_clip.pretrained import get_pretrained_cfg

    return str((get_pretrained_cfg(name, tag) or {}).get("hf_hub") or "")


def library() -> Any:
    """The package `open_clip`. Raises AmodalError where it is not installed."""
    try:
        import open_clip
    except ImportError:
        raise AmodalError(
            "an open_clip backbone needs the package `open_clip`: pip install 'amodal[openclip]'"
        ) from None
    return open_clip


@contextmanager
def _without_warning() -> Iterator[None]:
    """Leave out what open_clip says of random weights: `backbone` refuses them, or they are meant,
    or a saved run fills them."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    root = logging.getLogger()
    root.addFilter(is_wanted)
    try:
        yield
    finally:
        root.removeFilter(is_wanted)


def input_size(rest: str) -> int:
    """The side in pixels of a model's pictures.

    Args:
        rest: NAME[@WEIGHTS].

    Raises:
        AmodalError: For an unknown name.
    """
    side = _config(rest)["vision_cfg"]["image_size"]
    return int(side[0] if isinstance(side, list) else side)


def text_input(rest: str, cache: Path) -> tuple[str, int]:
    """See `libraries.text_input`. The tokenizer is written into the cache once.

    Raises:
        AmodalError: For an unknown name, and a tokenizer of another kind than CLIP's.
    """
    text = _config(rest)["text_cfg"]
    _check_tokenizer(text, rest.partition("@")[0])
    file = cache / "open_clip" / "tokenizer.json"
    if not file.is_file():
        from transformers import CLIPTokenizer

        own = library().tokenizer.SimpleTokenizer()
        first, last = (own.decoder[i] for i in (VOCABULARY - 2, VOCABULARY - 1))
        made: Any = CLIPTokenizer(
            vocab=own.encoder,
            merges=list(own.bpe_ranks),
            bos_token=first,
            **dict.fromkeys(("eos_token", "unk_token", "pad_token"), last),
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".draft")
        made.backend_tokenizer.save(str(draft))
        draft.replace(file)
    return str(file.parent), int(text.get("context_length", 77)) - 2


def _config(rest: str) -> dict[str, Any]:
    open_clip, name = library(), rest.partition("@")[0]
    config: dict[str, Any] | None = open_clip.get_model_config(name)
    if config is None:
        raise unknown("model of open_clip", name, open_clip.list_models())
    return config


def _check_tokenizer(text: dict[str, Any], name: str) -> None:
    if other := text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        raise AmodalError(
            f"the text half of open_clip:{name} reads the ids of {other}, and only those of "
            "CLIP's own tokenizer are read here, such as of ViT-B-32; transformers has many of the "
            "others: transformers:OWNER/NAME@projected"
        )


class ClipImages(ImageBody):
    """Images -> their vectors in the common space.

    Args:
        model: The half of open_clip.
        modality: Of the field.
        is_scratch: See `Body`.
    """

    is_one_vector = is_space = True

    def __init__(self, model: Any, modality: ImageField, *, is_scratch: bool):
        side = model.image_size
        side = int(side if isinstance(side, int) else side[0])
        mean, std = model.image_mean or (0.5,) * 3, model.image_std or (0.5,) * 3
        with torch.no_grad():
            z = model.eval()(torch.zeros(1, 3, side, side))
        super().__init__(modality, width=z.shape[1], side=side, mean=mean, std=std)
        self.model, self.is_scratch = model, is_scratch

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images -> (N, width), lengths (N,), all 1, positions (N, 3) of their middles."""
        z_ND = self.model(self.scaled(images_NCHW))
        return map_tokens(z_ND[:, None, None], self.grid)


class ClipText(Body):
    """Texts -> their vectors in the common space.

    Args:
        model: The half of open_clip.
        modality: Of the field.
        name: For messages.
        is_scratch: See `Body`.

    Raises:
        AmodalError: If the ids of the field are not CLIP's, or texts may be too long.
    """

    is_one_vector = is_space = True

    def __init__(self, model: nn.Module, modality: TextField, name: str, *, is_scratch: bool):
        super().__init__()
        self.context = int(getattr(model, "context_length", 77))
        most, longest = self.context - 2, modality.max_length * modality.patch
        if not modality.vocabulary or modality.vocab_size > VOCABULARY:
            raise AmodalError(
                f"open_clip:{name} reads the ids of CLIP's tokenizer, and this field has ids of "
                f"{modality.vocabulary or 'bytes'}: leave vocabulary out, and `pretrain` and "
                "`align` set it"
            )
        if longest > most:
            raise AmodalError(
                f"open_clip:{name} reads {most} ids at most, this field's texts may have "
                f"{longest}: set max_length = {most // modality.patch}"
            )
        self.model, self.is_scratch = model.eval(), is_scratch
        with torch.no_grad():
            self.width = self.forward(self.example())[0].shape[1]

    def example(self) -> Ragged:
        """A text of one id."""
        return Ragged(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))

    def forward(self, texts: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N lists of ids -> (N, width), lengths (N,), all 1, positions (N, 3), all 0."""
        n, lengths = len(texts), texts.lengths
        ids = texts.flat.new_zeros((n, self.context))
        row = torch.repeat_interleave(torch.arange(n, device=lengths.device), lengths)
        within = spans(torch.zeros_like(lengths), lengths)
        ids[row, 1 + within] = texts.flat
        ids[:, 0] = VOCABULARY - 2
        ids.scatter_(1, 1 + lengths[:, None], VOCABULARY - 1)
        z_ND = self.model(ids)
        return z_ND, ones_like_rows(z_ND), z_ND.new_zeros(n, 3)
