"""Text of any language and length: subwords that are learnt from it, UTF-8 bytes, characters, or
the ids of a local Hugging Face tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged, unknown
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared import subwords as _subwords
from amodal.modalities.shared import text_views as _views
from amodal.modalities.shared import tfidf as _tfidf
from amodal.modalities.shared.base import (
    Attribute,
    BadValue,
    FittedFeatures,
    Modality,
    NoSimpleFeatures,
    Raw,
    Schema,
    SimpleFeatures,
    at_most,
    build,
    check_view,
    format_range,
    read_each,
    shortened,
)
from amodal.modalities.shared.learnt import LEARNT
from amodal.modalities.shared.raw_texts import preview, read_text, readable, script
from amodal.modalities.shared.requests import text_of
from amodal.modalities.shared.text_edits import EDITS, check_thesaurus, edited
from amodal.modalities.shared.tokenizers.text import TextGraph, TextTokenizer
from amodal.modalities.shared.views import VIEWS
from amodal.modalities.shared.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

STRONG_VIEWS = ("characters", "words")
TOKENS = ("subwords", "bytes", "characters")
MAX_LENGTH = 256
"""Tokens of a value, unless the schema says more."""


@dataclass(frozen=True)
class Text(Modality):
    """Text. A value is (length,) int32: ids of subwords or of characters, byte values, or ids of
    a vocabulary.

    A run learns subwords and characters from its training texts (`learn_tokens`). Until then, and
    where the texts are too few to learn from, a text is its bytes.

    Texts longer than `max_length * patch` ids are cut; `truncated` counts the rest. Special tokens
    are not added: a pretrained backbone that needs them adds its own.

    Attributes:
        max_length: tokens of a value.
        patch: bytes of a token (the cost of attention falls with its square), or ids of a
            vocabulary. What has been learnt is a token for each id.
        vocabulary: path of a `tokenizer.json`, or of a directory with one, in place of `tokens`.
        strong: what a strong view corrupts: "characters", or whole "words".
        tokens: what an id is: "subwords", "bytes" or "characters".
        vocabulary_size: ids that are learnt, at most.
        thesaurus: path of synonyms for the views eda and rocket: a file of lines `WORD: SYNONYM,
            SYNONYM`, or the directory of WordNet's database.
        merges: what has been learnt, see `amodal.modalities.shared.subwords`; a run writes it.
    """

    max_length: int = MAX_LENGTH
    patch: int = 1
    vocabulary: str = ""
    strong: str = "characters"
    tokens: str = "subwords"
    vocabulary_size: int = 8192
    thesaurus: str = ""
    merges: str = field(default="", repr=False, metadata=LEARNT)

    simple_name: ClassVar[str] = "tf-idf"
    suffixes: ClassVar[frozenset[str]] = frozenset({".txt", ".text", ".md", ".caption"})
    raw_text: ClassVar[str] = "either"
    placeholder: ClassVar[str] = "words"
    uploads: ClassVar[bool] = False
    is_sequence: ClassVar[bool] = True
    takes_prompts: ClassVar[bool] = True
    self_explaining: ClassVar[bool] = True
    backbones: ClassVar[tuple[str, ...]] = (
        "transformers",
        "sentence-transformers",
        "open_clip",
        "gru",
        "lstm",
    )
    # smollm2 is left out: its features are behind minilm's, at six times the parameters
    packaged: ClassVar[tuple[str, ...]] = ("minilm",)
    example_tokens: ClassVar[int] = 64
    views: ClassVar[tuple[str, ...]] = (*VIEWS, *EDITS)

    def __post_init__(self) -> None:
        if self.max_length < 1 or self.patch < 1:
            raise AmodalError(
                f"text needs max_length and patch of at least 1, got {self.max_length} and "
                f"{self.patch}"
            )
        if self.vocabulary_size < 256:
            raise AmodalError(
                "text.vocabulary_size is at least 256, the bytes, by which any text can be "
                f"written, got {self.vocabulary_size}"
            )
        at_most(
            "text",
            {
                "max_length": (self.max_length, 2**24),
                "patch": (self.patch, 4096),
                "vocabulary_size": (self.vocabulary_size, 2**20),
            },
        )
        if self.tokens not in TOKENS:
            raise unknown("kind of tokens of text", self.tokens, TOKENS)
        if self.merges and self.tokens == "bytes":
            raise AmodalError('text.merges are of subwords or characters, and tokens = "bytes"')
        if self.strong not in STRONG_VIEWS:
            raise unknown("damage of a strong view of text", self.strong, STRONG_VIEWS)

    @classmethod
    def restore(cls, parameters: Mapping[str, Any]) -> Text:
        """See `Modality.restore`. Runs of before subwords read bytes."""
        return build(cls, {"tokens": "bytes"} | dict(parameters))

    @property
    def learns_tokens(self) -> bool:
        """Whether its tokens are to be learnt, and have not been."""
        return self.tokens != "bytes" and not self.vocabulary and not self.merges

    def learn_tokens(self, raws: Iterable[Raw]) -> str:
        """What is learnt of training texts, for `with_learnt`. Unreadable ones are skipped."""
        return _subwords.learn(
            readable(raws), characters=self.tokens == "characters", size=self.vocabulary_size
        )

    def with_learnt(self, merges: str) -> Text:
        """The modality with what `learn_tokens` gave; as it is where that is nothing.

        `max_length` then counts the new tokens, of which a text has as many as before at most.
        """
        if not merges:
            return self
        longest = max(self.max_length, min(MAX_LENGTH, self.max_length * self.patch))
        return replace(self, merges=merges, patch=1, max_length=longest)

    def with_tokens(self, tokens: str) -> Text:
        """The modality with tokens of another kind. A vocabulary, and what is learnt, stays."""
        return self if self.vocabulary or self.merges else replace(self, tokens=tokens)

    def tokens_note(self) -> str:
        """See `LearnsTokens`."""
        if self.merges:
            return f"{self.vocab_size:,} {self.tokens}, learnt from the training texts"
        few = f"too few training texts to learn {self.tokens} from, so they are read as bytes"
        return few if self.learns_tokens else ""

    @property
    def _learnt(self) -> _subwords.Subwords | None:
        known = self.merges and not self.vocabulary
        return _subwords.load(self.merges, self.tokens == "characters") if known else None

    @property
    def _ids_are(self) -> _views.Bytes:
        """What the parts of a text are that a view is made of."""
        learnt = self._learnt
        if learnt is not None:
            subwords = self.tokens == "subwords"
            return _views.OfSubwords(learnt) if subwords else _views.Characters(learnt)
        return _views.Vocabulary(self.vocabulary) if self.vocabulary else _views.Bytes()

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides: Any) -> Text:
        """See `Modality.infer`.

        patch: 1, 2 or 4 bytes such that 90 % of the texts have at most 64 tokens. max_length: a
        quarter more than the longest, at most 256.
        """
        probe = build(cls, overrides)
        lengths = read_each(samples, lambda raw: len(probe._ids(raw)))
        typical = np.percentile(lengths, 90)
        small = 1 if probe.vocabulary else next((p for p in (1, 2, 4) if typical <= 64 * p), 4)
        patch = build(cls, {"patch": small} | overrides).patch
        max_tokens = -(-max(lengths) * 5 // 4 // patch)  # a quarter more than was seen
        return build(
            cls,
            {"patch": patch, "max_length": min(MAX_LENGTH, max(8, -(-max_tokens // 8) * 8))}
            | overrides,
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
        text = read_text(raw).strip()
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
            as_bytes = text.encode()
        except UnicodeEncodeError as error:
            raise BadValue(f"not Unicode text: {error.reason} at character {error.start}") from None
        learnt = self._learnt
        if learnt is not None:
            return learnt.encode(text)
        return np.frombuffer(as_bytes, dtype=np.uint8).astype(np.int32)

    def _cut(self, ids: np.ndarray) -> np.ndarray:
        max_tokens = self.max_length * self.patch
        if len(ids) <= max_tokens or self.vocabulary:
            return ids[:max_tokens]
        # one id more: if a character begins there, all before it are whole
        starts = np.flatnonzero(self._ids_are.begins_character(ids[: max_tokens + 1]))
        return ids[
            : starts[-1] or max_tokens
        ]  # half a character only where a whole one has no room

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """See `Modality.augment`.

        weak: a slice of 80-100 % that begins and ends at a word. strong: 50-100 %, a tenth of it
        dropped in short spans and one character in fifty replaced by another of the same text (or,
        with `strong="words"`, the whole text with words dropped and swapped); of subwords the words
        are what is dropped and replaced. local: one of its lines or, of a single line, a slice of
        20-50 %. eda: one of easy data augmentation's four edits of words. stopwords: mostly without
        stop words; rocket: so too, and one of three edits.
        """
        check_view(view, self.views)
        if view in EDITS:
            return self._cut(self._ids(edited(self.text(value), view, rng, self.thesaurus)))
        return _views.augment(value, self._ids_are, view, rng, words=self.strong == "words")

    def known_view(self, view: str) -> str:
        check_thesaurus(view, self.thesaurus)
        return super().known_view(view)

    def words(self, texts: Ragged) -> Tensor:
        """(T,) int64 number of the word of each token, in its text; see `HasWords`."""
        return _views.word_numbers(texts, self._ids_are, self.patch)

    def collate(self, values: Sequence[np.ndarray]) -> Ragged:
        """flat (sum of lengths,) int64."""
        return _ragged.pack(values, np.zeros(0, dtype=np.int64))

    @property
    def vocab_size(self) -> int:
        """Number of ids; the next one is the padding of the last token."""
        if self.vocabulary:
            return max(load_vocabulary(self.vocabulary).get_vocab().values()) + 1
        learnt = self._learnt
        return len(learnt.bytes_of) if learnt is not None else 256

    def tokenizer_json(self) -> str:
        """The content of a tokenizer.json of what has been learnt; "" if nothing has been."""
        learnt = self._learnt
        return learnt.to_json() if learnt is not None else ""

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
        learnt = self._learnt
        as_bytes = learnt.decode(value) if learnt is not None else value.astype(np.uint8).tobytes()
        return as_bytes.decode("utf-8", "replace")

    def show(self, value: np.ndarray) -> np.ndarray:
        return _draw.text_image(self.text(value))

    def describe(self, value: np.ndarray) -> str:
        return shortened(" ".join(self.text(value).split()))

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        texts = [text for raw in raws if (text := preview(raw))]
        scripts: Counter[str] = Counter()
        for text in texts:
            scripts.update({script(c) for c in text if c.isalpha()})
        common = [name for name, n in scripts.most_common(4) if n >= 0.01 * len(texts)]
        written = ", ".join(common) or "no letters"
        return f"{format_range(map(len, texts), 'characters')}, {written}" if texts else ""

    def card(self, value: np.ndarray) -> dict[str, Any]:
        return {"text": shortened(self.text(value), 2000)}

    def attributes(self) -> dict[str, Attribute]:
        return {
            "length": Attribute("number", lambda value: float(len(self.text(value)))),
            "words": Attribute("words", self.text),
        }

    def simple_features(self, train: Sequence[Raw]) -> SimpleFeatures:
        """Word and character tf-idf of whole texts, reduced; see `shared.tfidf`."""
        if not len(train):
            raise NoSimpleFeatures("there is no text to fit simple features on")
        return _tfidf.tfidf(train, read_text)

    def restored_simple_features(self, state: Mapping[str, Any]) -> FittedFeatures:
        return _tfidf.TfIdf(read_text, **state)

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
