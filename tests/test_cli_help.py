"""What `--help` shows of each verb."""

import dataclasses
import inspect

import pytest

from amodal import cli, modalities
from amodal.cli.queries import MODALITIES, TAKEN, example_query
from amodal.cli.recipes import chosen, options_of
from amodal.core import Recipe
from amodal.core.run_options import RunOptions, _option
from amodal.train.run_config import NOT_WRITTEN, WRITTEN
from amodal.train.settings import SETTINGS


@pytest.mark.parametrize(
    "verb", [name for name, verb in cli.VERBS.items() if "run" in verb.__annotations__]
)
def test_verbs_that_take_a_run_list_the_options_of_own_code(capsys, verb):
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    help_text = capsys.readouterr().out
    assert "--method FILE.py:NAME" in help_text and "--backbone FIELD=FILE.py:NAME" in help_text


def test_pretrain_has_the_options_of_own_code_for_the_run_it_starts_from(capsys):
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "--help"])
    help_text = capsys.readouterr().out
    assert "--init-method FILE.py:NAME" in help_text
    assert "--init-backbone FIELD=FILE.py:NAME" in help_text
    with pytest.raises(SystemExit):
        cli.main("pretrain clip --data digits --out x --init-method a.py:b".split())
    assert "--init-from is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "name"),
    [("claim", "KEY"), ("methods", "[KEY]"), ("evaluate", "RUN"), ("init", "DIR")],
)
def test_help_shows_what_stands_without_an_option(capsys, verb, name):
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    usage = capsys.readouterr().out
    assert name in usage.splitlines()[0] and usage.count(name) >= 2


def test_search_has_an_option_for_each_modality_and_none_is_hidden_by_another_option(capsys):
    with pytest.raises(SystemExit):
        cli.main(["search", "--help"])
    help_text = capsys.readouterr().out
    hidden = ["volume"]  # of `gram`, which ranks by volumes; scans are queries by --query
    assert MODALITIES == [name for name in modalities.names() if name not in hidden]
    assert all(f"--{name} VALUE" in help_text for name in MODALITIES)
    assert TAKEN == {*inspect.signature(cli.search).parameters, "method", "backbone", "help"}


def test_the_query_that_index_proposes_is_one_that_search_takes():
    text, image = modalities.make("text"), modalities.make("image")
    assert example_query({"photo": image, "caption": text}) == "--text …"
    assert example_query({"photo": image}) == "--image …"
    assert example_query({"front": image, "side": image}) == "--query front=…"


def test_pretrain_has_an_option_for_each_setting_with_its_help_and_default(capsys):
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in (*dataclasses.fields(RunOptions), *dataclasses.fields(Recipe)):
        name = field.metadata.get("name") or field.name
        assert f"--{name.replace('_', '-')}" in shown
        assert " ".join(field.metadata["help"].split()) in shown
    names = {field.name for field in dataclasses.fields(RunOptions)}
    assert names <= {*SETTINGS} and names <= {*WRITTEN, *NOT_WRITTEN}
    assert "(default: auto)" in shown and "(default: tensorboard)" in shown


def test_a_new_setting_is_an_option():
    @dataclasses.dataclass(frozen=True)
    class More(RunOptions):
        sharpness: float = _option(1.5, "how sharp")

    options = options_of(More)
    assert options().sharpness is None and "sharpness" in {
        field.name for field in dataclasses.fields(options)
    }


def test_an_option_that_is_set_reaches_the_run_and_others_do_not():
    options = options_of(RunOptions)
    assert chosen(options()) == {}
    assert chosen(options(seed=0, workers=0)) == {"seed": 0, "workers": 0}
    assert chosen(options(fields="a, b", backbones=("image=timm:x",), logger="none")) == {
        "fields": ["a", "b"],
        "backbones": {"image": "timm:x"},
        "logger": [],
    }
