import numpy as np
import pytest

import amodal.data as data
from amodal.core import AmodalError
from amodal.data import splits


def shares(part):
    return np.bincount(part, minlength=3) / len(part)


def test_shares_and_stability_when_data_grows():
    names = [f"record {i}" for i in range(20000)]
    part = splits.by_hash(names)
    assert np.allclose(shares(part), [0.8, 0.1, 0.1], atol=0.01)
    shuffled = np.random.default_rng(0).permutation(len(names))[:5000]
    assert np.array_equal(splits.by_hash([names[i] for i in shuffled]), part[shuffled])


def test_records_of_one_group_stay_together():
    groups = [f"patient {i % 60}" for i in range(600)]
    part = splits.by_hash(groups)
    assert all(len(set(part[i::60])) == 1 for i in range(60))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_no_part_of_small_data_is_empty(n):
    for start in range(20):
        assert (
            np.bincount(splits.by_hash([f"{start} {i}" for i in range(n)]), minlength=3) > 0
        ).all()


def test_declared_splits():
    names = [f"{i}" for i in range(200)]
    part = splits.by_name(["Train"] * 150 + ["val"] * 20 + ["TEST"] * 30, names)
    assert np.bincount(part).tolist() == [150, 20, 30]
    part = splits.by_name(["train"] * 150 + ["test"] * 50, names)
    assert (part[150:] == 2).all() and 0 < (part[:150] == 1).sum() < 40
    with pytest.raises(AmodalError, match="Did you mean.*train"):
        splits.by_name(["tran"], ["a"])


def test_dataset_split_parts_and_groups(tmp_path):
    (tmp_path / "t.csv").write_text(
        "id,text,site\n" + "".join(f"k{i},words number {i},s{i % 37}\n" for i in range(400)),
        encoding="utf-8",
    )
    plain = data.open(tmp_path / "t.csv")
    parts = [plain.split(p) for p in ("train", "valid", "test")]
    assert sorted(np.concatenate(parts)) == list(range(400)) and np.array_equal(
        plain.split("all"), np.arange(400)
    )
    (tmp_path / "dataset.toml").write_text(
        'records="t.csv"\nkey="id"\nsplit_by="site"\n[fields.text]\nmodality="text"\n',
        encoding="utf-8",
    )
    grouped = data.open(tmp_path)
    sites = [
        set(np.array([i % 37 for i in range(400)])[grouped.split(p)])
        for p in ("train", "valid", "test")
    ]
    assert not sites[0] & sites[1] and not sites[0] & sites[2] and all(sites)
    with pytest.raises(AmodalError, match="Did you mean valid"):
        grouped.split("vlid")


def test_other_fields_of_a_dataset_have_the_parts_of_its_split():
    made = data.open({"x": np.random.default_rng(0).random((60, 3)), "y": np.ones((60, 2))})
    chosen = np.arange(60) % 3
    split = made.with_parts(chosen.astype(np.int8))
    kind = dict(split.fields)
    for other in (split.with_fields(kind), split.select(["y"]), split.with_columns(["z"])):
        assert np.array_equal(other.parts, chosen)
    some = made.subset(range(0, 60, 4))
    assert np.array_equal(some.with_fields(kind).parts, made.parts[::4])
