"""A flipped bit in an index is an error, not another score."""

import json

import numpy as np
import pytest

import amodal
from amodal.core import AmodalError


def rows(n):
    rng = np.random.default_rng(0)
    return [
        {
            "wave": rng.normal(i % 3, 1, (16, 2)).astype(np.float32),
            "motion": rng.normal(-(i % 3), 1, (12, 3)).astype(np.float32),
        }
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("checksums") / "run"
    return amodal.pretrain("clip", rows(40), out, size="nano", steps=2, batch_size=16)


@pytest.fixture
def index(model, tmp_path):
    """An index that was written in two steps."""
    model.index(rows(20), tmp_path / "index")
    model.index(rows(30), tmp_path / "index")
    return tmp_path / "index"


def search(model, index):
    return [(h.key, h.score) for h in model.search(wave=rows(1)[0]["wave"], index=index, k=30)]


def test_two_steps_are_one_file_with_its_checksum(model, index, tmp_path):
    model.index(rows(30), tmp_path / "once")
    assert search(model, index) == search(model, tmp_path / "once")
    sums = [
        json.loads((p / "manifest.json").read_text(encoding="utf-8"))["checksums"]
        for p in (index, tmp_path / "once")
    ]
    assert sums[0] == sums[1] and set(sums[0]) == {
        "records.jsonl",
        "dead.bin",
        "wave.f16",
        "wave.rows",
        "motion.f16",
        "motion.rows",
    }


@pytest.mark.parametrize("file", ["wave.0.f16", "wave.0.rows", "records.0.jsonl", "manifest.json"])
def test_a_flipped_bit_is_an_error(model, index, file):
    content = bytearray((index / file).read_bytes())
    # in a number of the manifest: what is no JSON any more was an error before
    place = content.index(b'"records": 30') + 11 if file == "manifest.json" else len(content) // 2
    content[place] ^= 1
    (index / file).write_bytes(content)
    with pytest.raises(AmodalError, match=f"{file}.*index anew") as error:
        search(model, index)
    assert str(error.value).count("damaged") == 1


@pytest.mark.parametrize("content", ["", "{}", "[]"])
def test_an_empty_manifest_is_an_error(model, index, content):
    (index / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(AmodalError, match="index anew"):
        search(model, index)


def test_an_index_of_before_is_read_and_grows(model, index):
    manifest = json.loads((index / "manifest.json").read_text(encoding="utf-8"))
    for name in ("checksums", "checksum"):
        del manifest[name]
    (index / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    before = search(model, index)
    model.index(rows(34), index)
    assert len(before) == 30 and len(search(model, index)) == 30
    assert (
        "wave.f16"
        not in json.loads((index / "manifest.json").read_text(encoding="utf-8"))["checksums"]
    )


def test_what_is_removed_and_written_anew_has_checksums(model, index):
    model.index(rows(10), index, prune=True)
    assert len(search(model, index)) == 10
    assert search(model, index)  # opened once more
