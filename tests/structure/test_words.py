"""Names and messages use the words of the field, and not those that only we know."""

import ast
import re

from amodal.core.recipe import OLD_NAMES
from tests.structure.tree import docstrings, files, words

BANNED = frozenset(
    "sense senses told tells tell teller telling retold answers finder kept given remember "
    "remembered again refuser lockstep several heat shelf guard facts parcel looks opening".split()
)
BANNED_PARAMETERS = frozenset("how at own there each said found bag reads slow fast".split())
"""As names of parameters and attributes."""
OLD = {"amodal/core/recipe.py", "amodal/nn/old_runs.py", "amodal/evaluate/old_names.py"}
"""Tables of names of before."""


STREAMS = {
    "amodal/data/remote.py",
    "amodal/modalities/shared/files.py",
    "amodal/modalities/shared/requests.py",
    "amodal/modalities/shared/sound.py",
}
"""Where `tell` is that of Python's streams."""


def name_of(node):
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            return name
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(name=name):
            return name
        case ast.keyword(arg=str(name)):
            return name
    return ""


def ours(file):
    return file.as_posix() not in OLD


def test_file_names():
    assert not [str(f) for f in files() if BANNED & set(words(f.stem))]


def test_identifiers():
    found = {
        f"{file}:{node.lineno}: {name}"
        for file, tree in files().items()
        if ours(file)
        for node in ast.walk(tree)
        if BANNED & set(words((name := name_of(node)).rpartition(".")[2]))
        if not (name == "tell" and file.as_posix() in STREAMS)
    }
    assert not found, "\n".join(sorted(found))


def test_parameters_and_attributes():
    found = []
    for file, tree in files().items():
        stored = (
            n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and is_self_store(n)
        )
        arguments = (n.arg for n in ast.walk(tree) if isinstance(n, ast.arg))
        found += [f"{file}: {name}" for name in (*stored, *arguments) if name in BANNED_PARAMETERS]
    assert not found, "\n".join(sorted(set(found)))


def is_self_store(node):
    return isinstance(node.ctx, ast.Store)


def test_messages():
    """Strings with a space are for people; a single word may be a key of an old file."""
    found = []
    for file, tree in files().items():
        prose = docstrings(tree) | seeds(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if id(node) in prose or " " not in node.value.strip() or not ours(file):
                continue
            if used := BANNED & set(re.findall(r"[a-z]+", node.value.lower())) - PLAIN:
                found.append(f"{file}:{node.lineno}: {', '.join(sorted(used))}: {node.value[:60]}")
    assert not found, "\n".join(found)


def seeds(tree):
    """The ids of strings that seed random numbers, which must stay as they are."""
    return {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "name_code"
        for argument in node.args
    }


PLAIN = frozenset({"again", "given", "several", "kept"})
"""Plain English in a sentence, though not in a name."""


def test_old_options_are_read_under_a_name_of_today():
    assert "senses" in OLD_NAMES and not set(OLD_NAMES.values()) & BANNED
