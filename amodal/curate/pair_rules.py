"""Cheap rules that filter image-text pairs, with a count of what each rule drops.

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
from typing import Any, cast

import numpy as np

from amodal.core import AmodalError
from amodal.core.regular_file import regular
from amodal.data import Dataset
from amodal.modalities.shared.base import Raw
from amodal.modalities.shared.protocols import Readable

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Filtered:
    """The result of `pair_rules`.

    Attributes:
        violations: rule -> (N,) bool, the pairs that break it; a pair may break more than one.
    """

    violations: dict[str, np.ndarray]

    @property
    def passed(self) -> np.ndarray:
        """(N,) bool: the pairs that break no rule."""
        broken: np.ndarray = np.logical_or.reduce(list(self.violations.values()))
        return ~broken

    @property
    def counts(self) -> dict[str, int]:
        """Rule -> number of pairs that break it, and "passed"."""
        return {rule: int(violation.sum()) for rule, violation in self.violations.items()} | {
            "passed": int(self.passed.sum())
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
    """Which image-text pairs break which rule.

    Rules on images: the short side is at most `short_side`, the sides differ by a factor of
    `aspect` or more, the image has more than `texts_of_image` different texts, or it is held out.
    Rules on texts: more than `images_of_text` different images share it; it has a word or a pair
    of neighbouring words outside the `vocabulary` most frequent ones of these texts (those as
    frequent as the last one stay); it has fewer than `least_words` or more than `most_words` words.

    Args:
        texts: N texts.
        images: equal for equal images, such as a digest; None if all differ.
        sizes: (height, width) in pixels, as stored; None for no rule on the size.
        held_out: images of a test set.
        short_side, aspect, texts_of_image, images_of_text, vocabulary, least_words, most_words:
            see above.
        split: a text in lower case -> its words; by default those between spaces and punctuation.
            In a script without spaces (Chinese, Japanese, Thai) that is a whole clause: pass a
            segmenter, or `list` for characters.

    Raises:
        AmodalError: `images` or `sizes` have another length than `texts`.
    """
    for name, values in (("images", images), ("sizes", sizes)):
        if values is not None and len(values) != len(texts):
            raise AmodalError(
                f"pair_rules got {len(texts)} texts and {len(values)} {name}: one for each text is "
                "needed"
            )
    images = list(range(len(texts))) if images is None else list(images)
    words = [split(t.lower()) for t in texts]
    normalised = [" ".join(w) for w in words]
    pairs = set(zip(images, normalised))
    images_per_text = Counter(text for _, text in pairs)
    texts_per_image = Counter(image for image, _ in pairs)
    ngrams_of: list[list[Hashable]] = [[*w, *zip(w, w[1:])] for w in words]
    common = _most_frequent(Counter(g for ngrams in ngrams_of for g in ngrams), vocabulary)
    held_out_images = set(held_out)
    height, width = np.array(sizes if sizes is not None else [(1, 1)] * len(texts)).reshape(-1, 2).T
    low, high = np.minimum(height, width), np.maximum(height, width)
    violations = {
        "small picture": [sizes is not None and bool(side <= short_side) for side in low],
        "narrow picture": high >= aspect * low,
        "picture with many texts": [texts_per_image[i] > texts_of_image for i in images],
        "held-out picture": [i in held_out_images for i in images],
        "text of many pictures": [images_per_text[t] > images_of_text for t in normalised],
        "rare words": [not all(g in common for g in ngrams) for ngrams in ngrams_of],
        "short text": [len(w) < least_words for w in words],
        "long text": [len(w) > most_words for w in words],
    }
    return Filtered(
        {rule: np.asarray(violation, dtype=bool) for rule, violation in violations.items()}
    )


def _most_frequent(counts: Counter[Hashable], size: int) -> set[Hashable]:
    if len(counts) <= size:
        return set(counts)
    last = sorted(counts.values(), reverse=True)[size - 1] if size else max(counts.values()) + 1
    return {gram for gram, count in counts.items() if count >= last}


def pairs_of(dataset: Dataset, rows: Sequence[int], image: str, text: str) -> dict[str, list[Any]]:
    """The arguments `texts`, `images` and `sizes` of `pair_rules` for some records.

    Args:
        dataset: of the records.
        rows: records that have both fields.
        image, text: the fields.
    """
    texts, images, sizes = [], [], []
    for i in rows:
        cell = dataset.raw(i, text)  # whole, where decoding may cut it off
        field = cast(Readable, dataset.fields[text])
        texts.append(cell if isinstance(cell, str) else field.text(_value(dataset, i, text)))
        pixels = _value(dataset, i, image).tobytes()
        images.append(hashlib.blake2b(pixels, digest_size=16).digest())
        sizes.append(_size(dataset.raw(i, image)))
    return {"texts": texts, "images": images, "sizes": sizes}


def _value(dataset: Dataset, i: int, field: str) -> np.ndarray:
    value = dataset.value(i, field)
    if value is None:
        raise AmodalError(f"record {dataset.keys[i]!r} has no {field!r}")
    return value


def _size(raw: Raw | None) -> tuple[int, int]:
    if isinstance(raw, (Path, str, bytes)):
        from PIL import Image

        with Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else regular(raw)) as picture:
            return picture.height, picture.width
    height, width = np.asarray(raw).shape[:2]
    return height, width
