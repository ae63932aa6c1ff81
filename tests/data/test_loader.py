import json
import warnings

import numpy as np
import pytest
import torch

import amodal.data as data
from amodal.core import AmodalError, Ragged
from amodal.data.shm_batch import SharedBatch
from amodal.modalities.image import Image
from tests.data import builders as b


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    return data.open(b.messy(tmp_path_factory.mktemp("messy")))


def loader(dataset, **options):
    return data.Loader(
        dataset,
        dataset.split("all"),
        **({"batch": 4, "views": ("strong", "weak"), "steps": 7} | options),
    )


def equal(a, b):
    assert (
        a.size == b.size
        and a.keys == b.keys
        and torch.equal(a.seeds, b.seeds)
        and a.sources == b.sources
    )
    for source in a.sources:
        x, y = a[source], b[source]
        assert torch.equal(x.rows, y.rows)
        for u, v in (
            ((x.values.flat, y.values.flat), (x.values.lengths, y.values.lengths))
            if isinstance(x.values, Ragged)
            else ((x.values, y.values),)
        ):
            assert u.dtype == v.dtype and torch.equal(u.nan_to_num(), v.nan_to_num())
    return True


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(messy, workers):
    torch.manual_seed(0)
    here = list(loader(messy))
    parallel = loader(messy, workers=workers)
    assert all(map(equal, here, parallel)) and len(here) == 7
    assert {(e.key, e.field) for e in parallel.bad} == {("cat/r21", "image"), ("cat/r22", "text")}
    state = torch.random.get_rng_state()
    list(loader(messy, workers=workers, steps=1))
    assert torch.equal(state, torch.random.get_rng_state())


def test_resume_is_exact(messy):
    whole = list(loader(messy))
    for start in (1, 4, 7):
        rest = loader(messy, start_step=start)
        assert len(rest) == 7 - start and all(map(equal, whole[start:], list(rest)))


def test_a_fresh_cache_changes_nothing(messy):
    warm = list(loader(messy))
    other = data.open(messy.path)
    assert all(map(equal, warm, loader(other, cache_bytes=0))) and not other.cache.bytes


def test_two_ranks_are_the_halves_of_one(messy):
    whole = list(loader(messy))
    for rank in (0, 1):
        half = loader(messy, rank=rank, world=2)
        assert all(
            equal(w.between(2 * rank, 2 * rank + 2), h) for w, h in zip(whole, half, strict=True)
        )
    with pytest.raises(AmodalError, match="multiple of 3"):
        loader(messy, world=3)


def test_names_of_views(messy):
    batch = next(
        iter(loader(messy, views={"image": ("strong", "strong", "local"), "text": ("weak",)}))
    )
    assert set(batch.sources) == {"image:1", "image:2", "image:3", "text", "audio"}
    assert batch["image:3"].values.shape[-1] < batch["image:1"].values.shape[-1]
    assert not torch.equal(batch["image:1"].values, batch["image:2"].values)
    with pytest.raises(AmodalError, match="Did you mean image"):
        loader(messy, views={"imag": ("plain",)})
    with pytest.raises(AmodalError, match="Did you mean strong"):
        loader(messy, views=("strog",))


def test_seeds_are_of_key_seed_and_epoch(messy):
    n = len(messy)

    def seeds(**options):
        batches = list(loader(messy, batch=n, steps=2, **options))
        return [dict(zip(batch.keys, batch.seeds.tolist())) for batch in batches]

    first, second = seeds()
    assert set(first) == set(second) == set(messy.keys) and not set(first.values()) & set(
        second.values()
    )
    assert seeds(shuffle=False)[0] == first and seeds(seed=1)[0] != first


def test_no_epoch_sees_a_record_twice_and_what_is_left_over_changes(messy):
    n = len(messy)
    whole = n // 4
    loaded = loader(messy, steps=None)
    assert n % 4 and loaded.steps_per_epoch == len(loaded) == whole
    batches = list(loader(messy, steps=8 * whole))
    epochs = [
        [key for b in batches[e * whole : (e + 1) * whole] for key in b.keys] for e in range(8)
    ]
    assert (
        all(len(set(keys)) == len(keys) == 4 * whole for keys in epochs) and epochs[0] != epochs[1]
    )
    assert set().union(*epochs) == set(messy.keys)


