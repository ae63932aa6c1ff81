"""Labelling error, connectivity and the bound of positive pairs, on tables small enough to count."""

import math

import numpy as np
import pytest
import torch

from amodal.diagnose.positives import bound, gaps, joined, labelling_error, linked

TABLE = torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 3, 0], [0, 0, 2], [0, 0, 1]])
LABELS = ["a", "a", "b", "b", "b"]


def test_things_are_linked_by_what_they_come_with():
    p = TABLE.double() / TABLE.sum()
    graph = linked(TABLE)
    for i in range(5):
        for j in range(5):
            assert float(graph[i, j]) == pytest.approx(
                sum(float(p[i, y] * p[j, y] / p[:, y].sum()) for y in range(3))
            )
    torch.testing.assert_close(graph.sum(1), p.sum(1))
    normal = p / (p.sum(1)[:, None] * p.sum(0)).sqrt()
    scaled = graph / (graph.sum(1)[:, None] * graph.sum(0)).sqrt()
    torch.testing.assert_close(scaled, normal @ normal.T)
    assert linked(TABLE, alone=True).diagonal().sum() == 0 and float(
        linked(TABLE, alone=True).sum()
    ) == pytest.approx(1)


def test_labelling_error_is_the_chance_of_a_pair_across_labels():
    graph = linked(TABLE)
    rng = np.random.default_rng(0)
    drawn = rng.choice(25, 40000, p=graph.numpy().ravel())
    differ = np.mean([LABELS[i] != LABELS[j] for i, j in zip(drawn // 5, drawn % 5)])
    assert labelling_error(graph, LABELS) == pytest.approx(differ, abs=0.01)
    assert labelling_error(graph, ["a"] * 5) == 0 and math.isnan(
        labelling_error(torch.zeros(2, 2), ["a", "b"])
    )
    with pytest.raises(ValueError, match="fit"):
        labelling_error(graph, LABELS[:3])


def test_classes_hold_together_by_chains_inside_them():
    graph = linked(TABLE)
    # a: its two are joined (1 pair of 1). b: 2 stands apart from 3 and 4 (1 of 3)
    assert joined(graph, LABELS) == pytest.approx(2 / 4)
    assert joined(graph, ["a"] * 5) == pytest.approx((3 * 2 + 2 * 1) / (5 * 4))
    each = gaps(graph, LABELS)
    assert each["b"] == pytest.approx(0) and 0 < each["a"] <= 1
    walk = graph[:2, :2] + graph[:2, :2].T
    second = np.sort(np.linalg.eigvals((walk / walk.sum(1, keepdim=True)).numpy()).real)[0]
    assert each["a"] == pytest.approx(1 - abs(second))


def test_the_bound_is_infinite_where_there_are_more_parts_than_dimensions():
    assert bound(0.1, TABLE, 1) == math.inf
    p = TABLE.double() / TABLE.sum()
    s = np.linalg.svd((p / (p.sum(1)[:, None] * p.sum(0)).sqrt()).numpy(), compute_uv=False)
    assert bound(0.1, TABLE, 2) == pytest.approx(0.1 / (1 - s[2] ** 2))
    assert bound(0.1, TABLE, 3) == pytest.approx(0.1)
