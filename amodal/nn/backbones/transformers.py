"""Text and image models in a local Hugging Face directory."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.core.column import spans
from amodal.modalities import Modality
from amodal.nn.backbones.body import Body, ImageBody, ImageField, LoadReport, as_map, existing
from amodal.nn.backbones.model_sources import FIRST, PROJECTED, source_of

Known = dict[str, Any]
"""What is saved of a model beside its weights: config, special tokens or scale of images."""


class TextField(Protocol):
    """What a body asks of a field of text: tokenizer, number of ids, sizes of texts and tokens."""

    @property
    def vocabulary(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_length(self) -> int: ...
    @property
    def patch(self) -> int: ...


def build(rest: str, modality: Any, load: bool) -> tuple[Body, str, LoadReport | None]:
    """A model of transformers.

    Args:
        rest: DIR, or DIR#{…}, where the braces hold the architecture as JSON, so that a saved
            encoder can be built without DIR. DIR@scratch takes the architecture and not the
            weights. DIR@first, of a text model, has the state of the special token before a text
            (BERT's [CLS]) in place of those of the text. DIR@layerN has the states of the N-th
            block in place of the last ones. DIR@projected, of a model of two kinds such as CLIP,
            has one vector a value, in the space that both share.
        modality: Of the field, text or images.
        load: Load the weights.

    Returns:
        The body, its name in specs, and the report of the weights, if any were loaded.

    Raises:
        AmodalError: If transformers is missing, or the directory holds no model for such fields.
    """
    try:
        import transformers
    except ImportError:
        raise AmodalError(
            "a transformers backbone needs the package `transformers`: "
            "pip install 'amodal[language]'"
        ) from None
    named, _, saved = rest.partition("#{")
    source = source_of(named)
    directory, is_scratch, layer = source.directory, source.is_scratch, source.layer
    known = json.loads("{" + saved) if saved else _architecture(transformers, directory, modality)
    report = None
    if load and not is_scratch:
        model, report = _load(transformers, directory)
    else:
        auto: Any = transformers.AutoModel
        model = auto.from_config(transformers.AutoConfig.for_model(**known["config"]))
    name = f"transformers:{named}#{json.dumps(known)}"
    if source.is_projected:
        from amodal.nn.backbones.projected import projected  # which is built on this module

        if source.is_first or layer:
            raise AmodalError(
                f"{PROJECTED} is of the whole model, so it has no {FIRST} and no @layer beside it: "
                f"transformers:{named}"
            )
        return projected(model, known, modality, directory, is_scratch=is_scratch), name, report
    model = _part(model, modality)
    if source.is_first and not modality.takes_prompts:
        raise AmodalError(f"{FIRST} is for text; leave it out of transformers:{named}")
    if layer > (deepest := getattr(model.config, "num_hidden_layers", layer)):
        raise AmodalError(f"{directory} has layers 1 to {deepest}, not {layer}")
    body: Body = (
        HfText(
            model,
            known,
            modality,
            directory,
            is_scratch=is_scratch,
            is_first=source.is_first,
            layer=layer,
        )
        if modality.takes_prompts
        else HfImages(model, known, modality, is_scratch=is_scratch, layer=layer)
    )
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
        file = existing(source_of(directory).directory, "directory") / "config.json"
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    size = (config.get("vision_config") or config).get("image_size")
    size = size[0] if isinstance(size, list) else size
    return size if isinstance(size, int) else 0


def longest_text(rest: str) -> int:
    """How many ids of a text a model reads beside its special tokens; 0 for no limit.

    Args:
        rest: DIR, or DIR#{…}.
    """
    directory, _, saved = rest.partition("#{")
    path = existing(source_of(directory).directory, "directory")
    file = path / "config.json"
    if saved or not file.is_file():
        return 0
    config = json.loads(file.read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    room = config.get("max_position_embeddings") or 0
    if not room:
        return 0
    ids = SimpleNamespace(max_position_embeddings=room, model_type=config.get("model_type") or "")
    pad = config.get("pad_token_id")
    around = sum(map(len, _special_tokens(path)))
    return max(1, _room(ids, pad if isinstance(pad, int) else 0) - around)


def _architecture(transformers: Any, directory: str, modality: Modality) -> Known:
    """What a directory says, without its weights: the model's config, and special tokens or the
    scale of images."""
    path = existing(directory, "directory")
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    except Exception as error:  # no config.json, or one of an unknown kind
        raise AmodalError(f"{path} holds no model of transformers: {error}") from error
    known = {
        "config": json.loads(config.to_json_string(use_diff=True))
        | {"model_type": config.model_type}
    }
    known["config"].pop("transformers_version", None)
    if modality.takes_prompts:
        return known | dict(zip(("before", "after"), _special_tokens(path)))
    file = path / "preprocessor_config.json"
    scale = json.loads(file.read_text()) if file.is_file() else {}
    return known | {
        "mean": scale.get("image_mean", [0.5] * 3),
        "std": scale.get("image_std", [0.5] * 3),
    }


def _load(transformers: Any, directory: str) -> tuple[nn.Module, LoadReport]:
    path = existing(directory, "directory")
    try:
        model, info = transformers.AutoModel.from_pretrained(
            path, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
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
    """Of a model of two kinds (CLIP, SigLIP) the one that is asked for; of an encoder-decoder the
    encoder."""
    part = getattr(model, "text_model" if modality.takes_prompts else "vision_model", model)
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


def states_of(model: Any, layer: int, **inputs: Tensor) -> Tensor:
    """The states of a layer, counted from 1; 0 for the last ones, which a norm may follow."""
    if not layer:
        out: Tensor = model(**inputs).last_hidden_state
        return out
    out = model(**inputs, output_hidden_states=True).hidden_states[layer]
    return out


def _width(model: Any, images: Tensor) -> int:
    """Channels of the last features, which configs call by many names."""
    features = model(pixel_values=images).last_hidden_state
    out: int = features.shape[1] if features.dim() == 4 else features.shape[2]
    return out


class HfText(Body):
    """A text model: ids -> the last hidden state of each id.

    Special tokens are put around a text, and their states are left out.

    Args:
        model: The model.
        known: Its `before` and `after` are the ids around a text.
        modality: Of the field.
        directory: For messages.
        is_first: One token a text, the state of the first special token, in place of those of ids.
        layer: Whose states they are, from 1; 0 for the last ones.

    Raises:
        AmodalError: If the ids of the field are not the model's, texts may be too long for it, or
            there is no special token before a text.
    """

    def __init__(
        self,
        model: Any,
        known: Known,
        modality: TextField,
        directory: str,
        *,
        is_scratch: bool = False,
        is_first: bool = False,
        layer: int = 0,
    ):
        super().__init__()
        self.is_scratch, self.layer = is_scratch, layer
        config = model.config
        if not modality.vocabulary:
            raise AmodalError(
                "a text backbone reads the ids of its own tokenizer, and this field reads bytes: "
                "set "
                f"vocabulary = {directory!r} for it"
            )
        vocabulary = config.vocab_size
        if modality.vocab_size > vocabulary:
            raise AmodalError(
                f"{modality.vocab_size} ids in the field, {vocabulary} in the backbone: take the "
                f"tokenizer in {directory}"
            )
        _same_tokenizer(modality.vocabulary, directory)
        self.before, self.after = known["before"], known["after"]
        self.pad = (
            config.pad_token_id if isinstance(getattr(config, "pad_token_id", None), int) else 0
        )
        room, longest = (
            _room(config, self.pad),
            modality.max_length * modality.patch + len(self.before) + len(self.after),
        )
        if room and longest > room:
            most = (room - len(self.before) - len(self.after)) // modality.patch
            raise AmodalError(
                f"the backbone reads {room} ids at most, this field's texts may have {longest}: "
                "set "
                f"max_length = {most}"
            )
        if is_first and not self.before:
            raise AmodalError(
                f"the tokenizer in {directory} puts no token before a text; leave {FIRST} out"
            )
        self.model, self.width, self.is_first = model, config.hidden_size, is_first

    def example(self) -> Ragged:
        """A text of one id."""
        return Ragged(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))

    def forward(self, texts: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N lists of ids -> features (T, width), lengths (N,), positions (T, 3)."""
        inputs, row, within = self.padded(texts)
        hidden, lengths = states_of(self.model, self.layer, **inputs), texts.lengths
        if self.is_first:
            return hidden[:, 0], torch.ones_like(lengths), hidden.new_zeros(len(texts), 3).float()
        position = torch.stack([within, within * 0, within * 0], 1).float()
        return hidden[row, len(self.before) + within], lengths, position

    def hidden_states(self, values: Ragged) -> list[Tensor]:
        """See `Layered.hidden_states`."""
        inputs, row, within = self.padded(values)
        states = self.model(**inputs, output_hidden_states=True).hidden_states[1:]
        whole = [s[:, 0] if self.is_first else s[row, len(self.before) + within] for s in states]
        if self.is_first:
            return whole
        count = values.lengths.clamp(min=1)[:, None]
        empty = whole[0].new_zeros(len(values), whole[0].shape[1])
        return [empty.index_add(0, row, s) / count for s in whole]

    def padded(self, texts: Ragged) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """What the model reads of N texts, and the text and the place within it of each id."""
        n, lengths = len(texts), texts.lengths
        before, after = (texts.flat.new_tensor(t) for t in (self.before, self.after))
        around = len(before) + len(after)
        step = torch.arange(int(lengths.max()) + around, device=lengths.device)
        ids = texts.flat.new_full((n, len(step)), self.pad)
        row = torch.repeat_interleave(torch.arange(n, device=lengths.device), lengths)
        within = spans(torch.zeros_like(lengths), lengths)
        ids[row, len(before) + within] = texts.flat
        ids[:, : len(before)] = before
        end = (len(before) + lengths)[:, None] + torch.arange(len(after), device=lengths.device)
        ids.scatter_(1, end, after.expand(n, -1))
        mask = (step < (lengths + around)[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask}, row, within


def _room(config: Any, pad: int) -> int:
    """How many ids a model has positions for; 0 for no limit."""
    room = getattr(config, "max_position_embeddings", 0) or 0
    # RoBERTa and its kin begin to count after the id of padding
    return (
        room - pad - 1
        if "roberta" in config.model_type or config.model_type in ("camembert", "mpnet")
        else room
    )


def _special_tokens(path: Path) -> tuple[list[int], list[int]]:
    """What the tokenizer of a directory puts before and after a text."""
    tokenizer = _tokenizer(path)
    if tokenizer is None:
        raise AmodalError(
            f"there is no tokenizer.json in {path}: a text backbone needs the tokenizer it was "
            "trained with"
        )
    bare, whole = (
        tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True)
    )
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def _same_tokenizer(vocabulary: str, directory: str) -> None:
    ours, theirs = _tokenizer(Path(vocabulary)), _tokenizer(Path(directory))
    if ours is not None and theirs is not None and ours.get_vocab() != theirs.get_vocab():
        raise AmodalError(
            f"the field's ids are of {vocabulary}, the backbone's of {directory}: set "
            f"vocabulary = {directory!r}"
        )


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        return None
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
