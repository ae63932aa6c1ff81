"""Names and messages use the words of the field, and not those that only we know."""

import ast
import re
from functools import cache
from itertools import chain

import pytest

from amodal.core.recipe import OLD_NAMES
from tests.structure.javascript import HTML_NAME, page_names
from tests.structure.tree import PACKAGE, ROOT, docstrings, files, words

BANNED = frozenset(
    "sense senses told tells tell teller telling retold answers finder kept given remember "
    "remembered again refuser lockstep several heat shelf guard facts parcel looks opening".split()
)
BANNED_PARAMETERS = frozenset("how at own there each said found bag reads slow fast".split())
"""As names of parameters and attributes, and of variables of the page's scripts."""
EXEMPT = {
    "amodal/core/recipe.py": "the table of option names of before",
    "amodal/evaluate/old_names.py": "the table of protocol and column names of before",
    "amodal/nn/old_runs.py": "the table of parameter names of before, which stored weights have",
    "scripts/loss_trace_base.py": "runs an old commit, under the names that it had",
}
"""Files that may use any word, and why."""
NAMES_OF_LIBRARIES = {
    "amodal/data/remote.py": ("tell", "the position of Python's streams"),
    "amodal/modalities/shared/files.py": ("tell", "the position of Python's streams"),
    "amodal/modalities/shared/requests.py": ("tell", "the position of Python's streams"),
    "amodal/modalities/shared/sound.py": ("tell", "the position of Python's streams"),
}
"""One word that a file may use as a name, and why. `given` of hypothesis is known by its import."""
STORED = {
    ("amodal/curate/__init__.py", "remember"): "an option of the release before, and today's name",
    ("amodal/evaluate/context.py", "answers"): "a key of config.json of format 1",
    ("amodal/methods/__init__.py", "senses"): "an option of the release before, and today's name",
    ("amodal/methods/__init__.py", "tell"): "an option of the release before, and today's name",
    ("amodal/methods/saved.py", "tells"): "a key of config.json of format 1",
    ("amodal/nn/saved.py", "answers"): "a key of config.json of format 1",
    ("amodal/search/qdrant.py", "senses"): "a key of collections that are there",
    ("amodal/search/qdrant.py", "several"): "a key of collections that are there",
    ("amodal/stats/topics.py", "kept"): "a tensor of saved runs",
    ("amodal/train/cache_features.py", "remember"): "a key of config.json of format 1",
    ("scripts/same_loss.py", "senses"): "a part of the names of terms in older code",
    ("scripts/same_loss.py", "told"): "a part of the names of terms in older code",
    ("scripts/same_loss.py", "tell"): "a part of the names of terms in older code",
}
"""(file, string of one word) -> why it must stay: something that is stored has it."""
BESIDE = ("tests", "claims", "benchmarks", "scripts", "examples")
"""Folders beside the package, whose names are read as well; their messages are for developers."""
PAGES = sorted(p for p in (PACKAGE / "serve" / "static").iterdir() if p.is_file())


@cache
def files_beside():
    found = chain.from_iterable(sorted((ROOT / folder).rglob("*.py")) for folder in BESIDE)
    return {file.relative_to(ROOT): ast.parse(file.read_text(encoding="utf-8")) for file in found}


def all_files():
    return files() | files_beside()