def test_one_ordered_pass(messy):
    batches = list(data.Loader(messy, [5, 3, 1, 0, 2], batch=2, shuffle=False))
    assert [key for batch in batches for key in batch.keys] == [
        messy.keys[i] for i in (5, 3, 1, 0, 2)
    ]
    assert [batch.size for batch in batches] == [2, 2, 1] and batches[0].sources == tuple(
        messy.fields
    )
    other = list(data.Loader(messy, [5, 3, 1, 0, 2], batch=2, shuffle=False, rank=1, world=2))
    assert [batch.size for batch in other] == [1, 1, 0]


def test_quarantine(messy, tmp_path):
    loaded = loader(messy, steps=None, shuffle=False)
    rows = {
        key: {s for s, c in batch.columns.items() if row in c.rows}
        for batch in loaded
        for row, key in enumerate(batch.keys)
    }
    assert set(rows) == set(messy.keys) and rows["cat/r21"] == rows["cat/r22"] == set()
    assert sorted((bad.key, bad.field) for bad in loaded.bad) == [
        ("cat/r21", "image"),
        ("cat/r22", "text"),
    ]
    path = tmp_path / "run" / "quarantine.jsonl"
    assert loaded.quarantine(path) == 2 and loaded.quarantine(path) == 0
    assert {json.loads(line)["key"] for line in path.read_text(encoding="utf-8").splitlines()} == {
        "cat/r21",
        "cat/r22",
    }
    with path.open("a", encoding="utf-8") as file:
        file.write('{"key": "torn')
    other = loader(messy, steps=None, shuffle=False)
    list(other)
    assert other.quarantine(path) == 0
    assert all(bad.reason for bad in loaded.bad)


def test_missing_files_and_web_addresses_are_quarantined(tmp_path):
    path = b.table(tmp_path, "csv")
    (tmp_path / "files" / "dog" / "r00.png").unlink()
    path.write_text(
        path.read_text(encoding="utf-8").replace("files/cat/r01.png", "https://example.org/a.png"),
        encoding="utf-8",
    )
    (tmp_path / "dataset.toml").write_text(
        'records = "records.csv"\nkey = "id"\n[fields.file]\nmodality = "image"\n', encoding="utf-8"
    )
    loaded = data.Loader(data.open(tmp_path), range(b.N), batch=b.N, shuffle=False)
    (batch,) = loaded
    assert batch.size == b.N and {bad.key: bad.reason.split(":")[0] for bad in loaded.bad} == {
        "k00": "no such file",
        "k01": "a web address is no file, fetch it first",
    }


def test_a_field_that_no_record_has_is_a_warning_and_an_empty_column():
    with pytest.warns(UserWarning, match="none of the 3 records has the field 'caption'"):
        loaded = data.Loader(
            data.open(b.arrays()).select(["caption", "picture"]), [0, 3, 6], batch=3, shuffle=False
        )
    assert len(next(iter(loaded))["caption"]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.Loader(data.open(b.arrays()), [0, 1], batch=2)


def test_no_records_is_an_error(messy):
    with pytest.raises(AmodalError, match="no records to load"):
        data.Loader(messy, [], batch=2)


def test_cache_keeps_within_its_limit(messy):
    fresh = data.open(messy.path)
    list(data.Loader(fresh, fresh.split("all"), batch=4, cache_bytes=6000))
    assert 0 < fresh.cache.bytes <= 6000


def test_augmentations_do_not_depend_on_other_views_or_fields(messy):
    both = next(iter(loader(messy, views=("strong", "strong"))))
    alone = next(iter(loader(messy.select(["image"]), views=("strong", "strong"))))
    assert torch.equal(both["image:2"].values, alone["image:2"].values)
    assert np.isfinite(both["image:2"].values.numpy()).all()


def test_pictures_leave_a_worker_as_bytes_and_arrive_as_the_same_floats():
    bytes_of = np.arange(2 * 4 * 16 * 16, dtype=np.int64).reshape(2, 4, 16, 16).astype(np.uint8)
    dataset = data.open({"image": list(bytes_of)}, fields={"image": Image(16, channels=4, patch=4)})
    parallel = data.Loader(dataset, [0, 1], batch=2, shuffle=False)
    batch, _ = parallel.load_uncollated(0)
    assert batch["image"].values.dtype == torch.uint8
    sent = SharedBatch.pack(batch)
    assert isinstance(sent.seeds, np.ndarray) and equal(sent.unpack(), batch)
    wanted = torch.from_numpy(bytes_of).float() / 255
    for arrived in (
        parallel.collate(sent.unpack()),
        next(iter(data.Loader(dataset, [0, 1], batch=2, workers=1))),
    ):
        assert torch.equal(arrived["image"].values, wanted)
