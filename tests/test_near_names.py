"""An option that a verb does not have is refused with the nearest name, before anything starts."""

import re

import pytest

import amodal
from amodal import cli
from amodal.cli.near_names import option_names
from amodal.cli.recipes import RECIPE_GROUPS, RUN_GROUPS
from amodal.core.recipe import NAMES
from amodal.core.run_options import RunOptions
from amodal.core.usual_names import USUAL


def refused(capsys, words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pretrain clip --data globe --out x --batch-sise 32", "Did you mean --batch-size?"),
        ("pretrain clip --data globe --out x --learning-rate=1", "Did you mean --lr?"),
        ("pretrain clip --data globe --out x --num_epochs 1", "Did you mean --epochs?"),
        ("pretrain clip --data globe --out x --temperature 1", "set by --method.temperature."),
        ("search run --text a --topk 3", "Did you mean --k?"),
        ("embed run --batch-size 3", "`amodal plan`, `amodal align` and `amodal adapt`."),
        ("evaluate run --date globe", "`amodal evaluate` has no option --date."),
        ("--verison", "Did you mean --version?"),
    ],
)
def test_one_sentence_with_the_nearest_name(capsys, words, message):
    error = refused(capsys, words)
    assert message in error and "--help` lists its options" in error and error.count("\n") == 1


def test_names_that_are_right_are_taken_with_hyphens_and_underscores(capsys):
    words = "pretrain clip --data nowhere --out x --batch_size 8 --no-resume --lr 1e-3 --epochs 1"
    assert "nowhere" in refused(capsys, words)


def test_what_stands_behind_two_hyphens_is_no_option(capsys):
    assert "has no option" not in refused(capsys, "doctor -- --anything")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_options_are_those_of_the_parser(capsys, verb):
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    lines = capsys.readouterr().out.splitlines()
    shown = {
        option
        for line in lines
        if line[2:3] == "-"  # what is wrapped is indented
        for option in re.findall(r"(?:^|, )(--[a-z][a-z0-9-]*)", line[2:])
    }
    assert shown == option_names(cli.VERBS[verb])


def test_names_of_other_tools_lead_to_options():
    known = {option for verb in cli.VERBS.values() for option in option_names(verb)}
    assert {f"--{name}" for name in USUAL.values()} <= known


def test_every_setting_stands_below_one_heading():
    for groups, names in ((RECIPE_GROUPS, NAMES), (RUN_GROUPS, RunOptions.__annotations__)):
        assert sorted(" ".join(groups.values()).split()) == sorted(names)


def test_the_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"amodal {amodal.__version__}\n"
