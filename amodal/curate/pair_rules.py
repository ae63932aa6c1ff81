"""Cheap rules that drop pictures, texts or pairs of them by what can be counted, and counters of
what each rule dropped.

Jia et al. 2021 (ALIGN), arXiv:2102.05918, section 3. Wrong but plausible pairs pass: the paper's
point is that scale makes up for them.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.data import Dataset

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Filtered:
    """faults: rule -> (N,) bool, the pairs that it finds fault with; a pair may break several
    rules."""

    faults: dict[str, np.ndarray]

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool: the pairs that break no rule."""
        return ~np.logical_or.reduce(list(self.faults.values()))

    @property
    def counts(self) -> dict[str, int]:
        """rule -> pairs that break it, and `kept`."""
        return {rule: int(fault.sum()) for rule, fault in self.faults.items()} | {
            "kept": int(self.kept.sum())
        }


def pair_rules(
    texts: Sequence[str],
    *,
    images: Sequence[Hashable] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    held_out: Iterable[Hashable] = (),
    short_side: int = 200,
    aspect: float = 3.0,
    texts_of_image: int = 1000,
    images_of_text: int = 10,
    vocabulary: int = 100_000_000,
    least_words: int = 3,
    most_words: int = 20,
    split: Callable[[str], Sequence[str]] = WORD.findall,
) -> Filtered:
    """N texts and their pictures -> which pairs break which rule.

    images: equal for equal pictures, such as a digest (every picture is its own unless given);
    sizes: (height, width) in pixels, as stored; held_out: pictures that a test uses. Dropped are
    pictures whose short side is at most `short_side` or whose sides differ by a factor of `aspect`
    or more, which have more than `texts_of_image` different texts, or which are held out; texts
    that more than `images_of_text` different pictures share, with a word or a pair of neighbouring
    words outside the `vocabulary` most frequent ones of these texts (those as frequent as the last
    one stay), of fewer than `least_words` or more than `most_words` words. split: a text in lower
    case -> its words, all between spaces and signs unless given; in a script without spaces
    (Chinese, Japanese, Thai) that is a whole clause: give a segmenter, or `list` for characters.
    Raises AmodalError unless there is one entry for each text everywhere.
    """
    for name, given in (("images", images), ("sizes", sizes)):
        if given is not None and len(given) != len(texts):
            raise AmodalError(
                f"pair_rules got {len(texts)} texts and {len(given)} {name}: one for each text is needed"
            )
    images = list(range(len(texts))) if images is None else list(images)
    words = [split(t.lower()) for t in texts]
    plain = [" ".join(w) for w in words]
    pairs = set(zip(images, plain))
    sharing, described = Counter(text for _, text in pairs), Counter(image for image, _ in pairs)
    grams = [[*w, *zip(w, w[1:])] for w in words]
    common = _most_frequent(Counter(g for each in grams for g in each), vocabulary)
    known, (height, width) = (
        set(held_out),
        np.array(sizes if sizes is not None else [(1, 1)] * len(texts)).reshape(-1, 2).T,
    )
    low, high = np.minimum(height, width), np.maximum(height, width)
    faults = {
        "small picture": low <= short_side
        if sizes is not None
        else np.zeros(len(texts), dtype=bool),
        "narrow picture": high >= aspect * low,
        "picture with many texts": [described[i] > texts_of_image for i in images],
        "held-out picture": [i in known for i in images],
        "text of many pictures": [sharing[t] > images_of_text for t in plain],
        "rare words": [not all(g in common for g in each) for each in grams],
        "short text": [len(w) < least_words for w in words],
        "long text": [len(w) > most_words for w in words],
    }
    return Filtered({rule: np.asarray(fault, dtype=bool) for rule, fault in faults.items()})


def _most_frequent(counts: Counter, size: int) -> set:
    if len(counts) <= size:
        return set(counts)
    last = sorted(counts.values(), reverse=True)[size - 1] if size else max(counts.values()) + 1
    return {gram for gram, count in counts.items() if count >= last}


def pairs_of(dataset: Dataset, rows: Sequence[int], image: str, text: str) -> dict[str, list]:
    """What `pair_rules` asks about records `rows` (n,) that have both fields: texts, images, sizes."""
    texts, images, sizes = [], [], []
    for i in rows:
        cell = dataset.raw(i, text)  # whole, where decoding may cut it off
        texts.append(
            cell if isinstance(cell, str) else dataset.fields[text].text(dataset.value(i, text))
        )
        images.append(hashlib.blake2b(dataset.value(i, image).tobytes(), digest_size=16).digest())
        sizes.append(_size(dataset.raw(i, image)))
    return {"texts": texts, "images": images, "sizes": sizes}


def _size(raw) -> tuple[int, int]:
    if isinstance(raw, (Path, str, bytes)):
        from PIL import Image

        with Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw) as picture:
            return picture.height, picture.width
    return tuple(np.shape(raw)[:2])
