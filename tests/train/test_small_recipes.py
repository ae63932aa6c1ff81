"""The recipe for small data: read where nothing else is chosen, and the run says so."""

import json
import tomllib

import numpy as np
import pytest

from amodal.cli import main
from amodal.core import AmodalError, Recipe
from amodal.data import open as open_data
from amodal.methods import recipes
from amodal.methods.recipes import choose, small_recipe
from amodal.train.pretrain import pretrain
from amodal.train.settings import read_settings

QUICK = {"steps": 1, "size": "nano", "batch_size": 8, "progress": False, "logger": None}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of small recipes, as the script writes it."""
    path = tmp_path / "small.toml"
    path.write_text(
        "[simclr.recipe]\nweight_decay = 0.5\ndrop_path = 0.1\nviews = { all = ['weak'] }\n"
        "[simclr.kinds.table]\nweight_decay = 0.25\n",
        encoding="utf-8",
    )
    content = recipes.small_recipes(path)
    monkeypatch.setattr(recipes, "small_recipes", lambda: content)
    return path


@pytest.fixture(scope="module")
def table():
    data = open_data("digits").select(["zer"])
    return data.subset(np.concatenate([data.split("train")[:60], data.split("valid")[:40]]))


def test_without_a_file_nothing_changes(tmp_path, table):
    assert recipes.small_recipes(tmp_path / "none.toml") == {}
    if not recipes.FILE.exists():
        assert choose("simclr", None, records=10) == (Recipe(), "plain")
        run = pretrain("simclr", table, tmp_path / "run", **QUICK)
        assert "recipe_from" not in json.loads((run / "config.json").read_text(encoding="utf-8"))


def test_what_is_chosen(file):
    small = Recipe(weight_decay=0.5, drop_path=0.1, views={"all": ("weak",)})
    assert choose("simclr", None) == (Recipe(), "plain"), "the size is not known"
    assert choose("simclr", None, records=100) == (small, "small")
    assert choose("simclr", None, records=100, below=100) == (Recipe(), "plain")
    assert choose("simclr", None, "plain", records=100) == (Recipe(), "plain")
    assert choose("simclr", None, "small", records=10**9) == (small, "small")
    assert choose("simclr", None, records=9, kinds={"table"})[0] == Recipe(weight_decay=0.25)
    assert choose("simclr", None, records=9, kinds={"table", "text"})[0] == small
    paper = Recipe(optimizer="lars")
    assert choose("simclr", paper, records=100) == (small, "small"), "it was measured"
    assert choose("clip", paper, records=100) == (paper, "page")
    assert choose("simclr", paper, "paper") == (paper, "paper")
    assert choose("simclr", paper, "small") == (small, "small")
    assert choose("clip", None, paper=paper, records=100) == (Recipe(), "plain")
    assert choose("clip", None, paper=paper, records=10**6) == (paper, "paper")
    assert choose("clip", None, "paper", paper=paper, records=100) == (paper, "paper")
    page = Recipe(drop_path=0.2)
    assert choose("clip", page, paper=paper, records=10**6) == (page, "page")
    assert small_recipe("clip") is None
    for method, choice, sentence in (
        ("simclr", "smal", "Did you mean small"),
        ("simclr", "paper", "no recipe of its own"),
        ("clip", "small", "no small recipe for clip"),
    ):
        with pytest.raises(AmodalError, match=sentence):
            choose(method, None, choice)


def test_a_run_uses_it_says_so_and_is_run_once_more_by_its_config(file, table, tmp_path):
    run = pretrain("simclr", table, tmp_path / "a", drop_path=0.0, **QUICK)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["recipe_from"] == "small" and config["recipe"]["weight_decay"] == 0.25
    assert config["recipe"]["drop_path"] == 0.0, "what is set by hand counts"
    written = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    assert written["recipe_from"] == "small" and written["recipe"]["weight_decay"] == 0.25
    plain = pretrain("simclr", table, tmp_path / "b", recipe="plain", **QUICK)
    config = json.loads((plain / "config.json").read_text(encoding="utf-8"))
    assert config["recipe_from"] == "plain" and config["recipe"]["weight_decay"] == 0.05
    own = pretrain("simclr", table, tmp_path / "c", recipe=Recipe(), **QUICK)
    assert (
        json.loads((own / "config.json").read_text(encoding="utf-8"))["recipe"]["weight_decay"]
        == 0.05
    )
    with pytest.raises(AmodalError, match="Did you mean plain"):
        read_settings("simclr", {"recipe": "plane"})


def test_the_command_line_chooses(file, tmp_path):
    options = "--steps 1 --size nano --batch-size 8 --fields zer --logger none".split()
    for choice, decay in (("small", 0.25), ("plain", 0.05)):
        out = tmp_path / choice
        main(
            [
                "pretrain",
                "simclr",
                "--data",
                "digits",
                "--out",
                str(out),
                "--recipe",
                choice,
                *options,
            ]
        )
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        assert (config["recipe_from"], config["recipe"]["weight_decay"]) == (choice, decay)
    main(["pretrain", "--config", f"{tmp_path}/plain/config.toml", "--out", f"{tmp_path}/again"])
    config = json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8"))
    assert config["recipe"]["weight_decay"] == 0.05 and "views" not in config["recipe"]


def test_views_of_all_fields(table, tmp_path):
    run = pretrain("dino", table, tmp_path / "a", views={"all": ("weak",)}, **QUICK)
    assert json.loads((run / "config.json").read_text(encoding="utf-8"))["recipe"]["views"] == {
        "all": ["weak"]
    }
    with pytest.raises(AmodalError, match="must be one"):
        pretrain("simclr", table, tmp_path / "b", views={"all": ("weak", "strong")}, **QUICK)
