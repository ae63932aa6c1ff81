"""What the package's own metadata and its source distribution say. `scripts/check_dist.py` builds it."""

import re
import tomllib

import yaml
from setuptools import Distribution
from setuptools.config.pyprojecttoml import read_configuration

import amodal
from scripts import check_dist
from tests.structure.tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def members(extra: str) -> set[str]:
    """The extras that an extra includes, with itself."""
    found = {extra}
    for line in EXTRAS[extra]:
        inside = re.fullmatch(r"amodal\[([\w,]+)\]", line)
        for name in inside[1].split(",") if inside else ():
            found |= members(name)
    return found


def test_the_licence_is_an_spdx_expression():
    assert PROJECT["license"] == "Apache-2.0"
    assert all((ROOT / file).is_file() for file in PROJECT["license-files"])
    assert not [c for c in PROJECT["classifiers"] if c.startswith("License ::")]


def test_versions_of_python_are_those_that_are_required():
    versions = re.findall(r"Python :: 3\.(\d+)", " ".join(PROJECT["classifiers"]))
    assert versions and PROJECT["requires-python"] == f">=3.{min(versions, key=int)}"


def test_the_version_has_one_source():
    read = read_configuration(ROOT / "pyproject.toml", dist=Distribution())
    assert read["project"]["version"] == amodal.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == amodal.__version__
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_extras_hold_what_they_are_named_for():
    for extra in EXTRAS:
        assert members(extra) <= EXTRAS.keys()
    assert "view" in members("demo") and "view" in members("all")
    assert any(line.startswith("umap-learn") for line in EXTRAS["view"])
    # what a user of everything has no use for: hosted loggers, one method's library, our own tools
    left_out = {"all", "dev", "docs", "demo", "lance", "loggers", "rocket"}
    assert set(EXTRAS) - members("all") == left_out - {"all"}
    assert "install.py demo\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_source_distribution_names_what_the_tests_read():
    lines = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    named = {word for line in lines for word in line.split()[1:] if not line.startswith("#")}
    for needed in ("tests", "scripts", "docs", "examples", "claims", "benchmarks", "Makefile"):
        assert needed in named


def test_what_is_missing_from_a_distribution_and_what_is_too_much():
    files = {".gitignore", "README.md", "tests/test_a.py", "amodal/a.py", "amodal/catalog.toml"}
    wheel = {"amodal/a.py", "amodal/catalog.toml", "amodal-0.1.0.dist-info/METADATA"}
    source = files - {".gitignore"} | {"PKG-INFO"}
    assert check_dist.problems(files, source, wheel) == []
    found = check_dist.problems(
        files,
        source - {"tests/test_a.py"} | {"site/index.html"},
        wheel - {"amodal/catalog.toml"} | {"tests/test_a.py"},
    )
    assert found == [
        "in the source distribution, and not of the repository: site/index.html",
        "in the wheel, and not of the package: tests/test_a.py",
        "not in the source distribution: tests/test_a.py",
        "not in the wheel: amodal/catalog.toml",
    ]


def test_the_image_of_the_server_is_built_from_files_of_the_repository():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [
        w for li in lines if li.startswith("COPY ") and "--from" not in li for w in li.split()[1:-1]
    ]
    shown = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied and all((ROOT / c).exists() and f"!{c}" in shown for c in copied)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users and users[-1] not in ("0", "root")
    assert {*PROJECT["license-files"]} <= {"LICENSE", "amodal/data/bundled/globe/NOTICE"}
