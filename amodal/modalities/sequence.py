"""Strings of symbols without spaces: DNA, RNA, proteins, SMILES, machine-written codes."""

from __future__ import annotations

from collections import Counter, abc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared import simple as _simple
from amodal.modalities.shared.base import (
    Attribute,
    BadValue,
    Modality,
    Raw,
    Schema,
    at_most,
    build,
    check_view,
    format_range,
    read_each,
    shortened,
)
from amodal.modalities.shared.cells import is_missing
from amodal.modalities.shared.files import read_bytes
from amodal.modalities.shared.requests import text_of
from amodal.modalities.shared.tokenizers.sequence import SequenceGraph, SequenceTokenizer

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

CROPS = {"weak": (0.9, 1.0), "strong": (0.5, 1.0), "local": (0.2, 0.5)}  # share of the length
REPLACE_RATE, UNKNOWN_RATE = 0.02, 0.05
"""Of a strong view: share of symbols replaced by another, and made unknown."""
DNA, RNA, PROTEIN = "ACGT", "ACGU", "ACDEFGHIKLMNPQRSTVWY"
AMBIGUOUS = {DNA: "NRYSWKMBDHV", RNA: "NRYSWKMBDHV", PROTEIN: "XBZJUO*"}
"""What stands for several letters or for an unusual one (IUPAC): unknown."""
GAPS = "-."
MAX_SYMBOLS, MAX_VOCAB_SIZE = 256, 65_536