NAMED = (ast.Name, ast.Attribute, ast.arg, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
NAMED += (ast.alias, ast.keyword, ast.MatchAs, ast.MatchStar, ast.MatchMapping, ast.ExceptHandler)


def names_of(node):
    if not isinstance(node, NAMED):
        return []
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.alias(name=name, asname=renamed):
            return [name.rpartition(".")[2], *([renamed] if renamed else [])]
        case ast.keyword(arg=str(name)):
            return [name]
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return [name]
        case ast.MatchMapping(rest=str(name)) | ast.ExceptHandler(name=str(name)):
            return [name]
    return []


@cache
def used(name):
    return BANNED & set(words(name))


def banned_names(tree):
    """(line, name) of every identifier that holds a banned word."""
    library = of_hypothesis(tree)
    return [
        (getattr(node, "lineno", 0), name)
        for node in ast.walk(tree)
        if id(node) not in library
        for name in names_of(node)
        if used(name)
    ]


def of_hypothesis(tree):
    """The ids of nodes that are `given` of hypothesis: its import, and decorators."""
    nodes = [
        alias
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "hypothesis"
        for alias in node.names
    ]
    if any(alias.name == "given" for alias in nodes):
        nodes += [
            decorator.func
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "given"
        ]
    return {id(node) for node in nodes}


def banned_parameters(tree):
    """Parameters, and attributes that are set, of a name that says too little for one."""
    return [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) or is_self_store(node)
        for name in names_of(node)
        if name in BANNED_PARAMETERS
    ]


def is_self_store(node):
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)


def allowed(file, name=""):
    word, _ = NAMES_OF_LIBRARIES.get(file.as_posix(), ("", ""))
    return file.as_posix() in EXEMPT or bool(name) and name == word


def banned_on_page(source, suffix):
    """(line, name) of identifiers and elements of a script, a style or markup."""
    return [
        (line, name)
        for kind, name, line in page_names(source, suffix)
        if used(name) or kind != "member" and name in BANNED_PARAMETERS
    ]


def test_file_names():
    assert not [str(f) for f in all_files() if used(f.stem)]
    assert not [p.name for p in PAGES if used(p.stem)]


def test_identifiers():
    found = {
        f"{file}:{line}: {name}"
        for file, tree in all_files().items()
        for line, name in banned_names(tree)
        if not allowed(file, name)
    }
    assert not found, "\n".join(sorted(found))


def test_parameters_and_attributes():
    found = {
        f"{file}: {name}"
        for file, tree in all_files().items()
        if not allowed(file)
        for name in banned_parameters(tree)
    }
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize("file", PAGES, ids=lambda p: p.name)
def test_names_of_the_page(file):
    assert not banned_on_page(file.read_text(encoding="utf-8"), file.suffix)


def test_names_of_elements_that_python_writes():
    found = [
        f"{file}: {name}"
        for file, tree in files().items()
        if file.is_relative_to("amodal/serve")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in docstrings(tree) and "<" in node.value
        for line in HTML_NAME.findall(node.value)
        for name in line.split()
        if used(name)
    ]
    assert not found, "\n".join(found)


def test_every_exemption_is_needed():
    trees = {file.as_posix(): tree for file, tree in all_files().items()}
    idle = [
        file
        for file in EXEMPT
        if not banned_names(trees[file])
        and not banned_parameters(trees[file])
        and not any(
            isinstance(node, ast.Constant) and isinstance(node.value, str) and used(node.value)
            for node in ast.walk(trees[file])
        )
    ]
    idle += [
        file
        for file, (word, _) in NAMES_OF_LIBRARIES.items()
        if word not in {name for _, name in banned_names(trees[file])}
    ]
    idle += [key for key in STORED if key[1] not in {t for _, t in banned_words(trees[key[0]])}]
    assert not idle


PYTHON = """
from hypothesis import given
import numpy as several
from amodal.x import Retold

@given(1)
def test_what_is_told(how, *at, kept=None, **own):
    self.said = given
    call(heat=1)
    match value:
        case [first, *facts]:
            pass
        case {"a": 1, **answers}:
            pass
    try:
        said = "told"
    except ValueError as opening:
        pass
async def again(): pass
class LooksLike: pass
"""


def test_a_banned_name_of_python_is_found():
    tree = ast.parse(PYTHON)
    names = "several Retold test_what_is_told kept kept given heat facts answers opening again"
    assert {name for _, name in banned_names(tree)} == {*names.split(), "LooksLike"}
    assert [name for _, name in banned_names(tree)].count("given") == 1
    assert sorted(banned_parameters(tree)) == ["at", "how", "own", "said"]


