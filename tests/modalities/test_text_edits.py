"""Edits of words: each does what the paper says, by the draws of the record alone."""

from collections import Counter

import numpy as np
import pytest

from amodal.core import AmodalError
from amodal.modalities import make
from amodal.modalities.shared import text_edits as edits

KNOWN = {"quick": ("fast", "rapid"), "dog": ("hound",), "the": ("that",)}
WORDS = "the quick brown fox jumps over the lazy dog and a quick cat".split()
LICENCE = "  1 This software and database is being provided to you\n"
SYNSETS = (
    "00001740 03 n 02 boat 0 small_ship 1 001 @ 00002137 n 0000 | a vessel\n"
    "00002000 03 a 03 fast 0 quick(a) 0 speedy 2 000 | not slow\n"
    "00002001 03 n 01 lonely 0 000 | alone\n"
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_each_edit_changes_a_tenth_of_the_words_at_least_one():
    for seed in range(30):
        swapped = edits.swapped(WORDS, rng(seed), KNOWN)
        assert Counter(swapped) == Counter(WORDS) and sum(
            a != b for a, b in zip(swapped, WORDS)
        ) in (0, 2)  # two equal words may change places
        inserted = edits.inserted(WORDS, rng(seed), KNOWN)
        (new,) = (Counter(inserted) - Counter(WORDS)).elements()
        assert new in ("fast", "rapid", "hound", "that") and len(inserted) == len(WORDS) + 1
        replaced = edits.replaced(WORDS, rng(seed), KNOWN)
        gone = set(WORDS) - set(replaced)
        # every "quick" goes at once, and "the" is a stop word
        assert gone in ({"quick"}, {"dog"}) and len(replaced) == len(WORDS)
        assert "the" in replaced
    lengths = [len(edits.deleted(WORDS, rng(s), KNOWN)) for s in range(400)]
    assert np.mean(lengths) == pytest.approx(0.9 * len(WORDS), rel=0.02)
    assert edits.deleted(["one"], rng(1), KNOWN) == ["one"] and edits.deleted([], rng(), {}) == []
    assert edits.changes(WORDS * 3) == 3
    assert edits.replaced(["zebra"], rng(), KNOWN) == ["zebra"]


def test_stop_words_are_left_out_four_times_of_five():
    left = [edits.edited("The boat on the sea", "stopwords", rng(s), "") for s in range(500)]
    assert set(left) == {"The boat on the sea", "boat sea"}
    assert left.count("boat sea") / 500 == pytest.approx(0.8, abs=0.06)
    assert edits.edited("of the", "stopwords", rng(), "") == "of the"  # nothing would be left


def test_a_thesaurus_is_a_file_or_wordnet(tmp_path):
    (tmp_path / "data.noun").write_text(LICENCE + SYNSETS, encoding="utf-8")
    known = edits.synonyms(str(tmp_path))
    assert known == {
        "boat": ("small ship",),
        "small ship": ("boat",),
        "fast": ("quick", "speedy"),
        "quick": ("fast", "speedy"),
        "speedy": ("fast", "quick"),
    }
    (tmp_path / "own.txt").write_text(
        "Boat: ship, Vessel\n\nno line of it\nempty:\n", encoding="utf-8"
    )
    assert edits.synonyms(str(tmp_path / "own.txt")) == {"boat": ("ship", "vessel")}
    with pytest.raises(AmodalError, match="WORD: SYNONYM"):
        edits.synonyms(str(tmp_path / "none.txt"))


def test_views_of_a_text_field(tmp_path):
    (tmp_path / "own.txt").write_text("boat: ship\nred: scarlet\n", encoding="utf-8")
    plain, text = make("text"), make("text", thesaurus=str(tmp_path / "own.txt"))
    value = text.decode("The red boat's sail, on THE sea!")
    seen = Counter(text.text(text.augment(value, "eda", rng(s))) for s in range(200))
    assert len(seen) > 20 and any("ship" in s for s in seen) or any("scarlet" in s for s in seen)
    assert all(s == s.lower() and "," not in s and "'" not in s for s in seen)
    strong = Counter(text.text(text.augment(value, "rocket", rng(s))) for s in range(300))
    assert sum(n for s, n in strong.items() if "the" not in s.lower().split()) > 200
    assert text.text(text.augment(value, "eda", rng(3))) == text.text(
        text.augment(value, "eda", rng(3))
    )
    for view in ("eda", "rocket"):
        with pytest.raises(AmodalError, match="set thesaurus = FILE"):
            plain.known_view(view)
    assert plain.known_view("stopwords") == "stopwords"
    image = make("image", size=8)
    assert [image.known_view(v) for v in ("eda", "rocket", "stopwords")] == [
        "strong",
        "strong",
        "weak",
    ]
    assert plain.known_view("autoaugment") == "strong"


def test_a_run_that_asks_for_synonyms_says_early_what_it_lacks(tmp_path):
    import amodal

    data = {"words": [f"a red boat {k}" for k in range(40)], "marks": [[1.0, 2.0]] * 40}
    with pytest.raises(AmodalError, match="set thesaurus = FILE"):
        amodal.pretrain(
            "clip",
            data,
            tmp_path / "run",
            size="nano",
            steps=1,
            views={"words": ("eda",)},
            progress=False,
        )
