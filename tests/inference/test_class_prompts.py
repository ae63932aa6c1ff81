"""Files of classes and templates: what they say, and what is refused."""

import json

import pytest
import torch

from amodal.core import AmodalError
from amodal.inference.class_prompts import (
    TEMPLATE_SETS,
    class_vectors,
    read_classes,
    read_templates,
)


def test_names_stand_for_themselves():
    assert read_classes("tench, gold_fish").wordings == {
        "tench": ("tench",),
        "gold_fish": ("gold fish",),
    }
    assert read_classes(["a", "b"]).names == ["a", "b"]


def test_descriptions_stand_in_the_place_of_a_name_and_attributes_behind_it():
    read = read_classes(
        {
            "plain": None,
            "0": "a shirt",
            "cat": ["a small cat", "a kitten"],
            "low_voltage": {
                "signs": ["small QRS", "flat"],
                "width": 3,
                "paced": True,
                "sure": False,
            },
            "named": {"name": "a Thing", "descriptions": ["odd one"], "shape": "round"},
        }
    )
    assert read.wordings == {
        "plain": ("plain",),
        "0": ("a shirt",),
        "cat": ("a small cat", "a kitten"),
        "low_voltage": ("low voltage, small QRS, flat, width: 3, paced",),
        "named": ("odd one", "a thing, shape: round"),
    }
    assert read.cells == {
        "low_voltage": {"width": 3, "paced": True, "sure": False},
        "named": {"shape": "round"},
    }


def test_one_content_in_every_kind_of_file(tmp_path):
    content = {
        "hen": {"descriptions": ["a bird", "a fowl"], "legs": "two"},
        "cow": {"legs": "four"},
    }
    (tmp_path / "c.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "c.toml").write_text(
        '[hen]\ndescriptions = ["a bird", "a fowl"]\nlegs = "two"\n[cow]\nlegs = "four"\n',
        encoding="utf-8",
    )
    (tmp_path / "c.csv").write_text(
        "class, description, legs\nhen, a bird, two\nhen, a fowl, \ncow, , four\n\n",
        encoding="utf-8",
    )
    expected = read_classes(content)
    assert expected.wordings["hen"] == ("a bird", "a fowl", "hen, legs: two")
    for kind in ("json", "toml", "csv"):
        assert read_classes(tmp_path / f"c.{kind}") == expected, kind
    (tmp_path / "c.txt").write_text("hen\n\ncow\n", encoding="utf-8")
    assert read_classes(str(tmp_path / "c.txt")).wordings == {"hen": ("hen",), "cow": ("cow",)}
    (tmp_path / "p.csv").write_text("class,signs\na,one; two\nb,three\n", encoding="utf-8")
    assert read_classes(tmp_path / "p.csv").wordings == {
        "a": ("a, one, two",),
        "b": ("b, signs: three",),
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("lonely", "there is only lonely"),
        ("", "there is none"),
        ("Cat, dog, cat", "'cat' is there twice|'Cat' is there twice"),
        ({"a": 3, "b": None}, "a: a text or a list of texts is expected here, not 3"),
        ({"a": {"signs": [1]}, "b": None}, "a, signs: a text or a list"),
        ("gone.toml", "cannot read classes from gone.toml"),
    ],
)
def test_what_is_no_class_is_refused_in_a_sentence(source, message):
    with pytest.raises(AmodalError, match=message):
        read_classes(source)


def test_a_damaged_file_is_refused(tmp_path):
    for name, text, message in (
        ("a.toml", "a = [", "cannot read classes from"),
        ("a.json", "3", "NAME = what is known of it"),
        ("a.csv", "", "has no heading"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(AmodalError, match=message):
            read_classes(tmp_path / name)


def test_classes_take_the_names_of_a_label():
    read = read_classes({"Low voltage": "small", "other": "else"}).matched(
        ["low_voltage", "new_one"]
    )
    assert read.wordings == {
        "low_voltage": ("small",),
        "other": ("else",),
        "new_one": ("new one",),
    }


def test_templates_are_sentences_files_and_sets(tmp_path):
    (tmp_path / "t.txt").write_text("the {}\n\nno {}\n", encoding="utf-8")
    read = read_templates(["a {}", str(tmp_path / "t.txt"), "name", "a {}"])
    assert read == ("a {}", "the {}", "no {}", "{}")
    assert all(t.count("{}") == 1 for templates in TEMPLATE_SETS.values() for t in templates)
    assert read_templates("photo") == TEMPLATE_SETS["photo"]
    for wrong, message in (
        ("a photo", "needs one {}"),
        ("{} and {}", "needs one {}"),
        ("fotos", "Did you mean photo"),
        ([], "there is no template"),
        ("gone.txt", "cannot read templates"),
    ):
        with pytest.raises(AmodalError, match=message):
            read_templates(wrong)


def test_a_class_is_the_mean_of_the_unit_vectors_of_all_its_sentences():
    read = read_classes({"a": ["x", "yy"], "b": "z {0}"})
    prompts = read.prompts(["{}", "{}!"])
    assert prompts == {"a": ["x", "x!", "yy", "yy!"], "b": ["z {0}", "z {0}!"]}
    table = {
        s: torch.randn(3, generator=torch.Generator().manual_seed(i)) * (i + 1)
        for i, s in enumerate(sum(prompts.values(), []))
    }
    found = class_vectors(lambda sentences: torch.stack([table[s] for s in sentences]), prompts)
    for vector, sentences in zip(found, prompts.values()):
        mean = sum(table[s] / table[s].norm() for s in sentences)
        assert torch.allclose(vector, mean / mean.norm(), atol=1e-6)
