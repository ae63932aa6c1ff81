"""METEOR of exact words, against nltk's values and by hand."""

import pytest

from amodal.stats.meteor import alignment, meteor, pieces_of

# nltk 3.10.4, `single_meteor_score` with a stemmer that leaves words as they are and no synonyms
VALUES = [
    ("a small red boat lies on the sea", "the small red boat is on a calm sea", 0.6432011006649851),
    ("ein hund läuft", "ein großer hund läuft schnell", 0.5324074074074074),
    ("one two three four", "four three two one", 0.5),
    ("no match", "quite other words", 0.0),
    ("the same words here", "the same words here", 0.9921875),
    ("Red", "red", 0.5),
]


@pytest.mark.parametrize(("made", "reference", "value"), VALUES)
def test_as_nltk_counts(made, reference, value):
    assert meteor([made], [reference]) == pytest.approx(value, abs=1e-12)


def test_of_a_collection():
    """Counts are added up before they are divided: 6 of 7 words made and 6 of 8 wanted, in 3
    pieces."""
    texts, references = ["a b c d", "e f x"], ["a b c d y", "f e z"]
    p, r = 6 / 7, 6 / 8
    expected = p * r / (0.9 * p + 0.1 * r) * (1 - 0.5 * (3 / 6) ** 3)
    assert meteor(texts, references) == pytest.approx(expected)
    assert meteor([], []) == 0.0 and meteor([""], ["a"]) == 0.0
    with pytest.raises(ValueError, match="1 texts and 0 references"):
        meteor(["a"], [])


def test_words_that_occur_twice_are_matched_by_their_longest_run():
    one, other = "the cat and the dog".split(), "a dog and the dog and a cat".split()
    match = alignment(one, other)
    assert match == {2: 2, 3: 3, 4: 4, 1: 7} and pieces_of(match) == 2
    assert alignment("a a a".split(), "a a".split()) == {0: 0, 1: 1}
    # what is left may go on from a run, and is then of its piece
    assert pieces_of({0: 0, 1: 1, 2: 2, 5: 3, 6: 5}) == 3
