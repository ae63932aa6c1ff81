"""What each of many processes draws, asked of the loader's own code without starting any."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal import data, modalities
from amodal.data.groups import GroupSampler

FIELDS = {
    "words": modalities.make("text", max_length=4),
    "facts": modalities.kind("table").infer([{"a": float(i)} for i in range(9)]),
}


def dataset(n: int, missing: float = 0.0, seed: int = 0):
    """Records of two fields; `missing`: share of the values that are not there."""
    rng = np.random.default_rng(seed)
    present = rng.random((n, 2)) >= missing
    present[0] = True  # a kind of data of which there is nothing cannot be told
    columns = {
        "words": ["w" if has else None for has in present[:, 0]],
        "facts": [{"a": float(i)} if has else None for i, has in enumerate(present[:, 1])],
    }
    return data.open(columns, fields=FIELDS)


def loaders(records, world: int, batch: int, **options) -> list[data.Loader]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fields that no record has are meant here
        every = np.arange(len(records))
        return [
            data.Loader(records, every, batch=batch, rank=r, world=world, **options)
            for r in range(world)
        ]


def drawn(ranks: list[data.Loader], step: int) -> np.ndarray:
    """The records of one step, rank after rank."""
    return np.concatenate([loader._rows(step)[0] for loader in ranks])


BIG = dataset(3000)


@settings(max_examples=60, deadline=None)
@given(
    world=st.integers(1, 9),
    share=st.integers(1, 7),
    n=st.integers(1, 400),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 3),
)
def test_an_epoch_is_every_record_at_most_once_and_all_of_them_where_batches_divide_them(
    world, share, n, seed, epoch
):
    batch = world * share
    n = max(n, batch)
    part = np.random.default_rng(seed).permutation(3000)[:n]
    ranks = [
        data.Loader(BIG, part, batch=batch, rank=r, world=world, seed=seed) for r in range(world)
    ]
    assert len({len(loader) for loader in ranks}) == 1 and len(ranks[0]) == n // batch
    steps = range(epoch * (n // batch), (epoch + 1) * (n // batch))
    seen = [drawn(ranks, s) for s in steps]
    assert all(len(rows) == batch for rows in seen), (
        "each rank has the same number of rows in each step"
    )
    seen = np.concatenate(seen)
    assert len(np.unique(seen)) == len(seen) == n // batch * batch and np.isin(seen, part).all()
    if n % batch == 0:
        assert np.array_equal(np.sort(seen), np.sort(part))


@settings(max_examples=40, deadline=None)
@given(
    shares=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    seed=st.integers(0, 99),
    start=st.integers(0, 30),
)
def test_a_run_goes_on_with_any_number_of_processes(shares, seed, start):
    """The rows of a step, in their order, are those of one process, so that a run may be stopped
    and go on with more or fewer."""
    batch = int(np.lcm.reduce(shares)) * 2
    alone = loaders(BIG, 1, batch, seed=seed, steps=40)
    for step, world in zip(range(start, 40), shares):
        ranks = loaders(BIG, world, batch, seed=seed, steps=40, start_step=step)
        assert {len(loader) for loader in ranks} == {40 - step}
        assert np.array_equal(drawn(ranks, step), drawn(alone, step))


@settings(max_examples=40, deadline=None)
@given(
    world=st.integers(1, 6),
    share=st.integers(1, 4),
    seed=st.integers(0, 99),
    kinds=st.integers(1, 5),
)
def test_batches_of_one_group_are_shared_like_any_others(world, share, seed, kinds):
    groups = np.random.default_rng(seed).integers(-1, kinds, 3000)
    batch = world * share
    ranks = loaders(BIG, world, batch, seed=seed, groups=groups)
    whole = GroupSampler(groups, batch, seed)
    some = range(min(len(ranks[0]), 20))
    assert len({len(loader) for loader in ranks}) == 1
    seen = [drawn(ranks, step) for step in some]
    assert all(np.array_equal(rows, whole.batch_indices(0, step)) for step, rows in zip(some, seen))
    seen = np.concatenate(seen)
    assert len(np.unique(seen)) == len(seen) and (groups[seen] >= 0).all()


@settings(max_examples=30, deadline=None)
@given(world=st.integers(1, 9), share=st.integers(1, 5), n=st.integers(1, 60))
def test_an_ordered_pass_is_every_record_once_and_ranks_take_as_many_steps(world, share, n):
    records = dataset(n)
    ranks = loaders(records, world, world * share, shuffle=False)
    assert len({len(loader) for loader in ranks}) == 1
    assert np.array_equal(
        np.concatenate([drawn(ranks, s) for s in range(len(ranks[0]))]), np.arange(n)
    )


@pytest.mark.parametrize("missing", [0.5, 0.95, 1.0])
def test_a_rank_without_any_value_of_a_source_has_the_source_all_the_same(missing):
    """Or ranks would wait for each other over it."""
    records = dataset(64, missing=missing)
    ranks = loaders(records, 16, 32)
    batches = [loader.load(0)[0] for loader in ranks]
    assert {b.sources for b in batches} == {("words", "facts")} and {b.size for b in batches} == {2}
    alone = loaders(records, 1, 32)[0].load(0)[0]
    for source in alone.sources:
        rows = np.concatenate([b[source].rows.numpy() + 2 * rank for rank, b in enumerate(batches)])
        assert np.array_equal(rows, alone[source].rows.numpy())
    assert any(len(b["words"]) == 0 for b in batches) and [
        k for b in batches for k in b.keys
    ] == list(alone.keys)


def test_a_thousand_ranks():
    """Two epochs on 1,000 ranks, stopped in the middle of the second and gone on with 500 and then
    1,250; nine in ten values missing."""
    n, batch = 50_000, 10_000
    records = dataset(n, missing=0.9)
    options = {"steps": 10, "seed": 7}
    crews = {world: loaders(records, world, batch, **options) for world in (1000, 500, 1250)}
    assert {len(loader) for crew in crews.values() for loader in crew} == {10}
    steps = [drawn(crews[1000], s) for s in range(7)] + [
        drawn(crews[500], 7),
        drawn(crews[1250], 8),
        drawn(crews[1250], 9),
    ]
    for epoch in (steps[:5], steps[5:]):
        assert np.array_equal(np.sort(np.concatenate(epoch)), np.arange(n))
    batches = [loader.load(3)[0] for loader in crews[1000][::5]]
    assert {(b.size, b.sources) for b in batches} == {(10, ("words", "facts"))}
    patterns = {(len(b["words"]) > 0, len(b["facts"]) > 0) for b in batches}
    assert len(patterns) == 4, "some ranks have both fields, some either, some none"
