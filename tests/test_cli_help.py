"""What `--help` shows of each verb."""

import inspect

import pytest

from amodal import cli, modalities
from amodal.cli.queries import MODALITIES, TAKEN, example_query


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
    assert MODALITIES == modalities.names()
    assert all(f"--{name} VALUE" in help_text for name in MODALITIES)
    assert TAKEN == {*inspect.signature(cli.search).parameters, "method", "backbone", "help"}


def test_the_query_that_index_proposes_is_one_that_search_takes():
    text, image = modalities.make("text"), modalities.make("image")
    assert example_query({"photo": image, "caption": text}) == "--text …"
    assert example_query({"photo": image}) == "--image …"
    assert example_query({"front": image, "side": image}) == "--query front=…"
