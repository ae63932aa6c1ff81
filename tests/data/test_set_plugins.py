"""Data sets of installed plug-ins: opened by name, listed, skipped and named when broken."""

from importlib.metadata import distribution as distribution_of

import pytest

from amodal import data, doctor
from amodal.core import AmodalError, registry
from amodal.data import sets
from tests.core import test_plugins
from tests.core.test_plugins import printed

install = test_plugins.install  # the fixture

BIRDS = '''
"""Birds: three sizes.

Made up."""
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES, LICENCE, RECORDS = (), "CC0-1.0", 3

def write(out, archives):
    assert archives == []
    records(out, {"key": ["a", "b", "c"], "size": [1.0, 2.0, 4.0], "kind": ["x", "y", "x"]})
    describe(out, {"sizes": field("table", columns=["size"])}, {"kind": "category"}, title="Birds")
'''


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))


def plug(install, distribution, name, source=BIRDS, value="Birds"):
    """A class as the page: its docstring and attributes are those of the module."""
    tail = (
        f"\nclass {value}:\n    __doc__ = __doc__\n    PACKAGES, LICENCE = PACKAGES, LICENCE\n"
        f"    RECORDS = RECORDS\n    write = staticmethod(write)\n"
    )
    install(distribution, {name: value}, source + tail, kind="datasets")


def test_a_plugin_is_one_of_the_sets(install):
    plug(install, "birds-plugin", "wild-birds")
    assert "wild_birds" in sets.names()[len(registry.pages("data/sets")) :]
    with pytest.raises(AmodalError, match=r"not here yet \(Birds: three sizes; generated, CC0-1.0"):
        data.open("wild-birds")
    lines = []
    folder = sets.fetch("wild-birds", say=lines.append)
    assert folder == sets.folder_of("wild_birds") and folder.parent.name == "birds-plugin"
    assert lines[0] == "building wild_birds: Birds: three sizes"
    for name in ("wild-birds", "wild_birds"):
        dataset = data.open(name)
        assert (dataset.name, dataset.keys) == ("wild_birds", ["a", "b", "c"])
        assert list(dataset.fields) == ["sizes"] and list(dataset.labels) == ["kind"]
    assert "Made up." in (folder / "README.md").read_text(encoding="utf-8")
    table = printed(sets.listing())
    assert "wild_birds" in table and "Birds: three sizes" in table and "tuxpaint" in table
    with pytest.raises(AmodalError, match="Did you mean wild_birds"):
        data.open("wild_bird")
    assert "datasets: wild_birds of birds-plugin 1.0" in printed(doctor.report())


def test_a_module_is_a_page_too(install, tmp_path):
    install("birds-plugin", {"birds": "_"}, BIRDS, kind="datasets")
    entries = tmp_path / "birds_plugin-1.0.dist-info" / "entry_points.txt"
    entries.write_text("[amodal.datasets]\nbirds = birds_plugin\n", encoding="utf-8")
    registry.installed.cache_clear()
    sets.ensure("birds", say=lambda line: None)
    assert len(data.open("birds")) == 3


def test_one_that_raises_is_skipped_and_named(install, tmp_path):
    plug(install, "birds-plugin", "birds")
    install("odd-plugin", {"odd": "Odd"}, "import there_is_no_such_module\n", kind="datasets")
    install("bare-plugin", {"bare": "Bare"}, "class Bare:\n    pass\n", kind="datasets")
    table = " ".join(printed(sets.listing()).split())
    assert "birds" in table and "tuxpaint" in table
    assert "skipped: the plug-in odd of odd-plugin 1.0 (odd_plugin:Odd) cannot be used" in table
    assert "bare_plugin:Bare is no data set: it lacks a function write(out, archives)" in table
    with pytest.raises(AmodalError, match="odd-plugin 1.0.*ModuleNotFoundError.*amodal doctor"):
        data.open("odd")
    assert len(data.open({"x": [1.0, 2.0]})) == 2 and len(data.open("globe")) > 0
    text = printed(doctor.report())
    assert "bare of bare-plugin 1.0 (bare_plugin:Bare), broken:" in text


@pytest.mark.parametrize(
    ("old", "new", "lacks"),
    [
        ('"CC0-1.0"', "None", "LICENCE"),
        ("= (),", '= ("splat",),', "PACKAGES"),
        ("Birds: three sizes.\n\nMade up.", "", "a docstring"),
    ],
)
def test_one_that_is_no_page_says_what_it_lacks(install, old, new, lacks):
    plug(install, "birds-plugin", "birds", BIRDS.replace(old, new))
    with pytest.raises(AmodalError, match=f"it lacks {lacks}"):
        sets.page("birds")


def test_two_of_one_name_are_an_error_that_names_both(install, tmp_path):
    plug(install, "birds-plugin", "birds")
    plug(install, "other-plugin", "birds")
    both = "'birds'.*(birds-plugin.*other-plugin|other-plugin.*birds-plugin)"
    assert {"birds", "tuxpaint"} <= {*sets.names()}
    assert "two of amodal.datasets are called 'birds'" in printed(sets.listing())
    with pytest.raises(AmodalError, match=both):
        sets.page("birds")
    with pytest.raises(AmodalError, match=both):
        data.open("birds")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.txt").write_text("words of a text", encoding="utf-8")
    assert len(data.open(tmp_path / "there")) == 1, "a path needs no plug-in"


@pytest.mark.parametrize("name", ["tuxpaint", "globe"])
def test_one_with_a_name_of_our_own_is_not_used(install, name):
    plug(install, "birds-plugin", name)
    with pytest.warns(UserWarning, match=f"'{name}' .* amodal's own, not .* of birds-plugin 1.0"):
        sets.folder_of(name)
    assert "plugins" not in sets.folder_of(name).parts
    sets.listing()
    lines = "\n".join(doctor.plugins())
    assert f"'{name}' of amodal.datasets is amodal's own" in lines and "birds-plugin 1.0" in lines


@pytest.mark.parametrize("distribution", ["birds-plugin", "amodal-claims"])
def test_a_name_that_is_unknown_says_where_the_sets_of_claims_are(
    install, monkeypatch, distribution
):
    monkeypatch.setattr("importlib.metadata.entry_points", only_from(distribution))
    plug(install, distribution, "birds")
    with pytest.raises(AmodalError, match="no public set is called 'tuxpiant'.*tuxpaint") as error:
        sets.page("tuxpiant")
    assert ("pip install ./claims" in str(error.value)) == (distribution != "amodal-claims")


def only_from(distribution):
    """The entry points of one distribution, whatever else is installed."""
    return lambda group: [e for e in distribution_of(distribution).entry_points if e.group == group]
