"""Rules on pairs against the same rules counted by hand."""

import numpy as np
import pytest
from PIL import Image

from amodal import data
from amodal.core import AmodalError
from amodal.curate.pair_rules import pair_rules, pairs_of

LOOSE = {"least_words": 1, "short_side": 0}


def test_each_rule_drops_what_it_says_and_nothing_else():
    texts = [
        "a red boat at sea",
        "stock photo",
        *["buy now and save"] * 3,
        "one " * 21,
        "a green boat at sea",
        "a blue boat at sea",
    ]
    sizes = [(300, 400), (300, 400), *[(300, 400)] * 3, (300, 400), (200, 500), (300, 900)]
    found = pair_rules(texts, images=list("abcdefgh"), sizes=sizes, images_of_text=2, held_out="a")
    dropped = {rule: np.flatnonzero(fault).tolist() for rule, fault in found.violations.items()}
    assert dropped == {
        "small picture": [6], "narrow picture": [7], "picture with many texts": [], "held-out picture": [0],
        "text of many pictures": [2, 3, 4], "rare words": [], "short text": [1], "long text": [5],
    }  # fmt: skip
    assert (
        not found.passed.any()
        and found.counts["passed"] == 0
        and found.counts["text of many pictures"] == 3
    )


def test_sharing_counts_different_pictures_and_different_texts():
    texts = ["the same words"] * 4
    assert pair_rules(
        texts, images=[7, 7, 7, 7], images_of_text=1, **LOOSE
    ).passed.all()  # one picture, four times
    assert not pair_rules(texts, images=[7, 8, 7, 7], images_of_text=1, **LOOSE).passed.any()
    many = pair_rules(
        ["one", "two", "One!", "three"], images=[7, 7, 7, 8], texts_of_image=1, **LOOSE
    )
    assert many.violations["picture with many texts"].tolist() == [True, True, True, False]
    assert pair_rules(
        ["one", "One!"], images=[7, 7], texts_of_image=1, **LOOSE
    ).passed.all()  # the same words, written twice


def test_rare_words_are_those_outside_the_most_frequent_words_and_neighbours():
    texts = ["red boat", "red boat", "red boat", "red sea", "boat red"]
    # counts: red 5, boat 4, (red, boat) 3, then sea, (red, sea), (boat, red) with 1 each
    for vocabulary, passed in ((3, [1, 1, 1, 0, 0]), (2, [0] * 5), (4, [1] * 5), (0, [0] * 5)):
        found = pair_rules(texts, vocabulary=vocabulary, images_of_text=9, **LOOSE)
        assert (~found.violations["rare words"]).tolist() == [bool(k) for k in passed], vocabulary


def test_limits_are_the_papers():
    texts = [" ".join(f"w{i}" for i in range(n)) for n in (2, 3, 20, 21)]
    assert pair_rules(texts).passed.tolist() == [False, True, True, False]
    sizes = [(200, 300), (201, 300), (201, 603), (201, 602)]
    assert pair_rules(["three words here"] * 4, sizes=sizes).passed.tolist() == [
        False,
        True,
        False,
        True,
    ]


def test_records_of_a_dataset(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (20 + i, 40, 3), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
    paths = [str(tmp_path / f"{i}.png") for i in (0, 1, 2, 3, 3)]
    words = ["a red boat", "a blue boat", "boat", "a green boat", "a tall boat"]
    dataset = data.open(
        {"picture": paths, "words": words}, fields={"picture": "image", "words": "text"}
    )
    pairs = pairs_of(dataset, range(5), "picture", "words")
    assert (
        pairs["sizes"] == [(20, 40), (21, 40), (22, 40), (23, 40), (23, 40)]
        and pairs["texts"] == words
    )
    assert pairs["images"][3] == pairs["images"][4] and len(set(pairs["images"])) == 4
    found = pair_rules(**pairs, short_side=20, texts_of_image=1)
    assert found.passed.tolist() == [False, True, False, False, False]


def test_a_script_without_spaces_needs_a_splitter():
    texts = ["海边的红船", "红船"]
    assert pair_rules(texts).violations["short text"].all(), (
        "each is one word, as the docstring says"
    )
    assert pair_rules(texts, split=list).violations["short text"].tolist() == [False, True]


def test_errors_and_nothing():
    with pytest.raises(AmodalError, match="2 texts and 1 sizes"):
        pair_rules(["a", "b"], sizes=[(1, 1)])
    assert pair_rules([]).counts["passed"] == 0
