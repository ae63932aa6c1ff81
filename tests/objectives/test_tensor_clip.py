"""tensor_clip and barlow_ways against the whole tensor, entry by entry, and their two-way cases
against their peers."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.barlow import barlow_twins
from amodal.objectives.info_nce import info_nce
from amodal.objectives.tensor_clip import multi_barlow_twins, tensor_clip
from tests.objectives.test_contrastive import LargestTensor


def sources(ways, rows=5, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(rows, width, dtype=torch.float64, generator=generator).requires_grad_()
        for _ in range(ways)
    ]


def logits(vectors, t):
    """index tuple -> entry of the tensor."""
    unit = [F.normalize(v, dim=1) for v in vectors]
    rows = range(len(unit[0]))
    return {
        index: torch.stack([u[i] for u, i in zip(unit, index)]).prod(0).sum() / t
        for index in itertools.product(rows, repeat=len(unit))
    }


def naive_tensor_clip(vectors, t):
    entries, ways, rows = logits(vectors, t), len(vectors), len(vectors[0])
    total = 0.0
    for axis in range(ways):
        for i in range(rows):
            below = torch.stack([v for index, v in entries.items() if index[axis] == i]).logsumexp(
                0
            )
            total = total + below - entries[(i,) * ways]
    return total / (rows * ways)


def naive_half(vectors, t):
    entries, rows = logits(vectors, t), len(vectors[0])
    total = 0.0
    for axis in range(3):
        for i in range(rows):
            own = {index: v for index, v in entries.items() if index[axis] == i}
            below = torch.stack([v for index, v in own.items() if len(set(index)) == 3]).logsumexp(
                0
            )
            weight = {1: 1.0, 2: 0.5, 3: 0.0}
            total = total + sum(weight[len(set(index))] * (below - v) for index, v in own.items())
    return total / (rows * 3)


@pytest.mark.parametrize("ways", [2, 3, 4])
def test_tensor_clip_is_cross_entropy_along_each_axis(ways, same, monkeypatch):
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for cells in (1, 2**22):  # a tile of one row, and one of all
        monkeypatch.setattr("amodal.objectives.tensor_clip.MAX_LOGITS", cells)
        same(
            lambda t, *v: tensor_clip(v, temperature=t),
            lambda t, *v: naive_tensor_clip(v, t),
            [t, *sources(ways, rows=4)],
        )


def test_half_weights_for_two_of_three(same):
    same(
        lambda *v: tensor_clip(v, temperature=0.3, half=True),
        lambda *v: naive_half(v, 0.3),
        sources(3),
    )


def test_of_two_they_are_info_nce_and_barlow_twins(same):
    same(
        lambda a, b: tensor_clip([a, b], temperature=0.2),
        lambda a, b: info_nce(a, b, temperature=0.2),
        sources(2),
    )
    same(
        lambda a, b: multi_barlow_twins([a, b], off_diagonal=0.1),
        lambda a, b: barlow_twins(a, b, off_diagonal=0.1),
        sources(2, 9),
    )


@pytest.mark.parametrize("learned", [False, True])
def test_only_one_block_is_held_and_gradients_are_those_of_stored_blocks(
    learned, same, monkeypatch
):
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True) if learned else 0.3
    inputs = [*sources(3, rows=11), *([t] if learned else [])]

    def recomputed(*v):
        monkeypatch.setattr("amodal.objectives.tensor_clip.MAX_RETAINED", 0)
        return tensor_clip(v[:3], temperature=t, tuples=4)

    def stored(*v):
        monkeypatch.setattr("amodal.objectives.tensor_clip.MAX_RETAINED", 2**25)
        parts = ((0, 4), (4, 4), (8, 3))
        return (
            sum(n * tensor_clip([x[i : i + n] for x in v[:3]], temperature=t) for i, n in parts)
            / 11
        )

    same(recomputed, stored, inputs)
    monkeypatch.setattr("amodal.objectives.tensor_clip.MAX_RETAINED", 0)
    held = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: held.append(x.numel()) or x, lambda x: x
    ):
        tensor_clip(inputs[:3], temperature=t, tuples=4)
    assert max(held) < 4**3  # no block's tensor


def test_blocks_compete_among_themselves():
    vectors = sources(3, rows=7)
    whole = tensor_clip(vectors, temperature=0.3, tuples=3)
    blocks = [tensor_clip([v[i : i + 3] for v in vectors], temperature=0.3) for i in (0, 3)]
    torch.testing.assert_close(whole, sum(blocks) / 2)  # the seventh row has nobody to compete with


@pytest.mark.parametrize("ways", [2, 3, 4])
def test_barlow_ways_is_the_correlation_tensor(ways, same):
    def naive(*vectors):
        z = [(v - v.mean(0)) / (v.var(0, correction=0) + 1e-5).sqrt() for v in vectors]
        width, total = z[0].shape[1], 0.0
        for index in itertools.product(range(width), repeat=ways):
            entry = torch.stack([u[:, d] for u, d in zip(z, index)]).prod(0).mean()
            total = total + ((1 - entry) ** 2 if len(set(index)) == 1 else 0.1 * entry**2)
        return total

    same(
        lambda *v: multi_barlow_twins(v, off_diagonal=0.1, tile=2),
        naive,
        sources(ways, rows=6, width=3),
    )


def test_too_few_rows_are_a_connected_zero():
    for loss, rows in (
        (lambda v: tensor_clip(v, temperature=0.3), 1),
        (lambda v: tensor_clip(v, temperature=0.3, half=True), 2),
        (multi_barlow_twins, 1),
        (multi_barlow_twins, 0),
        (lambda v: tensor_clip(v, temperature=0.3), 0),
    ):
        vectors = sources(3, rows=rows)
        value = loss(vectors)
        value.backward()
        assert value == 0 and all(v.grad is not None for v in vectors)


def test_neither_holds_a_large_tensor():
    vectors = [torch.randn(1024, 8, requires_grad=True) for _ in range(3)]
    with LargestTensor() as largest:
        tensor_clip(vectors, temperature=0.1, tuples=32).backward()
        multi_barlow_twins(vectors, tile=64).backward()
    assert largest.elements <= 64 * 1024


def test_errors_say_what_was_passed():
    a, b = sources(2)
    with pytest.raises(ValueError, match="at least two sources, got 1"):
        tensor_clip([a], temperature=0.1)
    with pytest.raises(ValueError, match="three sources, got 2"):
        tensor_clip([a, b], temperature=0.1, half=True)
    with pytest.raises(ValueError, match=r"\(5, 4\) and \(3, 4\)"):
        multi_barlow_twins([a, b[:3]])
