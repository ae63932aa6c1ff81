"""A part records the arguments it was constructed with."""

import copy

import pytest

from amodal.core.part import Part


class Plain(Part):
    def __init__(self, width: int, /, *, kwargs: str = "", **options: int):
        super().__init__()


class Positional(Part):
    def __init__(self, *widths: int):
        super().__init__()


def test_arguments_are_recorded_by_name_whatever_they_are_called():
    part = Plain(3, kwargs="own", self=1, args=2)
    assert part.spec["args"] == {"width": 3, "kwargs": "own", "self": 1, "args": 2}
    assert copy.deepcopy(part).spec == part.spec
    assert Plain(3).spec["args"] == {"width": 3}, "defaults are not recorded"


def test_arguments_without_a_name_are_refused():
    with pytest.raises(TypeError, match="names all its arguments"):
        Positional(1, 2)
