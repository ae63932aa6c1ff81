"""The types refuse what cannot be measured, and every page makes a testbed."""

from dataclasses import replace

import pytest
import testbeds
from testbeds import Peer, Task, Testbed
from testbeds.__main__ import main

from amodal.core import AmodalError

DIGITS = testbeds.testbed("digits")


def test_there_are_fourteen_families():
    beds = [testbeds.testbed(name) for name in testbeds.names()]
    assert len({bed.family for bed in beds}) == 14
    assert [bed.name for bed in beds] == testbeds.names()


@pytest.mark.parametrize("name", testbeds.names())
def test_a_page_names_its_parts(name):
    bed = testbeds.testbed(name)
    assert "**Split.**" in bed.card and "**Known leaks.**" in bed.card
    assert bed.primary is bed.tasks[0]
    for task in bed.tasks:
        assert bed.peers_of(task) or task.protocol in ("knn", "retrieval"), task.name


def test_an_unknown_name_comes_with_the_nearest_one():
    with pytest.raises(AmodalError, match="digits"):
        testbeds.testbed("digit")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("a", "linnear", "accuracy", "digit"), "linear"),
        (("a", "linear", "recall@10", "digit"), "metric of linear"),
        (("a", "linear", "accuracy"), "the name of one label"),
        (("a", "survival", "concordance", "time"), "TIME,EVENT"),
        (("a", "retrieval", "R@10", None, ("pix",)), "two fields"),
        (("a", "retrieval", "R@10", "digit", ("pix", "fou")), "no label"),
    ],
)
def test_a_task_that_cannot_be_measured(arguments, message):
    with pytest.raises(AmodalError, match=message):
        Task(*arguments)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fields": ()}, "at least one field"),
        ({"tasks": ()}, "one task"),
        ({"tasks": (DIGITS.tasks[0],) * 2}, "one name"),
        ({"tasks": (Task("a", "linear", "accuracy", "digit", ("pixels",)),)}, "field"),
        ({"backbones": {"pixel": "package:minilm"}}, "field"),
        ({"peers": (Peer("x", "scikit-learn", print, ("no such task",)),)}, "task"),
        ({"steps": 0}, "at least 1 step"),
    ],
)
def test_a_testbed_that_cannot_be_run(change, message):
    with pytest.raises(AmodalError, match=message):
        replace(DIGITS, **change)


def test_sources_are_those_of_a_report():
    everything, fourier, matched = DIGITS.tasks
    assert everything.source(DIGITS.fields) == "fused"
    assert fourier.source(DIGITS.fields) == "fou"
    assert matched.source(DIGITS.fields) is None
    assert matched.row_metric == "recall@10"
    assert Task("a", "linear", "accuracy", "digit").source(("pix",)) == "pix"
    assert Task("a", "linear", "accuracy", "digit", ("pix", "fou")).source(DIGITS.fields) is None


def test_a_set_that_no_installed_distribution_has():
    bed = replace(DIGITS, data="no_such_set")
    assert not bed.is_here
    with pytest.raises(AmodalError, match="comes with amodal-claims"):
        bed.open()


def test_an_unknown_command_is_a_sentence(capsys):
    assert main(["lst"]) == 2
    assert "list" in capsys.readouterr().err


def test_the_list_has_every_testbed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in testbeds.names())


def test_the_version_of_a_peer_is_that_of_its_library():
    import sklearn

    assert Peer("x", "scikit-learn", print).version == sklearn.__version__
    assert Peer("x", "no-such-library", print).version is None


def test_open_has_the_fields_of_the_testbed_alone():
    bed = Testbed(
        name="pair",
        title="Two of six tables",
        data="digits",
        fields=("pix", "fou"),
        tasks=(Task("digit", "linear", "accuracy", "digit"),),
        steps=1,
        batch_size=2,
        size="tiny",
        card="",
    )
    assert list(bed.open().fields) == ["pix", "fou"]
    assert bed.family == "pair"
