"""Features as records: the loop cuts, gathers and stacks them without knowing what they mean."""

from dataclasses import dataclass

import pytest
import torch

from amodal.core import AmodalError, Column
from amodal.core.features import Columns, FeatureRecord, stack_features


@dataclass(frozen=True, kw_only=True)
class Pair(FeatureRecord):
    student: Columns
    teacher: Columns
    target: Column | None = None


def column(*rows, width=2):
    return Column(torch.randn(len(rows), width), torch.tensor(rows, dtype=torch.int64))


def test_columns_have_the_names_of_fields_and_sources():
    a, b, c = column(0), column(0, 1), column(1)
    pair = Pair(size=2, student={"image": a, "text": b}, teacher={"image": c})
    assert pair.columns == {"student/image": a, "student/text": b, "teacher/image": c}
    assert pair["student/text"] is b and "target" not in pair and list(pair) == list(pair.columns)
    with pytest.raises(AmodalError, match="Did you mean student/text"):
        pair["student/txt"]
    with pytest.raises(AttributeError):
        pair.student = {}


def test_other_values_of_the_same_columns():
    pair = Pair(size=2, student={"image": column(0)}, teacher={}, target=column(1))
    doubled = pair.with_columns({n: c.with_flat(c.flat * 2) for n, c in pair.columns.items()}, 3)
    assert doubled.size == 3 and type(doubled) is Pair
    torch.testing.assert_close(doubled.student["image"].values, 2 * pair.student["image"].values)
    torch.testing.assert_close(doubled.target.values, 2 * pair.target.values)


def test_consecutive_batches_are_stacked():
    parts = [
        Pair(size=2, student={"image": column(0, 1)}, teacher={"image": column(1)})
        for _ in range(2)
    ]
    whole = stack_features(parts)
    assert isinstance(whole, Pair) and whole.size == 4 and whole.target is None
    assert whole.student["image"].rows.tolist() == [0, 1, 2, 3] and whole.teacher[
        "image"
    ].rows.tolist() == [1, 3]


def test_what_is_no_column_is_refused():
    with pytest.raises(AmodalError, match="student is a Tensor; features are columns"):
        Pair(size=2, student=torch.zeros(2, 2), teacher={})
