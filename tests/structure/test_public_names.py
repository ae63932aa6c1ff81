"""What messages and pages of the documentation call `amodal.X` is there, and what the build packs is
in the repository."""

import ast
import importlib
import importlib.util
import re
import subprocess
import tomllib

import pytest

import amodal
from amodal.core.registry import KINDS
from tests.structure.tree import PACKAGE, ROOT, files

NAME = re.compile(r"(?<![\w./@-])amodal((?:\.[A-Za-z_]\w*)+)")
ELSEWHERE = {"__version__", "git"}
"""Beside what is exported: the version, and the end of an address of the repository."""
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs", "examples")
"""Not CHANGELOG.md, which also says what names were."""


def is_there(dotted: str) -> bool:
    """Whether `.nn.encoder.Encoder` is a module of the package, or a name in one."""
    first, *rest = dotted.strip(".").split(".")
    if first in amodal.__all__ or first in ELSEWHERE or (first in KINDS and not rest):
        return True
    thing, path = amodal, "amodal"
    for name in (first, *rest):
        path += f".{name}"
        if hasattr(thing, "__path__") and importlib.util.find_spec(path) is not None:
            thing = importlib.import_module(path)
        elif hasattr(thing, name):
            thing = getattr(thing, name)
        else:
            return False
    # what is at the top level by accident of an import is no public name
    return len(rest) > 0 or isinstance(thing, type(amodal))


def test_every_name_of_messages_exists():
    wrong = [
        f"{file}:{node.lineno}: amodal{name}"
        for file, tree in files().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for name in NAME.findall(node.value)
        if not is_there(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_name_of_the_documentation_exists():
    found = [ROOT / page for page in PAGES]
    texts = [f for p in found for f in ([p] if p.is_file() else sorted(p.rglob("*.md")))]
    assert len(texts) > 20
    wrong = [
        f"{text.relative_to(ROOT)}:{number}: amodal{name}"
        for text in texts
        for number, line in enumerate(text.read_text(encoding="utf-8").splitlines(), 1)
        for name in NAME.findall(line)
        if not is_there(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_name_that_is_not_there_is_seen():
    assert NAME.findall("an `amodal.Metod`, and amodal.nn.Codec") == [".Metod", ".nn.Codec"]
    assert not is_there(".Metod") and not is_there(".nn.Codec") and not is_there(".core.part.Prt")
    assert is_there(".Method") and is_there(".core.part.Part") and is_there(".protocols")


def test_package_data_names_files_of_the_repository():
    """A pattern may match nothing; a plain name that is not in the repository is packed on some
    machines and not on others."""
    if not (ROOT / ".git").exists():
        pytest.skip("no repository: the source distribution is checked when it is built")
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tracked = subprocess.run(
        ["git", "ls-files", "amodal"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    patterns = tables["tool"]["setuptools"]["package-data"]["amodal"]
    assert [p for p in patterns if "*" not in p and f"amodal/{p}" not in tracked] == []
    small = PACKAGE / "methods" / "small_recipes.toml"
    assert any(small.relative_to(PACKAGE).match(p) for p in patterns), "it is packed once measured"
