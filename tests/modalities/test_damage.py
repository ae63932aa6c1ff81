"""Faults that damaged and hostile files showed, one by one."""

import io
import json

import numpy as np
import pytest

from amodal import modalities
from amodal.modalities import BadValue
from benchmarks.faults import corruptions

RNG = np.random.default_rng(0)


def test_png_pixels_are_checked_by_their_checksum():
    """zlib's own checksum comes at the end of the pixels, where Pillow may have stopped reading."""
    whole = corruptions.picture("png")(RNG)
    start = whole.index(b"IDAT")
    image = modalities.make("image", size=16)
    assert image.decode(whole).shape == (3, 16, 16)
    for at in range(start + 8, start + 60):
        changed = bytearray(whole)
        changed[at] ^= 1
        with pytest.raises(BadValue, match="checksum of IDAT"):
            image.decode(bytes(changed))
    assert image.decode(whole + b"after the end").shape == (3, 16, 16)


@pytest.mark.parametrize("ending", [".au", ".snd", ".vox", ".gsm", ".wav"])
def test_no_ending_makes_noise_a_sound(tmp_path, ending):
    (tmp_path / f"x{ending}").write_bytes(RNG.bytes(5000))
    with pytest.raises(BadValue, match="none that libsndfile reads|damaged"):
        modalities.make("audio").decode(tmp_path / f"x{ending}")


def test_a_sound_of_one_hertz_does_not_become_16000_times_as_long():
    with pytest.raises(BadValue, match="too many at 16000 Hz"):
        modalities.make("audio", max_seconds=0).decode(
            {"array": np.zeros(10**6, np.float32), "sampling_rate": 1}
        )
    with pytest.raises(BadValue):
        modalities.make("audio", max_seconds=0).decode(corruptions.flac_bomb())


def test_numpy_files_that_promise_more_than_they_hold():
    series = modalities.make("series", channels=("x", "y"))
    for content in (corruptions.npy_bomb(), corruptions.npy_bomb(10)):
        with pytest.raises(BadValue, match="truncated: .* needs"):
            series.decode(content)
    with pytest.raises(BadValue, match="unpacks to"):
        series.decode(corruptions.npz_bomb())
    file = io.BytesIO()
    np.savez(file, x=np.zeros(3), y=np.ones(3))
    assert series.decode(file.getvalue()).shape == (3, 2)


@pytest.mark.parametrize(
    ("kind", "content"), [("text", b"some words\0\0\0 and more"), ("sequence", b"ACGT\0\0\0\0ACGT")]
)
def test_blocks_that_were_never_written_are_no_text(kind, content):
    with pytest.raises(BadValue, match="NUL"):
        modalities.make(kind).decode(content)


def test_a_line_of_commas_is_no_table():
    with pytest.raises(BadValue, match="50,000 columns"):
        modalities.make("series", channels=("x",)).decode(corruptions.BOMBS["series"][".csv"]())


def test_columns_of_one_name_are_no_series():
    with pytest.raises(BadValue, match="more than one column is called the same"):
        modalities.make("series", channels=("x",)).decode(b"x, x\n1,2\n3,4\n")


@pytest.mark.parametrize(
    "content",
    [
        corruptions.deep(),
        corruptions.deep(b'{"a":'),
        corruptions.digits(),
        corruptions.lonely_names(),
    ],
)
@pytest.mark.parametrize("kind", ["table", "events"])
def test_json_beyond_what_python_reads(kind, content):
    with pytest.raises(BadValue):
        modalities.make(kind, columns=("age",)).decode(content)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("series", {"mean": ("a",)}, "mean must be a number"),
        ("series", {"mean": (float("nan"),)}, "finite"),
        ("image", {"size": float("inf")}, "finite"),
        ("image", {"size": 10**30}, "finite number of reasonable size"),
        ("image", {"size": 20_000}, "at most 16,384"),
        ("table", {"columns": ("a", 3)}, "must be text"),
        ("table", {"columns": ("a",), "categories": {"a": 5}}, "must be a list"),
        ("audio", {"patch": (2.5, 16)}, "whole number"),
        ("sequence", {"k": 10**6}, "at most 64"),
        ("text", {"vocabulary": "a\0b"}, "must be text"),
    ],
)
def test_parameters_that_somebody_else_wrote(kind, settings, message):
    with pytest.raises(modalities.BadValue.__mro__[1], match=message):
        modalities.make(
            kind,
            **json.loads(json.dumps(settings)) if "a\0b" not in settings.values() else settings,
        )


@pytest.mark.parametrize(
    "text, words",
    [
        (b" \n ", "there is nothing in it"),
        (b"hello", "one line alone"),
        (b'"a,b\n1,2\n', "a quote is not closed"),
        (b"a,b\n1,2\n1,2,3\n", "line 3 has 3 cells, and the first line 2"),
    ],
)
def test_a_damaged_table_of_text_is_described_in_words(text, words):
    with pytest.raises(BadValue, match=words) as error:
        modalities.make("series", channels=("a", "b")).decode(text)
    assert "CSV" not in str(error.value), "that is what a library says"


@pytest.mark.parametrize(
    "text, words",
    [
        (b" ", "there is nothing in it"),
        (b"{", r"a name in double quotes is expected \(line 1, column 2\)"),
        (b'{"a": 1\n"b": 2}', r"a comma is expected \(line 2, column 1\)"),
        (b'{"a" 1}', "a colon is expected"),
        (b"hello", r"a value is expected \(line 1, column 1\)"),
        (b"{} {}", "there is more after its end"),
        (b'{"a', "a text begins that is not closed"),
        (b'{"a\n": 1}', "a line break, or the like, stands in a text"),
        (b'{"\xff', r"it is no text in UTF-8 \(byte 2\)"),
        (b"[" * 100_000, "brackets in brackets, too deep"),
    ],
)
def test_damaged_json_is_described_in_words(text, words):
    with pytest.raises(BadValue, match=f"not JSON: {words}"):
        modalities.make("table", columns=("a",)).decode(text)
