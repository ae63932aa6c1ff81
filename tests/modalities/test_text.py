"""Text in every script, and what is none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.core import AmodalError
from amodal.modalities import BadValue, kind, make

TEXT = make("text")
scripts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t.strip())


@settings(max_examples=60, deadline=None)
@given(scripts)
def test_round_trip(text):
    assert (
        make("text", max_length=10**6).text(make("text", max_length=10**6).decode(text))
        == text.strip()
    )


def test_kinds_of_raw(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "Köln\n".encode())
    for raw in (
        tmp_path / "a.txt",
        "Köln",
        "  Köln\n",
        "Köln".encode(),
        "Köln".encode("utf-16"),
        ["Köln"],
        np.str_("Köln"),
    ):
        assert TEXT.text(TEXT.decode(raw)) == "Köln"
    assert TEXT.text(TEXT.decode(["a", "b"])) == "a\nb"
    assert TEXT.text(TEXT.decode(7)) == "7"
    assert TEXT.decode("a/b.txt").tolist() == list(b"a/b.txt")  # a str is the text itself


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "empty text"), (" \n\t", "empty text"), (b" ", "empty text"), ([], "empty text"), (None, "empty text"),
        (float("nan"), "empty text"), (b"abc\xffdef", "not UTF-8: invalid start byte at byte 3"),
        (b"\xff\xfea", "not UTF-16"), ("a\ud800", "not Unicode"), ({"a": 1}, "a dict is not text"),
    ],
)  # fmt: skip
def test_bad_values(raw, reason):
    with pytest.raises(BadValue, match=reason):
        TEXT.decode(raw)


@settings(max_examples=60, deadline=None)
@given(scripts, st.integers(4, 12), st.integers(1, 3))
def test_truncation_is_counted_and_keeps_characters_whole(text, max_length, patch):
    short = make("text", max_length=max_length, patch=patch)
    ids, whole = short.decode(text), text.strip().encode()
    assert 1 <= len(ids) <= max_length * patch
    assert short.truncated(text) == len(whole) - len(ids)
    assert "\N{REPLACEMENT CHARACTER}" not in short.text(ids) or "\N{REPLACEMENT CHARACTER}" in text
    assert (
        len(whole) <= max_length * patch or len(ids) > max_length * patch - 4
    )  # and no more is lost than need be


@settings(max_examples=60, deadline=None)
@given(scripts, st.integers(0, 99))
def test_views_are_text(text, seed):
    for view in ("weak", "strong", "local"):
        ids = TEXT.augment(TEXT.decode(text), view, np.random.default_rng(seed))
        assert 1 <= len(ids) <= 2 * 256 + 8
        assert set(TEXT.text(ids)) <= set(text)  # characters stay whole, and no new ones come in


def test_views_cut_at_words():
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa"
    value, lengths = TEXT.decode(words), {}
    for view in ("weak", "local"):
        views = [TEXT.text(TEXT.augment(value, view, np.random.default_rng(i))) for i in range(40)]
        assert all(w in words.split() for v in views for w in v.split())
        lengths[view] = np.mean([len(v) for v in views]) / len(words)
    assert 0.75 < lengths["weak"] < 1 and 0.15 < lengths["local"] < 0.55


def test_a_local_view_of_a_text_of_lines_is_one_of_them():
    lines = ["the first line", "Köln", "a third, rather longer line than the others"]
    value = TEXT.decode("\r\n".join([lines[0], "", *lines[1:]]))
    views = [
        TEXT.text(TEXT.augment(value, "local", np.random.default_rng(i))).strip() for i in range(60)
    ]
    assert set(views) == set(lines) and min(views.count(line) for line in lines) > 5


WORDS = make("text", strong="words")


@settings(max_examples=60, deadline=None)
@given(scripts, st.integers(0, 99))
def test_edited_words_are_words_of_the_text(text, seed):
    ids = WORDS.augment(WORDS.decode(text), "strong", np.random.default_rng(seed))
    assert 1 <= len(ids) <= 2 * 256 + 8 and set(WORDS.text(ids)) <= set(text)
    words = WORDS.decode(text).astype(np.uint8).tobytes().split()
    if len(words) > 1:
        edited = ids.astype(np.uint8).tobytes().split()
        assert all(edited.count(w) <= words.count(w) for w in edited)


def test_edited_words_are_swapped_and_left_out():
    words = [f"word{i}" for i in range(20)]
    value = WORDS.decode(" ".join(words))
    views = [
        WORDS.text(WORDS.augment(value, "strong", np.random.default_rng(i))).split()
        for i in range(60)
    ]
    assert 0.85 < np.mean([len(v) for v in views]) / 20 < 0.95  # one in ten is left out
    moved = [sum(v != w for v, w in zip(view, words)) for view in views if len(view) == 20]
    assert moved and all(1 < m <= 4 for m in moved)  # two pairs change places
    assert WORDS.text(WORDS.augment(value, "weak", np.random.default_rng(0))) in " ".join(words)
    one = [
        TEXT.augment(TEXT.decode("alphabet"), "strong", np.random.default_rng(i)).tolist()
        for i in range(5)
    ]
    assert one == [
        WORDS.augment(TEXT.decode("alphabet"), "strong", np.random.default_rng(i)).tolist()
        for i in range(5)
    ]
    with pytest.raises(AmodalError, match="Did you mean words"):
        make("text", strong="word")


def test_targets_leave_the_filling_out():
    text = make("text", patch=3)
    targets = text.targets(text.collate([text.decode("abcd"), text.decode("x")]))
    assert targets.tolist() == [[97, 98, 99], [100, -1, -1], [120, -1, -1]]


def test_infer():
    short = kind("text").infer(["Oslo", "Rome; Italy"])
    assert (short.patch, short.max_length) == (1, 16)
    long = kind("text").infer(["word " * 1000])
    assert (long.patch, long.max_length) == (4, 256)
    assert kind("text").infer(["word " * 1000], max_length=50).max_length == 50


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "red": 1, "car": 2, "blue": 3}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(2)
    folder = tmp_path_factory.mktemp("vocabulary")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_vocabulary_of_a_local_tokenizer(vocabulary):
    for path in (vocabulary, vocabulary / "tokenizer.json"):
        text = make("text", vocabulary=path, max_length=4)
        assert text.vocab_size == 4
        ids = text.decode("red car blue")
        assert ids.tolist() == [1, 2, 3] and text.text(ids) == "red car blue"
        assert text.truncated("red car blue red car") == 1
        for view in ("weak", "strong", "local"):
            assert set(text.augment(ids, view, np.random.default_rng(0)).tolist()) <= {1, 2, 3}
        assert text.predictor(8)(torch.zeros(2, 8)).shape == (2, 1, 4)


def test_lines_of_a_vocabulary_end_at_its_line_breaks(tmp_path):
    pytest.importorskip("tokenizers")
    from amodal_claims.sets import scenes

    (tmp_path / "tokenizer.json").write_text(scenes.vocabulary(), encoding="utf-8")
    text = make("text", vocabulary=tmp_path)
    value = text.decode("a large red ring\none small blue bar can be seen")
    views = {text.text(text.augment(value, "local", np.random.default_rng(i))) for i in range(20)}
    assert views == {"a large red ring", "one small blue bar can be seen"}


def test_vocabulary_errors(tmp_path):
    with pytest.raises(AmodalError, match="there is no file"):
        make("text", vocabulary=str(tmp_path)).decode("a")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(AmodalError, match="is not a tokenizer.json"):
        make("text", vocabulary=str(tmp_path)).decode("a")
