"""The site: every page has its place, links lead to the site's own pages, and names have a reference."""

import re

import pytest
import yaml

import amodal
from tests.structure.tree import ROOT

pytest.importorskip("mkdocs", reason="pip install 'amodal[docs]'")

from scripts import site_pages  # noqa: E402

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.py"))


def nav() -> list[str]:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [page for value in values for page in pages(value)]

    return pages(yaml.safe_load(text)["nav"])


def test_every_page_and_notebook_has_a_place_in_the_site():
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert len(NOTEBOOKS) == 6
    tutorials = {f"tutorials/{file.stem}.md" for file in NOTEBOOKS}
    project = {f"repository/{file}" for file in site_pages.START}
    assert sorted(nav()) == sorted(pages | tutorials | project | {"index.md"})


def test_every_public_name_is_in_the_reference():
    text = "\n".join(
        p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "reference").glob("*.md")
    )
    assert {*re.findall(r"^::: amodal\.(\w+)$", text, re.M)} == {*amodal.__all__}


@pytest.mark.parametrize(
    ("page", "text", "site"),
    [
        ("docs/data.md", "[a](training.md#x)", "[a](training.md#x)"),
        (
            "docs/data.md",
            "![a](../benchmarks/results/steps.png)",
            "![a](repository/benchmarks/results/steps.png)",
        ),
        (
            "docs/extending.md",
            "[a](../examples/plugin)",
            "[a](repository/examples/plugin/README.md)",
        ),
        ("README.md", "[a](docs/data.md), [b](LICENSE)", "[a](data.md), [b](repository/LICENSE)"),
        ("CONTRIBUTING.md", "[a](docs/extending.md)", "[a](../extending.md)"),
        ("README.md", "`[a](docs/data.md)`", "`[a](docs/data.md)`"),
        ("README.md", "```\n[a](docs/data.md)\n```", "```\n[a](docs/data.md)\n```"),
        ("README.md", "[a](https://a.example/docs/data.md)", "[a](https://a.example/docs/data.md)"),
        ("README.md", "[a](docs/nowhere.md)", "[a](docs/nowhere.md)"),
    ],
)
def test_links_lead_within_the_site(page, text, site):
    assert site_pages.relinked(text, page) == site


def test_what_pages_lead_to_is_copied_with_what_that_leads_to():
    outside = site_pages.outside()
    assert {"CHANGELOG.md", "examples/plugin/README.md"} <= {*outside}
    assert "examples/plugin/amodal_example/cloud.py" in outside
    assert "benchmarks/results/steps.png" in outside
    assert not [path for path in outside if path.startswith("docs/")]
