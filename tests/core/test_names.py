"""Names: of sources, of pages, and what is said about one that does not exist."""

import pytest

from amodal.core import AmodalError, field_of, name_code, unknown, view_of
from amodal.core import registry as find
from amodal.errors import described, nearest


def test_source_names():
    assert [field_of(s) for s in ("image", "image:2")] == ["image", "image"]
    assert [view_of(s) for s in ("image", "image:2")] == [0, 2]
    assert name_code("image") == name_code("image") != name_code("text")
    assert all(0 <= name_code(str(i)) < 2**63 for i in range(100))


def test_unknown_says_what_there_is():
    message = str(unknown("size", "tinny", ["tiny", "small"], "See the README."))
    assert (
        message
        == "no size is called 'tinny'. Did you mean tiny? There are: small, tiny. See the README."
    )
    assert "There are: none." in str(unknown("size", "x", []))
    assert "(30 in all)" in str(unknown("size", "x", [f"name{i}" for i in range(30)]))
    assert nearest("qqq", ["tiny"]) == []


def test_a_page_is_found_by_its_name():
    assert find.pages("masking")["span"].name == "span.py"
    assert "shapes" not in find.pages("methods") and "_contract" not in find.pages("methods")
    assert find.load("masking", "span", "mask").__name__ == "amodal.masking.span"
    with pytest.raises(AmodalError, match="no mask is called 'spam'. Did you mean span"):
        find.load("masking", "spam", "mask")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1, "b": {"c": 2}}, "a dict of a, b"),
        ({i: i for i in range(9)}, "a dict of 0, 1, 2, 3, … (9 in all)"),
        ({}, "an empty dict"),
        ([1, 2], "a list of 1, 2"),
        ([{"a": 1}, {"b": 2}], "a list of 2 entries"),
        ((), "an empty tuple"),
        ("x" * 200, "'" + "x" * 78 + "…"),
        (1.5, "1.5"),
        (None, "None"),
    ],
)
def test_values_in_errors_are_described(value, text):
    assert described(value) == text


def test_a_dict_in_place_of_a_name_is_not_printed():
    message = str(unknown("field", {"a": {"b": 1}}, ["image"]))
    assert message == "no field is called a dict of a. There are: image."