SCRIPT = r"""
// told in a comment, `again`
/* kept
   given */
const fine = "kept and given in a sentence", said = rows.at(-1) / 2, senseOf = 1 / 3;
const url = `/told/${encodeURIComponent(found ? `${heat}` : { several: 1 }.a)} kept`;
text.replace(/told'"/, "x").split(/[/"]again/).each(1);
el("p", { id: "told-apart", class: "faint" });
f(...at, row.guard);
"""


def test_a_banned_name_of_a_page_is_found():
    names = ["said", "senseOf", "found", "heat", "several", "told-apart", "at", "guard"]
    assert banned_on_page(SCRIPT, ".js") == [
        (line, name) for line, name in zip([5, 5, 6, 6, 6, 8, 9, 9], names)
    ]
    style = "#said, .kept-row { --heat: #fff; margin: .2rem; content: 'told'; }"
    assert [name for _, name in banned_on_page(style, ".css")] == ["said", "kept-row", "heat"]
    markup = '<p id="said" class="faint told">again</p>'
    assert [name for _, name in banned_on_page(markup, ".html")] == ["said", "told"]


def texts(tree):
    """(line, text) of every string that is neither a docstring nor the seed of random numbers."""
    prose = docstrings(tree) | seeds(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def is_sentence(text):
    return " " in text.strip()


def test_messages():
    """Strings with a space are for people."""
    found = [
        f"{file}:{line}: {', '.join(sorted(banned))}: {text[:60]}"
        for file, tree in files().items()
        if not allowed(file)
        for line, text in texts(tree)
        if is_sentence(text)
        if (banned := BANNED & set(re.findall(r"[a-z]+", text.lower())))
    ]
    assert not found, "\n".join(found)


def banned_words(tree):
    """(line, text) of strings without a space: keys, options, tensors, files."""
    return [(n, text) for n, text in texts(tree) if not is_sentence(text) and used(text)]


def test_strings_of_one_word():
    """Columns of data have the names that tests and claims give them, as a user's have."""
    found = [
        f"{file}:{line}: {text}"
        for file, tree in all_files().items()
        if file.parts[0] not in ("tests", "claims") and not allowed(file)
        for line, text in banned_words(tree)
        if (file.as_posix(), text) not in STORED
    ]
    assert not found, "\n".join(found)


def test_a_banned_string_of_one_word_is_found():
    tree = ast.parse('''
"""told"""
module.register_buffer("kept", x)
card = {"several": many, "n_senses": 2, f"{name}kept": 1, "a field that is kept": 3}
draw = name_code("told")
''')
    assert [text for _, text in banned_words(tree)] == ["kept", "several", "n_senses", "kept"]


def seeds(tree):
    """The ids of strings that seed random numbers, which must stay as they are."""
    return {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "name_code"
        for argument in node.args
    }


ENGLISH = frozenset(
    "again answers facts given guard heat kept looks opening remembered several".split()
)
"""Banned as names, and plain English in a page of the documentation."""


def test_pages_of_the_documentation():
    """Old names in backticks are of older versions, and so is the change log."""
    found = [
        f"{file.relative_to(ROOT)}:{number}: {', '.join(sorted(banned))}"
        for file in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/*/README.md"))
        if file.name != "CHANGELOG.md"
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if (banned := (BANNED - ENGLISH) & set(re.findall(r"[a-z]+", prose_of(line))))
    ]
    assert not found, "\n".join(found)


def prose_of(line):
    """A line of Markdown in lower case, without code and the targets of links."""
    return re.sub(r"`[^`]*`|\]\([^)]*\)", " ", line).lower()


def test_old_options_are_read_under_a_name_of_today():
    assert "senses" in OLD_NAMES and not set(OLD_NAMES.values()) & BANNED
