"""Text models of transformers: ids between special tokens -> states."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor

from amodal.core import AmodalError, Ragged
from amodal.core.column import spans
from amodal.core.hub_client import model_folder
from amodal.nn.backbones.body import Body
from amodal.nn.backbones.model_sources import FIRST, LAST, source_of

MASKS = ("<mask>", "[MASK]")
"""What tokenizers call the token that hides another."""
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


class HfText(Body):
    """A text model: ids -> the last hidden state of each id.

    Special tokens are put around a text, and their states are left out.

    Args:
        model: The model.
        known: Its `before` and `after` are the ids around a text, its `mask` the id that hides one.
        modality: Of the field.
        directory: For messages.
        is_first: One token a text, the state of the first special token, in place of those of ids.
        is_last: The same of the special token behind the text.
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
        is_last: bool = False,
        layer: int = 0,
    ):
        super().__init__()
        self.is_scratch, self.layer, self.is_last = is_scratch, layer, is_last
        self.is_one_vector = is_first or is_last
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
        self.mask_id: int | None = known.get("mask")  # specs of before have none
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
        if is_last and not self.after:
            raise AmodalError(
                f"the tokenizer in {directory} puts no token behind a text; leave {LAST} out"
            )
        self.model, self.width, self.is_first = model, config.hidden_size, is_first

    def example(self) -> Ragged:
        """A text of one id."""
        return Ragged(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))

    def forward(self, texts: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N lists of ids -> features (T, width), lengths (N,), positions (T, 3)."""
        inputs, row, within = self.padded(texts)
        hidden, lengths = states_of(self.model, self.layer, **inputs), texts.lengths
        if self.is_first or self.is_last:
            whole = self._whole(hidden, lengths)
            return whole, torch.ones_like(lengths), hidden.new_zeros(len(texts), 3).float()
        position = torch.stack([within, within * 0, within * 0], 1).float()
        return hidden[row, len(self.before) + within], lengths, position

    def hidden_states(self, values: Ragged) -> list[Tensor]:
        """See `Layered.hidden_states`."""
        inputs, row, within = self.padded(values)
        states = self.model(**inputs, output_hidden_states=True).hidden_states[1:]
        if self.is_first or self.is_last:
            return [self._whole(s, values.lengths) for s in states]
        whole = [s[row, len(self.before) + within] for s in states]
        count = values.lengths.clamp(min=1)[:, None]
        empty = whole[0].new_zeros(len(values), whole[0].shape[1])
        return [empty.index_add(0, row, s) / count for s in whole]

    def _whole(self, state_NLD: Tensor, lengths: Tensor) -> Tensor:
        """(N, D), the state of the special token before each text, or of the one behind it."""
        if self.is_first:
            return state_NLD[:, 0]
        end = (len(self.before) + lengths).to(state_NLD.device)
        return state_NLD[torch.arange(len(state_NLD), device=state_NLD.device), end]

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


def states_of(model: Any, layer: int, **inputs: Tensor) -> Tensor:
    """The states of a layer, counted from 1; 0 for the last ones, which a norm may follow."""
    if not layer:
        out: Tensor = model(**inputs).last_hidden_state
        return out
    out = model(**inputs, output_hidden_states=True).hidden_states[layer]
    return out


def longest_text(rest: str) -> int:
    """How many ids of a text a model reads beside its special tokens; 0 for no limit.

    Args:
        rest: DIR, or DIR#{…}.
    """
    directory, _, saved = rest.partition("#{")
    path = model_folder(source_of(directory).directory)
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
    around = sum(map(len, special_tokens(path)))
    return max(1, _room(ids, pad if isinstance(pad, int) else 0) - around)


def _room(config: Any, pad: int) -> int:
    """How many ids a model has positions for; 0 for no limit."""
    room = getattr(config, "max_position_embeddings", 0) or 0
    # RoBERTa and its kin begin to count after the id of padding
    return (
        room - pad - 1
        if "roberta" in config.model_type or config.model_type in ("camembert", "mpnet")
        else room
    )


def special_tokens(path: Path) -> tuple[list[int], list[int]]:
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


def token_ids(path: Path, text: str, *, special: bool = False) -> list[int]:
    """The ids of a text by the tokenizer of a directory; with `special` also those around it."""
    tokenizer = _tokenizer(path)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=special).ids if tokenizer else []
    return ids


def mask_token(path: Path) -> int | None:
    """The id with which the tokenizer of a directory hides others; None without one."""
    tokenizer = _tokenizer(path)
    ids = (tokenizer.token_to_id(name) for name in MASKS) if tokenizer is not None else ()
    return next((int(number) for number in ids if number is not None), None)


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
