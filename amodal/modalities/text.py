"""Text of any language and length: UTF-8 bytes, or the ids of a local Hugging Face tokenizer."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged, unknown
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared import simple as _simple
from amodal.modalities.shared.base import (
    Attribute,
    BadValue,
    Modality,
    NoSimpleFeatures,
    Raw,
    Schema,
    SimpleFeatures,
    at_most,
    build,
    check_view,
    format_range,
    shortened,
)
from amodal.modalities.shared.cells import is_missing
from amodal.modalities.shared.files import read_bytes
from amodal.modalities.shared.requests import text_of
from amodal.modalities.shared.tokenizers.text import TextGraph, TextTokenizer
from amodal.modalities.shared.vocabulary import line_break_ids, load_vocabulary

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

CROPS = {"weak": (0.8, 1.0), "strong": (0.5, 1.0), "local": (0.2, 0.5)}  # share of the length
DROP_RATE, DROP_SPAN, REPLACE_RATE = 0.1, 4, 0.02
"""Of a strong view: share of characters that are dropped, in spans of about a short word, and that
are replaced."""
STRONG_VIEWS = ("characters", "words")
EDIT_RATE = 0.1
"""Of a strong view by words: chance of each word to be left out, and pairs of words that change
places for each word there is."""


@dataclass(frozen=True)
class Text(Modality):
    """Text. A value is (length,) int32: byte values, or ids of the vocabulary.

    Texts longer than `max_length * patch` ids are cut; `truncated` counts the rest. Special tokens
    are not added: a pretrained backbone that needs them adds its own.

    Attributes:
        max_length: tokens of a value.
        patch: ids of a token (the cost of attention falls with its square).
        vocabulary: path of a `tokenizer.json`, or of a directory with one; "" for bytes.
        strong: what a strong view corrupts: "characters", or whole "words".
    """

    max_length: int = 256
    patch: int = 1
    vocabulary: str = ""
    strong: str = "characters"

    simple_name: ClassVar[str] = "tf-idf"
    suffixes: ClassVar[frozenset[str]] = frozenset({".txt", ".text", ".md", ".caption"})
    raw_text: ClassVar[str] = "either"
    placeholder: ClassVar[str] = "words"
    uploads: ClassVar[bool] = False
    is_sequence: ClassVar[bool] = True
    takes_prompts: ClassVar[bool] = True
    self_explaining: ClassVar[bool] = True
    backbones: ClassVar[tuple[str, ...]] = ("transformers", "gru", "lstm")

    def __post_init__(self) -> None:
        if self.max_length < 1 or self.patch < 1:
            raise AmodalError(
                f"text needs max_length and patch of at least 1, got {self.max_length} and "
                f"{self.patch}"
            )
        at_most("text", {"max_length": (self.max_length, 2**24), "patch": (self.patch, 4096)})
        if self.strong not in STRONG_VIEWS:
            raise unknown("damage of a strong view of text", self.strong, STRONG_VIEWS)

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides: Any) -> Text:
        """See `Modality.infer`.

        patch: 1, 2 or 4 bytes such that 90 % of the texts have at most 64 tokens. max_length: a
        quarter more than the longest, at most 256.
        """
        probe, lengths, first = build(cls, overrides), [], None
        for raw in samples:
            try:
                lengths.append(len(probe._ids(raw)))
            except BadValue as error:
                first = first or error
        if not lengths:
            raise first or BadValue("no samples to look at")
        typical = np.percentile(lengths, 90)
        small = 1 if probe.vocabulary else next((p for p in (1, 2, 4) if typical <= 64 * p), 4)
        patch = build(cls, {"patch": small} | overrides).patch
        max_tokens = -(-max(lengths) * 5 // 4 // patch)  # a quarter more than was seen
        return build(
            cls,
            {"patch": patch, "max_length": min(256, max(8, -(-max_tokens // 8) * 8))} | overrides,
        )

    def decode(self, raw: Raw) -> np.ndarray:
        """(length,) int32 from text, a list of texts (one a line), a Path, or bytes.

        Bytes are UTF-8, or UTF-16 with a byte order mark.
        """
        return self._cut(self._ids(raw))

    def truncated(self, raw: Raw) -> int:
        """Number of ids that `decode` cuts."""
        ids = self._ids(raw)
        return len(ids) - len(self._cut(ids))

    def _ids(self, raw: Raw) -> np.ndarray:
        text = _read(raw).strip()
        if not text:
            raise BadValue("empty text")
        if self.vocabulary:
            ids = np.array(
                load_vocabulary(self.vocabulary).encode(text, add_special_tokens=False).ids,
                dtype=np.int32,
            )
            if not len(ids):
                raise BadValue("the tokenizer makes nothing of this text")
            return ids
        try:
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)
        except UnicodeEncodeError as error:
            raise BadValue(f"not Unicode text: {error.reason} at character {error.start}") from None

    def _cut(self, ids: np.ndarray) -> np.ndarray:
        max_tokens = self.max_length * self.patch
        if len(ids) <= max_tokens or self.vocabulary:
            return ids[:max_tokens]
        # one id more: if a character begins there, all before it are whole
        starts = np.flatnonzero(_begins_character(ids[: max_tokens + 1]))
        return ids[
            : starts[-1] or max_tokens
        ]  # half a character only where a whole one has no room

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """See `Modality.augment`.

        weak: a slice of 80-100 % that begins and ends at a word. strong: 50-100 %, a tenth of it
        dropped in short spans and one character in fifty replaced by another of the same text (or,
        with `strong="words"`, the whole text with words dropped and swapped). local: one of its
        lines or, of a single line, a slice of 20-50 %.
        """
        check_view(view)
        if view == "plain":
            return value
        if (
            view == "strong"
            and self.strong == "words"
            and (edited := self._edit_words(value, rng)) is not None
        ):
            return edited
        if view == "local" and len(lines := self._lines(value)) > 1:
            return value[lines[rng.integers(len(lines))]]
        out = self._crop(value, *CROPS[view], rng)
        return self._corrupt_characters(out, rng) if view == "strong" else out

    def _lines(self, ids: np.ndarray) -> list[slice]:
        """The slice of each line that has more than white space, without its line break."""
        breaks, blank = (
            (line_break_ids(self.vocabulary), ()) if self.vocabulary else ([10], [9, 13, 32])
        )
        ends = np.append(np.flatnonzero(np.isin(ids, breaks)), len(ids))
        starts = np.append(0, ends[:-1] + 1)
        return [
            slice(a, b)
            for a, b in zip(starts.tolist(), ends.tolist())
            if not np.isin(ids[a:b], blank).all()
        ]

    def _edit_words(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Words (ids of a vocabulary) dropped, and pairs of them swapped; None without two words.

        The parts of easy data augmentation that need no thesaurus (Wei and Zou, EMNLP 2019,
        arXiv:1901.11196).
        """
        # split with a group keeps the white space: words at even places, gaps, which stay, at odd
        # ones
        parts = (
            list(ids) if self.vocabulary else re.split(rb"(\s+)", ids.astype(np.uint8).tobytes())
        )
        words, gaps = (parts, []) if self.vocabulary else (parts[::2], parts[1::2])
        if len(words) < 2:
            return None
        order = np.arange(len(words))
        for _ in range(max(1, round(EDIT_RATE * len(words)))):
            a, b = rng.choice(len(words), 2, replace=False)
            order[[a, b]] = order[[b, a]]
        keep = rng.random(len(words)) >= EDIT_RATE
        order = order[keep] if keep.any() else order[rng.integers(len(words))][None]
        if self.vocabulary:
            return ids[order]
        spaced = b"".join(piece for i, gap in zip(order, [*gaps, b""]) for piece in (words[i], gap))
        return np.frombuffer(spaced.strip() or spaced, dtype=np.uint8).astype(np.int32)

    def _corrupt_characters(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Drop spans of characters (ids of a vocabulary), replace some by others of the text.

        These are of the alphabet of its language, unlike random ones.
        """
        starts = np.arange(len(ids)) if self.vocabulary else np.flatnonzero(_begins_character(ids))
        units, count = np.arange(len(starts)), len(starts)
        units = np.where(rng.random(count) < REPLACE_RATE, rng.integers(count, size=count), units)
        dropped = (
            np.convolve(rng.random(count) < DROP_RATE / DROP_SPAN, np.ones(DROP_SPAN))[:count] > 0
        )
        units = units if dropped.all() else units[~dropped]
        # the ids of the units one after another: each one's start, counted on to its end
        lengths = np.diff(starts, append=len(ids))[units]
        corrupted: np.ndarray = ids[
            np.arange(lengths.sum())
            + np.repeat(starts[units] - lengths.cumsum() + lengths, lengths)
        ]
        return corrupted

    def _crop(
        self, ids: np.ndarray, low: float, high: float, rng: np.random.Generator
    ) -> np.ndarray:
        chosen = _ragged.random_crop(len(ids), low, high, rng)
        if self.vocabulary:
            return ids[chosen]
        begins = np.append(np.flatnonzero(_begins_word(ids)), len(ids))
        if len(begins) == 2:  # one word, or a script without spaces
            begins = np.append(np.flatnonzero(_begins_character(ids)), len(ids))
        # both ends move to the nearest beginning
        first = np.abs(begins[:-1] - chosen.start).argmin()
        last = first + 1 + np.abs(begins[first + 1 :] - chosen.stop).argmin()
        return ids[begins[first] : begins[last]]

    def collate(self, values: Sequence[np.ndarray]) -> Ragged:
        """flat (sum of lengths,) int64."""
        return _ragged.pack(values, np.zeros(0, dtype=np.int64))

    @property
    def vocab_size(self) -> int:
        """Number of ids; the next one is the padding of the last token."""
        return (
            max(load_vocabulary(self.vocabulary).get_vocab().values()) + 1
            if self.vocabulary
            else 256
        )

    def tokenizer(self, width: int) -> TextTokenizer:
        return TextTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> TextGraph:
        return TextGraph(cast(TextTokenizer, tokenizer))

    def targets(self, texts: Ragged) -> Tensor:
        """(T, patch) int64 ids, -1 past the end of a text."""
        return _ragged.patches(texts, self.patch, -1)[0]

    def predictor(self, width: int) -> nn.Sequential:
        """Logits (t, patch, vocab_size)."""
        return nn.Sequential(
            nn.Linear(width, self.patch * self.vocab_size),
            nn.Unflatten(1, (self.patch, self.vocab_size)),
        )

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) mean cross-entropy of the ids of each token."""
        from amodal.objectives.reconstruction import masked_cross_entropy

        loss = masked_cross_entropy(prediction.flatten(0, 1), target.flatten()).view_as(target)
        return loss.sum(1) / (target >= 0).sum(1).clamp(min=1)

    def text(self, value: np.ndarray) -> str:
        """The text of a decoded value; invalid bytes become U+FFFD."""
        if self.vocabulary:
            return str(load_vocabulary(self.vocabulary).decode(value.tolist()))
        return value.astype(np.uint8).tobytes().decode("utf-8", "replace")

    def show(self, value: np.ndarray) -> np.ndarray:
        return _draw.text_image(self.text(value))

    def describe(self, value: np.ndarray) -> str:
        return shortened(" ".join(self.text(value).split()))

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        texts = [text for raw in raws if (text := _preview(raw))]
        scripts: Counter[str] = Counter()
        for text in texts:
            scripts.update({_script(c) for c in text if c.isalpha()})
        common = [name for name, n in scripts.most_common(4) if n >= 0.01 * len(texts)]
        written = ", ".join(common) or "no letters"
        return f"{format_range(map(len, texts), 'characters')}, {written}" if texts else ""

    def card(self, value: np.ndarray) -> dict[str, Any]:
        return {"text": shortened(self.text(value), 2000)}

    def attributes(self) -> dict[str, Attribute]:
        return {"length": Attribute("number", lambda value: float(len(self.text(value))))}

    def simple_features(self, train: Sequence[Raw]) -> SimpleFeatures:
        """Word and character tf-idf of whole texts, reduced; see `simple.text`."""
        if not len(train):
            raise NoSimpleFeatures("there is no text to fit simple features on")
        fit = _simple.text([_read(raw) for raw in train])
        return lambda raws: fit([_read(raw) for raw in raws])

    def json_schema(self, limits: Limits) -> Schema:
        return {"type": "string", "minLength": 1, "maxLength": limits.characters}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        return text_of(raw, limits)

    @classmethod
    def example(cls, tokens: int, rng: np.random.Generator) -> tuple[Text, Callable[[], str]]:
        letters = np.array(list("abcdefgh "))
        return cls(
            max_length=tokens, patch=4
        ), lambda: "".join(rng.choice(letters, 4 * tokens - 1)) + "x"


def _read(raw: Raw) -> str:
    if isinstance(raw, (Path, bytes)):
        data = read_bytes(raw)
        try:
            text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadValue(
                f"not {error.encoding.upper()}: {error.reason} at byte {error.start}"
            ) from None
        if "\0" in text:  # what a disk leaves of blocks that were never written
            raise BadValue(
                f"a NUL at character {text.index(chr(0))}, which no text has: damaged, or of "
                "another kind"
            )
        return text
    if isinstance(raw, (list, tuple)) and all(isinstance(line, str) for line in raw):
        return "\n".join(raw)
    if isinstance(raw, str):
        return raw
    if is_missing(raw):
        raise BadValue("empty text")
    if isinstance(raw, (int, float, np.number)):
        return str(raw)
    raise BadValue(
        f"a {type(raw).__name__} is not text: expected text, a list of texts, a Path or bytes"
    )


def _preview(raw: Raw) -> str:
    """The text of a raw value, as far as it can be read."""
    try:
        data = raw.read_bytes() if isinstance(raw, Path) else raw
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)
    except OSError:
        return ""


def _script(character: str) -> str:
    """Latin, Cyrillic, Cjk, …: the first word of the character's name in Unicode."""
    return unicodedata.name(character, "?").partition(" ")[0].capitalize()


def _begins_character(ids: np.ndarray) -> np.ndarray:
    """(length,) bool: the first byte, and those that do not continue a character."""
    return np.concatenate([[True], (ids[1:] & 0xC0) != 0x80])


def _begins_word(ids: np.ndarray) -> np.ndarray:
    """(length,) bool: the first byte, and those after white space."""
    return np.concatenate([[True], (ids[:-1] == 32) | (ids[:-1] == 10)])
