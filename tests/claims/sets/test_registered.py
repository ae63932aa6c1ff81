"""The sets of claims are plug-ins: every page has its entry point, and is what a page must be."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from amodal_claims import sets as pages
from testbeds import sets as pages_of_testbeds

from amodal.core import registry
from amodal.core.registry import Plugin
from amodal.data import sets

FOLDER = Path(pages.__file__).parent
PROJECT = FOLDER.parents[1] / "pyproject.toml"
ENTRIES = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["entry-points"][
    "amodal.datasets"
]


def test_every_page_has_an_entry_point_of_its_name():
    files = {
        file.stem: f"{package.__name__}.{file.stem}"
        for package in (pages, pages_of_testbeds)
        for file in Path(package.__file__).parent.glob("*.py")
        if not file.stem.startswith("_")
    }
    assert files == ENTRIES
    assert not set(files) & set(registry.pages("data/sets"))


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_it_loads_and_passes_the_check(name):
    entry = EntryPoint(name, ENTRIES[name], "amodal.datasets")
    page = Plugin("datasets", name, "amodal-claims", entry).load(sets.check_plugin)
    assert len(sets.title(page)) > 20 and sets.cost(page)


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_it_is_found_by_its_name_alone(name):
    assert sets.page(name).__name__ == ENTRIES[name]
    assert sets.folder_of(name).parts[-2:] == ("amodal-claims", name)
