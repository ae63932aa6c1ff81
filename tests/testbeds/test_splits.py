"""Splits are those of the lock, divide no group, and leave every task something to measure."""

from functools import cache

import pytest
import testbeds
from testbeds import splits
from testbeds.__main__ import main
from testbeds.measures import eligible, outcomes
from testbeds.sets._shares import parts
from testbeds.testbed import Records

GROUPS = {"watch": "subject", "speech": "stamp"}
"""Testbed -> the label that must not be divided, beside `split_by` of its dataset.toml."""


@cache
def opened(name):
    bed = testbeds.testbed(name)
    if not bed.is_here:
        pytest.skip(f"the set {bed.data!r} is not in the cache: amodal data {bed.data} gets it")
    return bed, bed.open()


@pytest.mark.parametrize("name", testbeds.names())
def test_the_split_is_that_of_the_lock(name):
    _, data = opened(name)
    assert splits.of(data) == splits.locked()[name]


@pytest.mark.parametrize("name", testbeds.names())
def test_no_key_is_in_two_parts(name):
    _, data = opened(name)
    members = [{data.keys[i] for i in data.split(part)} for part in splits.PARTS]
    assert sum(map(len, members)) == len(set.union(*members)) == len(data)


@pytest.mark.parametrize("name", testbeds.names())
def test_no_group_is_divided(name):
    _, data = opened(name)
    by = data.schema.split_by or GROUPS.get(name)
    if by is None:
        pytest.skip(f"the records of {name} have no groups")
    cells = data.reader.cells(by)
    members = [{cells[i] for i in data.split(part)} for part in splits.PARTS]
    assert sum(map(len, members)) == len(set.union(*members))


@pytest.mark.parametrize("name", testbeds.names())
def test_every_task_can_be_measured(name):
    bed, data = opened(name)
    for task in bed.tasks:
        assert set(task.labels) <= set(data.labels)
        assert set(task.fields) <= set(data.fields)
        counts = [len(eligible(Records(data, data.split(p)), task)) for p in splits.PARTS]
        assert min(counts) >= (4 if task.protocol == "survival" else 10), (task.name, counts)
        if task.protocol == "survival":
            every = eligible(Records(data, data.split("all")), task)
            assert outcomes(every, task)[1].sum() >= 20


def test_the_lock_has_every_testbed():
    assert sorted(splits.locked()) == testbeds.names()


def test_a_change_of_the_split_is_noticed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(splits, "LOCK", tmp_path / "splits.json")
    assert main(["splits", "digits", "--write"]) == 0
    assert main(["splits", "digits"]) == 0
    moved = splits.locked()["digits"] | {"test": {"records": 206, "sha256": "0" * 64}}
    splits.lock({"digits": moved})
    assert main(["splits", "digits"]) == 1
    assert "digits" in capsys.readouterr().out.splitlines()[-2]


def test_shares_are_exact_within_strata_and_do_not_divide_groups():
    groups = [f"g{i // 3}" for i in range(60)]
    found = parts(groups, valid=0.2, test=0.2)
    assert [found.count(p) for p in ("train", "valid", "test")] == [36, 12, 12]
    assert all(len({p for g, p in zip(groups, found) if g == name}) == 1 for name in groups)
    classes = ["a"] * 40 + ["b"] * 20
    found = parts([str(i) for i in range(60)], 0.25, 0.1, classes)
    assert [found[:40].count(p) for p in ("valid", "test")] == [10, 4]
    assert [found[40:].count(p) for p in ("valid", "test")] == [5, 2]
