"""docs/recipes.md says what its commands set, and its commands can be given."""

import re
import shlex

import pytest

from amodal import catalog, methods
from amodal.core.recipe import NAMES, Recipe
from amodal.methods.recipes import choose
from amodal.recipe_table import ON_PAGE, recipe_rows, recipes_of, when
from tests.structure.tree import ROOT

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
ALL = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
SECTIONS = [(title, section) for title, section in ALL if title != "Memory and days"]


def settings_of(section):
    """Method, recipe and options of the command of a section."""
    command = re.search(r"```console\namodal pretrain (.+?)\n```", section)[1]
    method, *words = shlex.split(command)
    values = {}
    for word in words:
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            values[name] = []
        else:
            values[name].append(word)
    assert values.pop("recipe") == ["paper"]
    options = {n.removeprefix("method."): v[0] for n, v in values.items() if "." in n}
    changes = {n: read(v[0]) for n, v in values.items() if n in NAMES}
    if "views" in values:  # FIELD=VIEW,VIEW, as the command line has them
        views = dict(word.split("=") for word in values["views"])
        changes["views"] = {field: tuple(own.split(",")) for field, own in views.items()}
    known = {"data", "backbone", "size", "pool", "fields", "init_from"}
    assert set(values) <= set(NAMES) | known | {f"method.{n}" for n in options}
    recipe = Recipe.of(changes, methods.paper_recipe(method))
    assert set(options) <= set(methods.options(method)), method
    chosen = {n: p.default for n, p in methods.options(method).items()}
    return method, recipe, chosen | {n: read(v) for n, v in options.items()}


def read(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def shown(value):
    if isinstance(value, dict):
        return "; ".join(
            f"{n}={','.join(v) if isinstance(v, (tuple, list)) else shown(v)}"
            for n, v in value.items()
        )
    if isinstance(value, (tuple, list)):
        return ", ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_there_is_a_section_for_each_method_and_network():
    titles = [title for title, _ in SECTIONS]
    for method in ("SimCLR", "MoCo v3", "BYOL", "DINO", "MAE", "CLIP"):
        assert any(title.startswith(method) for title in titles)


@pytest.mark.parametrize("title", [title for title, _ in SECTIONS])
def test_what_a_command_sets_is_what_the_page_says(title):
    section = dict(SECTIONS)[title]
    method, recipe, options = settings_of(section)
    rows = re.findall(r"^\| ([a-z_.]+) \| (.+?) \| (.+?) \|$", section, re.M)
    assert len(rows) >= 8
    for name, theirs, here in rows:
        own = name.startswith("method.")
        value = options[name[7:]] if own else getattr(recipe, name)
        assert shown(value) == here, f"{title}: {name} is {shown(value)}, the page says {here}"
        assert theirs.strip()
    written = recipe.written()
    plain = Recipe().written()
    silent = {"clip", "schedule", "betas", "momentum", "drop_path", "views", "resolution"}
    missing = {n for n in written if written[n] != plain.get(n)} - {n for n, _, _ in rows} - silent
    assert not missing, f"{title} does not say {missing}"


def tree(method):
    return catalog.pages()[method].tree


def test_the_recipes_of_a_method_stand_side_by_side():
    assert list(recipes_of("dino", tree("dino"))) == ["plain", "paper"]
    names, rows = recipe_rows("dino", tree("dino"))
    found = {row[0]: row[1:-1] for row in rows}
    assert names == ["plain", "paper"] and found["lr"] == ["", "0.0005"]
    assert found["betas"] == ["0.9, 0.95", "0.9, 0.999"] and "optimizer" not in found
    assert "paper from 1,000,000 records on" in when("dino", tree("dino"))
    assert "100,000,000" in when("clip", tree("clip"))
    assert {"plain", "page", "paper"} <= set(recipes_of("mae", tree("mae")))
    assert "views" in {row[0] for row in recipe_rows("mae", tree("mae"))[1]}


@pytest.mark.parametrize("method", [n for n in methods.names() if methods.paper_recipe(n)])
def test_what_is_read_off_a_page_is_what_python_sees(method):
    read_off = recipes_of(method, tree(method))["paper"]
    written = methods.paper_recipe(method).written()
    for name, value in written.items():
        if read_off.get(name) != ON_PAGE:
            assert shown(read_off.get(name)) == shown(value), f"{method}: {name}"


def test_the_papers_recipe_is_chosen_for_as_much_data_as_it_had():
    paper = methods.paper_recipe("clip")
    for records, expected in ((10**6, "plain"), (10**8, "paper")):
        large = methods.paper_records("clip")
        assert choose("clip", None, paper=paper, records=records, large=large)[1] == expected
    large = methods.paper_records("simclr")
    paper = methods.paper_recipe("simclr")
    assert choose("simclr", None, paper=paper, records=500_000, large=large)[1] == "plain"
