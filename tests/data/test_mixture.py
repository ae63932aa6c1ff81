"""Datasets of different schemas, drawn in proportions."""

import numpy as np
import pytest
import torch

import amodal
from amodal import data
from amodal.core import AmodalError
from amodal.data import Loader, Mixture
from amodal.data.mixture import SLOTS, interleave
from amodal.train.pretrain import pretrain


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(0)
    words = ["red boat", "blue sea", "green hill", "old town"]
    captions = {
        "photo": [rng.integers(0, 255, (8, 8, 3), dtype=np.uint8) for _ in range(60)],
        "caption": [words[i % 4] for i in range(60)],
        "kind": [f"k{i % 2}" for i in range(60)],
    }
    notes = {
        "caption": [words[i % 4] for i in range(90)],
        "reading": rng.normal(size=(90, 16)).astype(np.float32),
    }
    text = {"caption": "text"}
    return data.open(captions, name="captions", fields=text), data.open(
        notes, name="notes", fields=text
    )


@pytest.fixture(scope="module")
def mixture(parts):
    return Mixture(parts, weights=[0.75, 0.25])


def rows(loader):
    return [list(batch.keys) for batch in loader]


def test_what_a_dataset_lacks_is_absent(mixture, parts):
    captions, notes = parts
    assert set(mixture.fields) == {"photo", "caption", "reading"} and len(mixture) == 150
    assert mixture.present("photo").sum() == 60 and mixture.present("reading").sum() == 90
    assert mixture.present("caption").all()
    kinds = mixture.label("kind")
    assert list(kinds[:2]) == ["k0", "k1"] and all(k is None for k in kinds[60:])
    for part in ("train", "valid", "test"):
        assert len(mixture.split(part)) == len(captions.split(part)) + len(notes.split(part))
    batch = next(iter(Loader(mixture, mixture.split("train"), batch=16, steps=1)))
    first = torch.tensor([key.startswith("1/") for key in batch.keys])
    assert torch.equal(batch["photo"].rows, first.nonzero().squeeze(1)), "no value is made up"
    assert torch.equal(batch["reading"].rows, (~first).nonzero().squeeze(1))
    assert len(batch["caption"]) == 16


def test_batches_have_the_proportions_and_no_record_twice(mixture):
    train = mixture.split("train")
    drawn = rows(Loader(mixture, train, batch=16, steps=40, seed=3))
    shares = [sum(key.startswith("1/") for key in keys) for keys in drawn]
    assert set(shares) == {12} and all(len(set(keys)) == 16 for keys in drawn)
    seen = {key for keys in drawn for key in keys}
    assert seen == {mixture.keys[i] for i in train}, "all records have their turn"
    by_size = rows(Loader(Mixture(mixture.reader.members), train, batch=15, steps=10))
    assert 0.35 < np.mean([sum(k.startswith("1/") for k in keys) / 15 for keys in by_size]) < 0.45


def test_slots_are_as_the_weights_say():
    for weights in ([1.0, 1.0], [0.7, 0.2, 0.1], [1e-9, 1.0], [3.0, 0.0, 2.0]):
        counts = np.bincount(interleave(np.array(weights)), minlength=len(weights))
        assert counts.sum() == SLOTS
        assert np.abs(counts / SLOTS - np.array(weights) / sum(weights)).max() <= 1.01 / SLOTS


def same(a, b):
    return (
        a.keys == b.keys
        and torch.equal(a.seeds, b.seeds)
        and all(
            torch.equal(a[s].rows, b[s].rows)
            and torch.equal(a[s].flat.nan_to_num(7.0), b[s].flat.nan_to_num(7.0))
            for s in a.columns
        )
    )


def test_any_step_is_the_same_from_anywhere_and_ranks_are_the_whole(mixture):
    settings = dict(batch=16, steps=30, seed=5, views=("weak",))
    train = mixture.split("train")
    straight = list(Loader(mixture, train, **settings))
    assert all(
        same(a, b) for a, b in zip(straight[17:], Loader(mixture, train, start_step=17, **settings))
    )
    ranks = [list(Loader(mixture, train, rank=r, world=2, **settings)) for r in range(2)]
    for whole, *halves in zip(straight, *ranks):
        assert whole.keys == halves[0].keys + halves[1].keys
        assert torch.equal(whole.seeds, torch.cat([h.seeds for h in halves]))


def test_a_killed_run_on_a_mixture_ends_as_the_straight_one(mixture, tmp_path):
    quick = dict(
        size="nano", batch_size=12, steps=6, save_every=3, seed=1, progress=False, logger=None
    )
    straight = amodal.pretrain("clip", mixture, tmp_path / "straight", **quick)

    class Killed:
        def on_checkpoint(self, progress, path):
            raise InterruptedError

    with pytest.raises(AmodalError, match="raised InterruptedError"):
        pretrain("clip", mixture, tmp_path / "killed", callbacks=[Killed()], **quick)
    resumed = amodal.pretrain("clip", mixture, tmp_path / "killed", resume=True, **quick)
    assert resumed.config["weights_sha256"] == straight.config["weights_sha256"]
    with pytest.raises(AmodalError, match="another data"):
        other = Mixture(mixture.reader.members, weights=[0.5, 0.5])
        pretrain("clip", other, tmp_path / "killed", resume=True, **quick)


def test_mistakes_say_what_to_do(parts, mixture):
    captions, notes = parts
    with pytest.raises(AmodalError, match="two datasets or more"):
        Mixture([captions])
    with pytest.raises(AmodalError, match="2 positive numbers.*they are .1, 0"):
        Mixture(parts, [1, 0])
    for weights in ([1, float("inf")], "ab", 3, [1, None], {"a": 1, "b": 2}, [[1], [2, 3]]):
        with pytest.raises(AmodalError, match="2 positive numbers, one for each dataset"):
            Mixture(parts, weights)
    for other in (3, None):
        with pytest.raises(AmodalError, match="dataset 1 of the Mixture is of type"):
            Mixture([captions, other])
    for other in (3, "digits", captions):
        with pytest.raises(AmodalError, match="takes a list of datasets, not one"):
            Mixture(other)
    clash = data.open({"caption": np.random.default_rng(0).normal(size=(20, 9))}, name="clash")
    with pytest.raises(AmodalError, match="'caption' is text in one dataset.*'clash'; rename"):
        Mixture([captions, clash])
    with pytest.raises(AmodalError, match="from 'captions', which has"):
        Loader(Mixture(parts, [0.9, 0.1]), mixture.split("train"), batch=100, steps=1)
