"""Tokens that are learnt from text: the same everywhere, of any text, from the training part only."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from amodal import data, modalities
from amodal.core import AmodalError
from amodal.modalities.shared import subwords
from amodal.modalities.text import Text

TEXTS = [
    f"a {c} boat on the {w} sea, near the harbour wall" for c in ("red", "blue") for w in "abcde"
] * 4
TEXTS += ["être à la fenêtre\nune fenêtre ouverte", "漢字を読む 🙂"] * 12


def learnt(tokens="subwords", texts=TEXTS, **parameters):
    text = Text(tokens=tokens, **parameters)
    return text.with_learnt(text.learn_tokens(texts))


@pytest.fixture(scope="module", params=["subwords", "characters"])
def text(request):
    return learnt(request.param)


def test_learns_frequent_words_and_characters():
    words = learnt()
    assert [words.text(np.array([i])) for i in words.decode("the red boat")] == [
        "the",
        "red",
        "boat",
    ]
    assert len(words.decode("boat")) == len(words.decode("a boat")) - 1, "a word is one id anywhere"
    assert 256 < words.vocab_size < 1000 and words.patch == 1
    letters = learnt("characters")
    assert len(letters.decode("fenêtre 漢字")) == len("fenêtre 漢字")
    assert letters.decode("the boat").tolist() == list(b"the boat"), "ASCII is what it was"
    assert len(letters.decode("ツ")) == len("ツ".encode()), "a character that was never seen"


def test_small_vocabularies_are_prefixes_of_large_ones():
    small, large = (learnt(vocabulary_size=n).merges.split("\n") for n in (270, 300))
    assert len(small) == 14 and len(large) == 44 and large[: len(small)] == small


@given(st.text(min_size=1))
@settings(max_examples=300, deadline=None)
def test_any_text_is_what_it_was(anything):
    for text in (learnt(), learnt("characters")):
        try:
            value = text._ids(anything)
        except modalities.BadValue as error:
            assert "empty" in str(error) or "Unicode" in str(error)
        else:
            assert text.text(value) == anything.strip()
            assert value.dtype == np.int32 and value.max() < text.vocab_size


def test_other_libraries_make_the_same_ids(text):
    theirs = Tokenizer.from_str(text.tokenizer_json())
    for sentence in TEXTS[::7]:
        assert theirs.encode(sentence).ids == text.decode(sentence).tolist()
    assert theirs.get_vocab_size() == text.vocab_size


def test_the_same_in_another_process():
    code = (
        "import json, sys; from amodal.modalities.text import Text;"
        "print(json.dumps(Text().learn_tokens(json.load(sys.stdin))))"
    )
    first = Text().learn_tokens(TEXTS)
    assert first == Text().learn_tokens(iter(TEXTS)) and "\n" in first
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(TEXTS),
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == first


def test_long_corpora_are_cut(monkeypatch):
    monkeypatch.setattr(subwords, "MAX_CHARACTERS", sum(map(len, TEXTS)))

    def endless():
        yield from TEXTS
        while True:
            yield "xylophone"

    assert Text().learn_tokens(endless()) == Text().learn_tokens(TEXTS)


@pytest.mark.parametrize("texts", [[], [""], ["one value"], [" ", None, 3.0, b"\xff"]])
def test_too_few_texts_are_read_as_bytes(texts):
    text = Text(max_length=24, patch=4)
    assert text.learn_tokens(texts) == "" and text.with_learnt("") is text
    assert text.decode("ab").tolist() == [97, 98] and text.vocab_size == 256
    assert "too few" in text.tokens_note() and not Text(tokens="bytes").tokens_note()


def test_max_length_counts_the_new_tokens():
    text = Text(max_length=8, patch=4)
    assert text.with_learnt(text.learn_tokens(TEXTS)).max_length == 32
    assert learnt(max_length=512).max_length == 512
    short = replace(learnt(), max_length=3)
    assert short.text(short.decode("the red boat on the sea")) == "the red boat"
    assert short.truncated("the red boat on the sea") == 3
    kanji = replace(learnt(), max_length=2)
    assert kanji.text(kanji.decode("a ツ")) == "a ", "no part of a character"


def test_config_and_restore():
    text = learnt()
    stored = json.loads(json.dumps(modalities.config(text)))
    assert modalities.restore(stored) == text == modalities.make(**stored)
    before = {k: v for k, v in modalities.config(Text()).items() if k not in ("tokens", "merges")}
    assert (
        modalities.restore(before).tokens == "bytes"
        and modalities.make(**before).tokens == "subwords"
    )
    assert "merges" not in repr(text)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"tokens": "subword"}, "Did you mean subwords"),
        ({"vocabulary_size": 12}, "at least 256"),
        ({"vocabulary_size": 2**25}, "at most"),
        ({"tokens": "bytes", "merges": "a b"}, "merges are of subwords"),
    ],
)
def test_mistakes(parameters, message):
    with pytest.raises(AmodalError, match=message):
        Text(**parameters)


@pytest.mark.parametrize("merges", ["a", "a b\nabc d", "a b c", " ", "\ud800 a", "a b\n"])
def test_damaged_merges(merges):
    with pytest.raises(AmodalError, match="damaged"):
        Text(merges=merges).decode("a")


@pytest.mark.parametrize("view", ["weak", "strong", "local"])
@pytest.mark.parametrize("strong", ["characters", "words"])
def test_views_are_of_the_text(view, strong):
    words, rng = learnt(strong=strong), np.random.default_rng(0)
    whole = "a red boat on the b sea, near the harbour wall\na blue boat on the c sea"
    known, seen = set(whole.split()), set()
    for _ in range(50):
        out = words.augment(words.decode(whole), view, rng)
        said = words.text(out).split()
        assert set(said) <= known and said
        seen.add(tuple(said))
        if view != "strong":  # a slice is tokenized as it would be by itself
            assert out.tolist() == words.decode(words.text(out)).tolist() or view == "local"
    assert len(seen) > 1


@pytest.mark.parametrize("strong", ["characters", "words"])
def test_views_of_characters(strong):
    letters, rng = learnt("characters", strong=strong), np.random.default_rng(0)
    value = letters.decode("être à la fenêtre 漢字を読む")
    for view in ("weak", "strong", "local"):
        for _ in range(20):
            assert "\ufffd" not in letters.text(letters.augment(value, view, rng))


@pytest.mark.parametrize("tokens", ["bytes", "subwords", "characters"])
def test_words_of_tokens(tokens):
    text = Text(tokens="bytes") if tokens == "bytes" else learnt(tokens)
    values = [text.decode("near unseenword the wall"), text.decode("boat"), text.decode("a b")]
    numbers = text.words(text.collate(values))
    parts = numbers.split([len(v) for v in values])
    assert [int(p.max()) for p in parts] == [3, 0, 1] and all(p[0] == 0 for p in parts)
    second = values[0][(parts[0] == 1).numpy()]
    assert text.text(second).strip() == "unseenword" and len(second) > 1
    assert len(text.words(text.collate([]))) == 0
    assert text.words(text.collate([text.decode("boat")])).dtype == torch.int64


def test_words_of_patches_are_those_they_begin_in():
    text = Text(tokens="bytes", patch=4)
    assert text.words(text.collate([text.decode("ab cdefgh i")])).tolist() == [0, 1, 1]


def test_only_some_records_are_read():
    texts = ["the boat", "the xylophone"] * 40
    records = data.open({"text": texts}, fields={"text": Text()})
    seen = data.learn_tokens(records, np.arange(0, 80, 2))
    assert len(seen.fields["text"].decode("boat")) == 1
    assert len(seen.fields["text"].decode("xylophone")) > 4
    assert data.learn_tokens(records, np.arange(80)).fields["text"].decode("xylophone").size == 1
    assert data.learn_tokens(seen, np.arange(80)) is seen, "it has learnt already"
    assert data.learn_tokens(records, np.arange(80), known=["text"]) is records


def test_dataset_toml_says_what_is_declared_only(tmp_path):
    from amodal.data import schema

    field = schema.Field(learnt())
    written = schema.dumps(schema.Schema({"caption": field}))
    assert 'tokens = "subwords"' in written and "merges" not in written
    assert schema.loads(written).fields["caption"].modality == replace(field.modality, merges="")
    with pytest.raises(AmodalError, match="merges"):
        schema.loads('[fields.caption]\nmodality = "text"\nmerges = "a b"')


def test_fields_may_share_what_they_learn():
    columns = {"one": ["the boat"] * 40, "two": ["a xylophone"] * 40, "other": ["a boat"] * 40}
    fields = {"one": Text(), "two": Text(max_length=9, patch=2), "other": Text(tokens="bytes")}
    records = data.open(columns, fields=fields)
    rows = np.arange(40)
    apart, together = (data.learn_tokens(records, rows, shared=s).fields for s in (False, True))
    assert apart["one"].merges != apart["two"].merges
    assert together["one"].merges == together["two"].merges and not together["other"].merges
    assert len(together["one"].decode("xylophone")) == 1 == len(together["two"].decode("boat"))
    # what one of them has, the others take over, also from a field that is known
    known = records.with_fields(fields | {"one": apart["one"]})
    for names in ((), ("one",)):
        taken = data.learn_tokens(known, rows, known=names, shared=True).fields
        assert taken["two"].merges == apart["one"].merges


def test_too_few_texts_to_share_are_bytes_of_one_patch():
    fields = {"one": Text(patch=2, max_length=16), "two": Text(patch=4, max_length=10)}
    records = data.open({"one": ["a"], "two": ["b"]}, fields=fields)
    found = data.learn_tokens(records, np.arange(1), shared=True).fields
    assert [(m.patch, m.max_length, m.merges) for m in found.values()] == [(2, 16, ""), (2, 20, "")]
    assert data.learn_tokens(records, np.arange(1)) is records
