"""Strings of symbols with no spaces or sentences: DNA, RNA, proteins, SMILES, any code that a
machine writes."""

from __future__ import annotations

from collections import Counter, abc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged, Tokens
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared.base import (
    Attribute,
    BadValue,
    Modality,
    Raw,
    Schema,
    at_most,
    build,
    check_view,
    shortened,
    spanned,
)
from amodal.modalities.shared.cells import is_missing
from amodal.modalities.shared.files import read_bytes
from amodal.modalities.shared.requests import text_of

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

CROPS = {"weak": (0.9, 1.0), "strong": (0.5, 1.0), "local": (0.2, 0.5)}  # share of the length
CHANGED, HIDDEN = 0.02, 0.05
"""Of a strong view: share of symbols that are replaced by another, and that become unknown."""
DNA, RNA, PROTEIN = "ACGT", "ACGU", "ACDEFGHIKLMNPQRSTVWY"
UNCLEAR = {DNA: "NRYSWKMBDHV", RNA: "NRYSWKMBDHV", PROTEIN: "XBZJUO*"}
"""What stands for several letters or for an unusual one (IUPAC): unknown."""
GAPS = "-."
MOST_SYMBOLS, MOST_WORDS = 256, 65_536


@dataclass(frozen=True)
class Sequence(Modality):
    """A value is (length,) int32: the place of each symbol in the alphabet, its length for one that
    is unknown. A token is a word of `k` symbols, words side by side; one with an unknown symbol in
    it, or cut short by the end, is the unknown word. What is longer than `max_length` words is cut
    off; `truncated` says how much.

    alphabet: the symbols; k: symbols in a word, so that there are len(alphabet) ** k words; fold:
    lower case is read as upper case (masked repeats in DNA); gaps: keep the gaps of an alignment in
    their place, as unknown symbols, so that positions are those of the alignment: else `-` and `.`
    are taken out, unless they are in the alphabet.
    """

    alphabet: str = DNA
    k: int = 1
    fold: bool = True
    gaps: bool = False
    max_length: int = 256

    suffixes: ClassVar[frozenset[str]] = frozenset({".fa", ".fasta", ".fna", ".faa"})
    raw_text: ClassVar[str] = "either"
    placeholder: ClassVar[str] = "symbols"
    uploads: ClassVar[bool] = False
    is_sequence: ClassVar[bool] = True

    def __post_init__(self):
        if (
            not self.alphabet
            or len(set(self.alphabet)) < len(self.alphabet)
            or self.alphabet.split() != [self.alphabet]
        ):
            raise AmodalError(
                "sequence.alphabet must be different symbols without a space, got "
                f"{self.alphabet!r}"
            )
        if self.fold and self.alphabet != self.alphabet.upper():
            raise AmodalError(
                f"sequence.alphabet has lower-case symbols, got {self.alphabet!r}; say fold = false"
            )
        at_most("sequence", {"k": (self.k, 64), "max_length": (self.max_length, 2**24)})
        if self.k < 1 or self.max_length < 1 or self.words > MOST_WORDS:
            raise AmodalError(
                f"a sequence needs max_length and k of at least 1 and at most {MOST_WORDS:,} "
                "words, "
                f"got max_length {self.max_length} and {len(self.alphabet)} symbols ** k = {self.k}"
            )

    @property
    def words(self) -> int:
        """How many words there are, the unknown one not counted."""
        return len(self.alphabet) ** self.k

    @classmethod
    def infer(cls, samples: abc.Sequence[Raw], **overrides) -> Sequence:
        """alphabet: DNA, RNA or protein if nearly all symbols are of one, else the symbols seen,
        the commonest 256; k: 4 for DNA and RNA that is usually longer than 64, as in BarcodeBERT,
        else 1; room for a quarter more than the longest sample, up to 512 words."""
        texts, first = [], None
        for raw in samples:
            try:
                texts.append(_read(raw))
            except BadValue as error:
                first = first or error
        if not texts:
            raise first or BadValue("no samples to look at")
        fold, gaps = overrides.get("fold", True), overrides.get("gaps", False)
        seen = Counter("".join(texts).upper() if fold else "".join(texts))
        known = next((a for a in (DNA, RNA, PROTEIN) if _made_of(seen, a)), "") if fold else ""
        if not known and "alphabet" not in overrides:
            seen = Counter("".join(texts))
            fold = overrides.get("fold", False)
        alphabet = known or "".join(sorted(s for s, _ in seen.most_common(MOST_SYMBOLS)))
        usual = float(np.median([len(t) for t in texts]))
        measured = {
            "alphabet": alphabet,
            "k": 4 if known in (DNA, RNA) and usual > 64 else 1,
            "fold": fold,
            "gaps": gaps,
        }
        sequence = build(cls, measured | overrides)
        sequence._some(texts)
        room = -(-max(map(len, texts)) * 5 // 4 // sequence.k)
        return build(
            cls, measured | {"max_length": min(512, max(8, -(-room // 8) * 8))} | overrides
        )

    def _some(self, texts: abc.Iterable[str]) -> None:
        """Raises BadValue if none of the texts has a symbol of the alphabet."""
        error = None
        for text in texts:
            try:
                return self._ids(text) is not None
            except BadValue as bad:
                error = bad
        raise error

    def decode(self, raw: Raw) -> np.ndarray:
        """(length,) int32 from text; from a Path or bytes of text, or of FASTA with one sequence.
        White space is taken out."""
        return self._ids(_read(raw))[: self.max_length * self.k]

    def truncated(self, raw: Raw) -> int:
        """How many symbols of this sequence `decode` cuts off."""
        return max(0, len(self._ids(_read(raw))) - self.max_length * self.k)

    def _ids(self, text: str) -> np.ndarray:
        text = text.upper() if self.fold else text
        if not self.gaps:
            text = text.translate({ord(g): None for g in GAPS if g not in self.alphabet})
        if not text:
            raise BadValue("a sequence of gaps")
        code = {symbol: i for i, symbol in enumerate(self.alphabet)}
        ids = np.array([code.get(symbol, len(code)) for symbol in text], dtype=np.int32)
        if (ids == len(code)).all():
            raise BadValue(f"no symbol of {shortened(self.alphabet, 40)!r} in {text[:40]!r}")
        return ids

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """weak: a stretch of 90-100 %, at least without some of the first symbols where there are
        enough, so that words begin in another frame; strong: of 50-100 %, one symbol in fifty
        replaced, one in twenty unknown; local: of 20-50 %."""
        check_view(view)
        if view == "plain":
            return value
        out = value[min(int(rng.integers(self.k)), max(0, len(value) - self.k)) :]
        out = out[_ragged.crop(len(out), *CROPS[view], rng, least=self.k)]
        if view == "strong":
            luck, unknown = rng.random(len(out)), len(self.alphabet)
            out = np.where(luck < CHANGED, rng.integers(unknown, size=len(out)), out).astype(
                np.int32
            )
            hidden = luck > 1 - HIDDEN
            out = out if hidden.all() else np.where(hidden, np.int32(unknown), out)
        return out

    def collate(self, values: abc.Sequence[np.ndarray]) -> Ragged:
        """flat (sum of lengths,) int32."""
        return _ragged.ragged(values, np.zeros(0, dtype=np.int32))

    def spelled(self, sequences: Ragged) -> tuple[Tensor, Tensor]:
        """(T,) int64 the number of each word, `words` for the unknown one, and how many words each
        value has (N,)."""
        unknown = len(self.alphabet)
        symbols_Tk, counts = _ragged.patches(sequences, self.k, unknown)
        power = unknown ** torch.arange(self.k - 1, -1, -1, device=symbols_Tk.device)
        number = (symbols_Tk.long() * power).sum(1)
        return number.masked_fill((symbols_Tk == unknown).any(1), self.words), counts

    def tokenizer(self, width: int) -> SequenceTokenizer:
        return SequenceTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> SequenceGraph:
        return SequenceGraph(tokenizer)

    def targets(self, sequences: Ragged) -> Tensor:
        """(T,) int64 the number of each word, -1 for the unknown one: it does not count."""
        number = self.spelled(sequences)[0]
        return number.masked_fill(number == self.words, -1)

    def predictor(self, width: int) -> nn.Linear:
        """The logits of the words."""
        return nn.Linear(width, self.words)

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) cross-entropy of the word."""
        from amodal.objectives.reconstruction import masked_cross_entropy

        return masked_cross_entropy(prediction, target)

    def text(self, value: np.ndarray) -> str:
        """The symbols of a decoded value, `?` for unknown ones (N in DNA and RNA, X in proteins)."""
        blank = {DNA: "N", RNA: "N", PROTEIN: "X"}.get(self.alphabet, "?")
        return "".join(
            self.alphabet[i] if i < len(self.alphabet) else blank for i in value.tolist()
        )

    def show(self, value: np.ndarray) -> np.ndarray:
        return _draw.page(self.text(value))

    def describe(self, value: np.ndarray) -> str:
        return shortened(f"{len(value)} symbols: {self.text(value[:80])}")

    def summarize(self, raws: abc.Sequence[Raw], values: abc.Sequence[np.ndarray]) -> str:
        letters = self.alphabet if len(self.alphabet) <= 24 else self.alphabet[:23] + "…"
        words = f", words of {self.k}" if self.k > 1 else ""
        return f"{spanned((len(v) for v in values), 'symbols')} of {letters}{words}"

    def card(self, value: np.ndarray) -> dict[str, Any]:
        return {"text": shortened(self.text(value), 2000)}

    def attributes(self) -> dict[str, Attribute]:
        return {"length": Attribute("number", lambda value: float(len(self.text(value))))}

    def json_schema(self, limits: Limits) -> Schema:
        return {"type": "string", "minLength": 1, "maxLength": limits.characters}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        return text_of(raw, limits)


class SequenceTokenizer(nn.Module):
    """An embedding of each word, and one of the unknown word."""

    def __init__(self, sequence: Sequence, width: int):
        super().__init__()
        self.sequence = sequence
        self.embed = nn.Embedding(sequence.words + 1, width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Positions (number of the word, 0, 0)."""
        number, counts = self.sequence.spelled(column.values)
        position = nn.functional.pad(_ragged.steps(counts).float()[:, None], (0, 2))
        return Tokens.of(self.embed(number), column.rows, counts, position, name, size)


class SequenceGraph(nn.Module):
    """Dense form of `SequenceTokenizer`."""

    inputs = {
        "symbols": "(N, length) int64: the place of each symbol in the field's alphabet, its length for an unknown one; "
        "anything past the end of a sequence",
        "lengths": "(N,) int64: symbols of each sequence, at least 1",
    }
    axes = ({0: "batch", 1: "length"}, {0: "batch"})

    def __init__(self, tokenizer: nn.Module):
        super().__init__()
        self.sequence, self.embed = tokenizer.sequence, tokenizer.embed
        self.register_buffer(
            "power", len(self.sequence.alphabet) ** torch.arange(self.sequence.k - 1, -1, -1)
        )

    def forward(self, symbols: Tensor, lengths: Tensor) -> _dense.Tokenised:
        unknown, k = len(self.sequence.alphabet), self.sequence.k
        symbols_NLk = _dense.cut(
            torch.where(_dense.within(symbols, lengths), symbols, unknown), k, unknown
        )
        word_NL = (symbols_NLk.long() * self.power).sum(2)
        word_NL = word_NL.masked_fill((symbols_NLk == unknown).any(2), self.sequence.words)
        return (
            self.embed(word_NL),
            _dense.line(symbols_NLk),
            _dense.present(symbols_NLk, lengths, k),
        )

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        unknown = len(self.sequence.alphabet)
        return [
            np.where(rng.random(k) < 0.1, unknown, rng.integers(0, unknown, k))
            for k in _dense.lengths_of(n, length)
        ]


def is_sequence(text: str) -> bool:
    """Whether text can hardly be anything but DNA, RNA or a protein: long, without a space, in one
    case, few letters or many different ones of a protein."""
    if len(text) < 20 or text.split() != [text]:
        return False
    seen = Counter(text.upper())
    if text in (text.upper(), text.lower()) and (_made_of(seen, DNA) or _made_of(seen, RNA)):
        return True
    return text == text.upper() and len(text) >= 40 and len(seen) >= 10 and _made_of(seen, PROTEIN)


def _made_of(seen: Counter, alphabet: str) -> bool:
    """Whether the symbols, but for one in a hundred, are of this alphabet or unclear, and most are
    not unclear."""
    clear, unclear = sum(seen[s] for s in alphabet), sum(seen[s] for s in UNCLEAR[alphabet] + GAPS)
    return 2 * clear > seen.total() and clear + unclear >= 0.99 * seen.total()


def _read(raw: Raw) -> str:
    if isinstance(raw, (Path, bytes)):
        try:
            raw = read_bytes(raw).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadValue(f"not text: {error.reason} at byte {error.start}") from None
    if not isinstance(raw, str) and is_missing(raw):
        raise BadValue("empty sequence")
    if not isinstance(raw, str):
        raise BadValue(f"a {type(raw).__name__} is not a sequence: expected text, a Path or bytes")
    if raw.lstrip().startswith(">"):
        head, *more = raw.lstrip()[1:].split("\n>")
        if more:
            raise BadValue(f"{1 + len(more)} sequences in one file: each record needs its own")
        raw = head.partition("\n")[2]
    if "\0" in raw:  # what a disk leaves of blocks that were never written
        raise BadValue(
            f"a NUL character at {raw.index(chr(0))}: the file is damaged or of another kind"
        )
    text = "".join(raw.split())
    if not text:
        raise BadValue("empty sequence")
    return text
