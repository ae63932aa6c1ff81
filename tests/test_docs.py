"""Every example in the README and the docs runs, in order, on a folder as a user has it."""

import re
import shlex
import shutil
from pathlib import Path

import amodal_claims as claims
import pytest

from amodal.cli import main
from amodal.core import AmodalError
from amodal.data import fetch, sets

ROOT = Path(__file__).parent.parent
FETCHED = {"survival.md": "miniacc"}
"""Pages whose examples begin with a package of a registry."""

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_run(page, folder, tmp_path, monkeypatch):
    try:
        for package in sets.page(FETCHED[page.name]).PACKAGES if page.name in FETCHED else ():
            fetch.download(package, say=lambda text: None)
    except AmodalError as reason:
        pytest.skip(str(reason))
    shutil.copytree(folder, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    for language, text in re.findall(
        r"^```(sh|python)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
    ):
        if language == "python":
            exec(compile(text, page.name, "exec"), names)
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line, comments=True) or [""]
            if program:
                assert program == "amodal", line
                main(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_tables_of_claims_are_the_ledger():
    import sys

    sys.path.insert(0, str(ROOT / "scripts"))
    import claims_table

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert claims_table.written(text) == text, "run: python scripts/claims_table.py"
    assert claims_table.RESULTS.read_text(encoding="utf-8") == claims_table.results(), (
        "run: python scripts/claims_table.py"
    )
    assert all(claims.recorded(k) for k in claims.names()), "a claim without a ledger entry"