@dataclass(frozen=True)
class Sequence(Modality):
    """A sequence of symbols. A value is (length,) int32: the index of each symbol in the alphabet.

    Unknown symbols have the index after the last. A token is a k-mer; k-mers do not overlap. One
    with an unknown symbol, or cut short by the end, is the unknown k-mer. Sequences longer than
    `max_length` k-mers are cut; `truncated` counts the rest.

    Attributes:
        alphabet: the symbols.
        k: symbols of a k-mer, so that there are len(alphabet) ** k of them.
        fold: read lower case as upper case (masked repeats in DNA).
        gaps: keep the gaps of an alignment as unknown symbols, so that positions are those of the
            alignment. Else `-` and `.` are removed, unless they are in the alphabet.
        max_length: k-mers of a value.
    """

    alphabet: str = DNA
    k: int = 1
    fold: bool = True
    gaps: bool = False
    max_length: int = 256

    simple_name: ClassVar[str] = "k-mers"
    simple_by_column: ClassVar[bool] = False
    suffixes: ClassVar[frozenset[str]] = frozenset({".fa", ".fasta", ".fna", ".faa"})
    raw_text: ClassVar[str] = "either"
    placeholder: ClassVar[str] = "symbols"
    uploads: ClassVar[bool] = False
    is_sequence: ClassVar[bool] = True
    backbones: ClassVar[tuple[str, ...]] = ("gru", "lstm")

    def __post_init__(self) -> None:
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
        if self.k < 1 or self.max_length < 1 or self.vocab_size > MAX_VOCAB_SIZE:
            raise AmodalError(
                f"a sequence needs max_length and k of at least 1 and at most {MAX_VOCAB_SIZE:,} "
                "words, "
                f"got max_length {self.max_length} and {len(self.alphabet)} symbols ** k = {self.k}"
            )

    @property
    def vocab_size(self) -> int:
        """Number of k-mers, without the unknown one."""
        return int(len(self.alphabet) ** self.k)

    @classmethod
    def infer(cls, samples: abc.Sequence[Raw], **overrides: Any) -> Sequence:
        """See `Modality.infer`.

        alphabet: DNA, RNA or protein if nearly all symbols are of one, else the 256 most frequent
        symbols. k: 4 for DNA and RNA with a median length above 64, as in BarcodeBERT, else 1.
        max_length: a quarter more than the longest sample, at most 512.
        """
        texts = read_each(samples, _read)
        fold, gaps = overrides.get("fold", True), overrides.get("gaps", False)
        counts = Counter("".join(texts).upper() if fold else "".join(texts))
        alphabet_found = (
            next((a for a in (DNA, RNA, PROTEIN) if _made_of(counts, a)), "") if fold else ""
        )
        if not alphabet_found and "alphabet" not in overrides:
            counts = Counter("".join(texts))
            fold = overrides.get("fold", False)
        alphabet = alphabet_found or "".join(sorted(s for s, _ in counts.most_common(MAX_SYMBOLS)))
        typical = float(np.median([len(t) for t in texts]))
        measured = {
            "alphabet": alphabet,
            "k": 4 if alphabet_found in (DNA, RNA) and typical > 64 else 1,
            "fold": fold,
            "gaps": gaps,
        }
        sequence = build(cls, measured | overrides)
        sequence._check_any(texts)
        num_kmers = -(-max(map(len, texts)) * 5 // 4 // sequence.k)
        return build(
            cls, measured | {"max_length": min(512, max(8, -(-num_kmers // 8) * 8))} | overrides
        )

    def _check_any(self, texts: abc.Iterable[str]) -> None:
        """Raise BadValue if no text has a symbol of the alphabet."""
        error = BadValue("no samples to look at")
        for text in texts:
            try:
                self._ids(text)
                return
            except BadValue as bad:
                error = bad
        raise error

    def decode(self, raw: Raw) -> np.ndarray:
        """(length,) int32 from text, or from a Path or bytes of text or of FASTA with one sequence.

        White space is removed.
        """
        return self._ids(_read(raw))[: self.max_length * self.k]

    def truncated(self, raw: Raw) -> int:
        """Number of symbols that `decode` cuts."""
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
        """See `Modality.augment`.

        weak: a slice of 90-100 %, without up to k - 1 of the first symbols where there are enough,
        so that k-mers begin in another frame. strong: 50-100 %, one symbol in fifty replaced, one
        in twenty unknown. local: 20-50 %.
        """
        check_view(view)
        if view == "plain":
            return value
        out = value[min(int(rng.integers(self.k)), max(0, len(value) - self.k)) :]
        out = out[_ragged.random_crop(len(out), *CROPS[view], rng, least=self.k)]
        if view == "strong":
            # one draw a symbol: low ones replace it, high ones hide it, and none does both
            draws, unknown = rng.random(len(out)), len(self.alphabet)
            out = np.where(draws < REPLACE_RATE, rng.integers(unknown, size=len(out)), out).astype(
                np.int32
            )
            hidden = draws > 1 - UNKNOWN_RATE
            out = out if hidden.all() else np.where(hidden, np.int32(unknown), out)
        return out

    def collate(self, values: abc.Sequence[np.ndarray]) -> Ragged:
        """flat (sum of lengths,) int32."""
        return _ragged.pack(values, np.zeros(0, dtype=np.int32))

    def kmers(self, sequences: Ragged) -> tuple[Tensor, Tensor]:
        """(T,) int64 codes of k-mers, `vocab_size` for the unknown one, and their number (N,)."""
        unknown = len(self.alphabet)
        symbols_Tk, counts = _ragged.patches(sequences, self.k, unknown)
        # a k-mer's code has its symbols as digits
        power = unknown ** torch.arange(self.k - 1, -1, -1, device=symbols_Tk.device)
        number = (symbols_Tk.long() * power).sum(1)
        return number.masked_fill((symbols_Tk == unknown).any(1), self.vocab_size), counts

    def tokenizer(self, width: int) -> SequenceTokenizer:
        return SequenceTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> SequenceGraph:
        return SequenceGraph(cast(SequenceTokenizer, tokenizer))

    def targets(self, sequences: Ragged) -> Tensor:
        """(T,) int64 code of each k-mer, -1 for the unknown one, which does not count."""
        number = self.kmers(sequences)[0]
        return number.masked_fill(number == self.vocab_size, -1)

    def predictor(self, width: int) -> nn.Linear:
        """Logits of the k-mers."""
        return nn.Linear(width, self.vocab_size)

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) cross-entropy of the k-mer."""
        from amodal.objectives.reconstruction import masked_cross_entropy

        return masked_cross_entropy(prediction, target)

    def text(self, value: np.ndarray) -> str:
        """The symbols of a value, `?` for unknown ones (N in DNA and RNA, X in proteins)."""
        blank = {DNA: "N", RNA: "N", PROTEIN: "X"}.get(self.alphabet, "?")
        return "".join(
            self.alphabet[i] if i < len(self.alphabet) else blank for i in value.tolist()
        )

    def show(self, value: np.ndarray) -> np.ndarray:
        return _draw.text_image(self.text(value))

    def describe(self, value: np.ndarray) -> str:
        return shortened(f"{len(value)} symbols: {self.text(value[:80])}")

    def summarize(self, raws: abc.Sequence[Raw], values: abc.Sequence[np.ndarray]) -> str:
        letters = self.alphabet if len(self.alphabet) <= 24 else self.alphabet[:23] + "…"
        words = f", words of {self.k}" if self.k > 1 else ""
        return f"{format_range((len(v) for v in values), 'symbols')} of {letters}{words}"

    def card(self, value: np.ndarray) -> dict[str, Any]:
        return {"text": shortened(self.text(value), 2000)}

    def attributes(self) -> dict[str, Attribute]:
        return {"length": Attribute("number", lambda value: float(len(self.text(value))))}

    def simple_groups(self, raws: abc.Sequence[Raw]) -> list[_simple.Array]:
        """Length and frequencies of k-mers; see `simple.kmers`."""
        return _simple.kmers(self.decode_all(raws), len(self.alphabet))

    def json_schema(self, limits: Limits) -> Schema:
        return {"type": "string", "minLength": 1, "maxLength": limits.characters}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        return text_of(raw, limits)


def is_sequence(text: str) -> bool:
    """Whether a text is most likely DNA, RNA or a protein.

    Long, without a space, in one case, of few letters or of many different ones of a protein.
    """
    if len(text) < 20 or text.split() != [text]:
        return False
    counts = Counter(text.upper())
    if text in (text.upper(), text.lower()) and (_made_of(counts, DNA) or _made_of(counts, RNA)):
        return True
    return (
        text == text.upper() and len(text) >= 40 and len(counts) >= 10 and _made_of(counts, PROTEIN)
    )


def _made_of(counts: Counter[str], alphabet: str) -> bool:
    """Whether 99 % of the symbols are of this alphabet or ambiguous, and most are not ambiguous."""
    clear, ambiguous = (
        sum(counts[s] for s in alphabet),
        sum(counts[s] for s in AMBIGUOUS[alphabet] + GAPS),
    )
    return 2 * clear > counts.total() and clear + ambiguous >= 0.99 * counts.total()


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
