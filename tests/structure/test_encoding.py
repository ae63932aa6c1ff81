"""Text files are read and written as UTF-8, whatever the locale of the process: Windows has another
default, and a library may set the locale of C."""

import ast

import pytest

from tests.structure.tree import ROOT

FOLDERS = ("amodal", "benchmarks", "claims/testbeds", "examples", "scripts", "tests")


def without_encoding(tree):
    """Lines that open a text file by the locale: `open` and the methods of a path."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg for keyword in node.keywords}
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        method = isinstance(node.func, ast.Attribute)
        if called == "read_text":
            text = method and len(node.args) == 0
        elif called == "write_text":
            text = method and len(node.args) == 1
        elif called == "open" and not is_archive(node.func):
            modes = [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
            modes = modes if method else modes[1:]
            mode = [m.value for m in modes if isinstance(m, ast.Constant) and is_mode(m.value)]
            text = "b" not in mode[0] if mode else not method
        else:
            continue
        if text and "encoding" not in keywords and None not in keywords:
            yield node.lineno


def is_archive(function):
    """`tarfile.open`, and the members of an archive: bytes, whatever their mode."""
    return isinstance(function, ast.Attribute) and ast.unparse(function.value) in (
        "tarfile",
        "archive",
    )


def is_mode(value):
    return isinstance(value, str) and value != "" and set(value) <= set("rwaxbt+")


@pytest.mark.parametrize("folder", FOLDERS)
def test_text_files_name_their_encoding(folder):
    wrong = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for line in without_encoding(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not wrong, 'say encoding="utf-8":\n' + "\n".join(wrong)


def test_what_is_opened_by_the_locale_is_seen():
    tree = ast.parse("""
open("a")
open("a", "rb")
open("a", "w", encoding="utf-8")
open("a", mode="a")
path.open("r+")
path.open("wb")
path.read_text()
path.write_text(text, encoding="utf-8")
path.write_text(text)
amodal.open(folder)
tarfile.open("a", "w")
""")
    assert list(without_encoding(tree)) == [2, 5, 6, 8, 10]
