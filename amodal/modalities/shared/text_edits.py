"""Views of a text that edit its words: easy data augmentation, and stop words left out.

Wei and Zou, EMNLP 2019, arXiv:1901.11196, section 2: synonym replacement, random insertion, random
swap and random deletion. CleanCLIP (arXiv:2303.03323) takes one of the four, CLIPRocket
(arXiv:2305.08675) leaves out stop words and takes one of three.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from amodal.core import AmodalError

RATE = 0.1
"""Share of the words that an edit changes (alpha of the paper), at least one."""
STOP_RATE = 0.8
"""How often CLIPRocket leaves out stop words."""
MAX_BYTES = 2**28
"""Of a file of synonyms."""
WORDNET = ("noun", "verb", "adj", "adv")

Synonyms = Mapping[str, Sequence[str]]
Words = list[str]
Edit = Callable[[Words, np.random.Generator, Synonyms], Words]


def edited(text: str, view: str, rng: np.random.Generator, thesaurus: str) -> str:
    """A view of a text.

    Args:
        text: The text.
        view: One of `EDITS`.
        rng: The only source of randomness.
        thesaurus: See `synonyms`.

    Returns:
        The text edited; as it is where nothing would be left.

    Raises:
        AmodalError: If the thesaurus cannot be read.
    """
    return EDITS[view](text, rng, thesaurus)


def one_of_four(text: str, rng: np.random.Generator, thesaurus: str) -> str:
    """CleanCLIP's: lower case without punctuation, and one of the four edits."""
    words = re.sub(r"[^\w\s]", " ", text.replace("'", "").lower()).split()
    edit = (replaced, inserted, swapped, deleted)[rng.integers(4)]
    return " ".join(edit(words, rng, synonyms(thesaurus))) or text


def rocket(text: str, rng: np.random.Generator, thesaurus: str) -> str:
    """CLIPRocket's strong one: mostly without stop words, and one of three edits."""
    words = without_stop_words(text, rng, thesaurus).split()
    edit: Edit = (replaced, swapped, deleted)[rng.choice(3, p=(0.4, 0.4, 0.2))]
    return " ".join(edit(words, rng, synonyms(thesaurus))) or text


def without_stop_words(text: str, rng: np.random.Generator, thesaurus: str) -> str:
    """CLIPRocket's weak one: mostly without stop words."""
    words = [w for w in text.split() if w.lower().strip(".,;:!?'\"()") not in stop_words()]
    return " ".join(words) if words and rng.random() < STOP_RATE else text


EDITS = {"eda": one_of_four, "rocket": rocket, "stopwords": without_stop_words}
"""View -> edit."""
NEEDS_SYNONYMS = ("eda", "rocket")


def check_thesaurus(view: str, thesaurus: str) -> None:
    """Raise AmodalError for a view that needs a thesaurus where there is none."""
    if view in NEEDS_SYNONYMS and not thesaurus:
        raise AmodalError(
            f"the view {view} replaces words by synonyms: set thesaurus = FILE for the field, "
            "lines WORD: SYNONYM, SYNONYM or the directory of WordNet's database; or take the view "
            'strong with strong = "words", which leaves words out and swaps them'
        )


def replaced(words: Words, rng: np.random.Generator, known: Synonyms) -> Words:
    """Some words that are no stop words are replaced by synonyms, wherever they stand."""
    able = [w for w in dict.fromkeys(words) if w.lower() in known and w.lower() not in stop_words()]
    for k in rng.permutation(len(able))[: changes(words)].tolist():
        by = one(known[able[k].lower()], rng)
        words = [by if w == able[k] else w for w in words]
    return words


def inserted(words: Words, rng: np.random.Generator, known: Synonyms) -> Words:
    """Synonyms of some words are put in anywhere."""
    words, able = list(words), [w for w in words if w.lower() in known]
    for _ in range(changes(words) if able else 0):
        words.insert(int(rng.integers(len(words) + 1)), one(known[one(able, rng).lower()], rng))
    return words


def swapped(words: Words, rng: np.random.Generator, known: Synonyms) -> Words:
    """Some pairs of words change places."""
    words = list(words)
    for _ in range(changes(words) if len(words) > 1 else 0):
        a, b = rng.choice(len(words), 2, replace=False)
        words[a], words[b] = words[b], words[a]
    return words


def deleted(words: Words, rng: np.random.Generator, known: Synonyms) -> Words:
    """Each word is left out with a small probability; one stays."""
    left = [w for w, u in zip(words, rng.random(len(words))) if u >= RATE]
    return left or ([one(words, rng)] if words else [])


def changes(words: Words) -> int:
    """How many edits a text of these words gets."""
    return max(1, int(RATE * len(words)))


def one(among: Sequence[str], rng: np.random.Generator) -> str:
    """One of some words."""
    return among[int(rng.integers(len(among)))]


@functools.cache
def stop_words() -> frozenset[str]:
    """English words that mean little (scikit-learn's)."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


@functools.lru_cache(maxsize=4)
def synonyms(thesaurus: str) -> Synonyms:
    """Word -> its synonyms, in lower case.

    Args:
        thesaurus: A file with a line for each word, `WORD: SYNONYM, SYNONYM`; or the directory of
            WordNet's database, with `data.noun` and the like.

    Raises:
        AmodalError: If there is none, or it cannot be read.
    """
    path = Path(thesaurus).expanduser()
    files = [f for kind in WORDNET if (f := path / f"data.{kind}").is_file()] or [path]
    found: dict[str, dict[str, None]] = {}
    try:
        for file in files:
            if file.stat().st_size > MAX_BYTES:
                raise AmodalError(f"the thesaurus {file} has more than {MAX_BYTES:,} bytes")
            for line in file.read_text(encoding="utf-8").splitlines():
                for word, others in (synset if file != path else entry)(line):
                    found.setdefault(word, {}).update(dict.fromkeys(o for o in others if o != word))
    except (OSError, UnicodeDecodeError) as error:
        raise AmodalError(
            f"the thesaurus {thesaurus!r} cannot be read ({error}); it is a file of lines "
            "WORD: SYNONYM, SYNONYM, or the directory of WordNet's data.noun, data.verb, …"
        ) from error
    return {word: tuple(others) for word, others in found.items() if others}


def entry(line: str) -> list[tuple[str, Words]]:
    """A line of a file of synonyms."""
    word, colon, others = line.lower().partition(":")
    listed = [o.strip() for o in others.split(",") if o.strip()]
    return [(word.strip(), listed)] if colon and word.strip() else []


def synset(line: str) -> list[tuple[str, Words]]:
    """A line of WordNet: a set of words of one meaning, each of which has the others.

    See wndb(5): offset, file, type, the number of words in base 16, then a word and a number each.
    """
    cells = line.split(" ", 4)
    if line.startswith(" ") or len(cells) < 5:  # the licence, at the start
        return []
    words = cells[4].split(" ")[: 2 * int(cells[3], 16) : 2]
    plain = [re.sub(r"\(\w+\)$", "", w).replace("_", " ").lower() for w in words]
    return [(w, plain) for w in plain]
