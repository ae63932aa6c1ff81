"""No code outside `amodal/modalities/` branches on the name or the class of a modality."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from amodal.core import registry

ROOT = Path(__file__).parents[2] / "amodal"
KINDS = set(registry.pages("modalities"))
CLASSES = {kind.capitalize() for kind in KINDS}
DATA = ("modalities", "data/sets")
"""Where kinds are at home, and where they describe data."""
ALLOWED = {
    ("evaluate/diagnoses.py", '"volume": _volume'): "of the vectors of a record, see `gram`",
    ("methods/contrastive/gram.py", '{"volume": total'): "of the vectors of a record",
    ("masking/by_layout.py", '(("image", image)'): "options of methods, by name",
    ("evaluate/needs.py", 'return {"text": field'): "arguments of a function, by name",
    ("evaluate/papers.py", '| {"text": t}'): "what papers and their summaries say, by column",
    ("evaluate/protocols/prompts.py", '"text": text,'): "an option of the protocol, in its result",
    ("evaluate/protocols/survival.py", '"events": events,'): "how many records had the event",
    ("evaluate/risks.py", '"events": events,'): "how many records had the event",
    ("serve/tabs/gallery.py", 'if "text" in shown:'): "a part of a card, see `Modality.card`",
    ("serve/tabs/gallery.py", 'shown["text"] ='): "a part of a card, see `Modality.card`",
    (
        "evaluate/protocols/zero_shot.py",
        '"text": text,',
    ): "an option of the protocol, in its result",
    ("methods/contrastive/simclr.py", 'views={"image"'): "what the paper did to pictures",
    ("methods/contrastive/amdim.py", 'views={"image"'): "what the paper did to pictures",
    ("methods/contrastive/clip_rocket.py", 'views={"image"'): "what the paper did to pictures",
    ("methods/fusion/surgical_feedback.py", 'views={"image"'): "what the paper did to pictures",
    ("methods/masked/mae.py", 'views={"image"'): "what the paper did to pictures",
    ("methods/pretext/texttopicnet.py", 'views={"image"'): "what the paper did to pictures",
    ("methods/redundancy/vicreg.py", 'views={"image"'): "what the paper did to pictures",
    ("methods/robustness/cleanclip.py", 'views={"image"'): "what the paper did to pictures",
    ("methods/theory/kernel_infonce.py", 'views={"image"'): "what the paper did to pictures",
    ("methods/theory/mmcl_theory.py", 'views={"image"'): "what the paper did to pictures",
}
"""(file, part of a line) -> why this is no branch: a word that is also the name of a modality, or
data that a user may replace."""
LOOKUPS = {"get", "pop", "setdefault", "index", "startswith", "endswith"}
BUILT = {"frozenset", "set", "tuple", "list", "dict"}


def named_constants(tree: ast.AST) -> dict[str, ast.AST]:
    """Name -> what a file assigns to it, where that is a kind or kinds and nothing else."""

    def texts(node: ast.AST) -> set:
        return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}

    return {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and set(names_in(node.value)) >= texts(node.value) != set()
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def names_in(node: ast.AST | None) -> Iterator[str]:
    """Kinds among a constant, or the constants of a tuple, list or set, or the names of classes."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BUILT:
        yield from (k.arg for k in node.keywords if k.arg in KINDS)
        for argument in node.args:
            yield from names_in(argument)
        return
    for part in getattr(node, "elts", [node]):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            if part.value in KINDS | CLASSES:
                yield part.value


def imported(tree: ast.AST) -> set[str]:
    """The names under which a file knows the classes of modalities."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("amodal.modalities"):
            found |= {a.asname or a.name for a in node.names if a.name in CLASSES}
    return found


def class_names(nodes: list) -> Iterator[str]:
    """The classes of modalities among names and attributes."""
    for node in nodes:
        if isinstance(node, ast.Attribute):
            home = node.value.attr if isinstance(node.value, ast.Attribute) else ""
            home = node.value.id if isinstance(node.value, ast.Name) else home
            if node.attr in CLASSES and home in {"modalities", *KINDS}:
                yield node.attr
        elif getattr(node, "id", "") in CLASSES:
            yield node.id


def branches(source: str) -> Iterator[tuple[int, str]]:
    """(line, kind) of each place that does one thing for one kind and another for others."""
    tree = ast.parse(source)
    classes, constants = imported(tree), named_constants(tree)
    for node in ast.walk(tree):
        parts: list = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
            used = {n.id for part in parts for n in ast.walk(part) if isinstance(n, ast.Name)}
            yield from ((node.lineno, name) for name in used & classes)
        elif isinstance(node, ast.match_case):
            parts = [n.value for n in ast.walk(node.pattern) if isinstance(n, ast.MatchValue)]
            patterns = [n.cls for n in ast.walk(node.pattern) if isinstance(n, ast.MatchClass)]
            yield from ((node.pattern.lineno, name) for name in class_names(patterns))
        elif isinstance(node, ast.Subscript):
            parts = [node.slice, node.value] if isinstance(node.value, ast.Call) else [node.slice]
        elif isinstance(node, ast.Dict):
            parts = node.keys
        elif isinstance(node, (ast.comprehension, ast.For)):
            parts = [node.iter, *getattr(node.iter, "elts", [])]
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            parts = node.args if called in LOOKUPS else []
            if called in ("isinstance", "issubclass") and len(node.args) == 2:
                used = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                yield from ((node.lineno, name) for name in used & classes)
                attributes = [n for n in ast.walk(node.args[1]) if isinstance(n, ast.Attribute)]
                yield from ((node.lineno, name) for name in class_names(attributes))
            if called == "getattr" and len(node.args) > 1:
                spelt = [n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)]
                if isinstance(node.args[1], ast.JoinedStr):
                    yield from ((node.lineno, n) for n in spelt if n in ("kind", "modality"))
        parts = [constants.get(p.id, p) if isinstance(p, ast.Name) else p for p in parts]
        for part in parts:
            yield from ((part.lineno, name) for name in names_in(part))
    for node in ast.walk(
        tree
    ):  # a constant of a file whose elements something may be compared with
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Tuple, ast.List, ast.Set)):
            found = set(names_in(node.value))
            if len(found) > 1:
                yield from ((node.lineno, name) for name in found)


def test_no_code_branches_on_a_kind():
    wrong = []
    for file in sorted(ROOT.rglob("*.py")):
        path = file.relative_to(ROOT).as_posix()
        if path.startswith(tuple(f"{folder}/" for folder in DATA)):
            continue
        source = file.read_text(encoding="utf-8")
        allowed = [part for where, part in ALLOWED if where == path]
        needed = set()
        for line, name in branches(source):
            part = next((part for part in allowed if part in source.splitlines()[line - 1]), None)
            needed.add(part)
            wrong += [f"{path}:{line}: {name}"] if part is None else []
        assert needed >= set(allowed), f"{path}: the list allows what is not there"
    assert not wrong, "ask a hook or an attribute of `Modality` instead:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "if kind == 'image': pass",
        "x = 1 if kind in ('text', 'other') else 2",
        "match kind:\n    case 'image' | 'text': pass",
        "x = table_of['series']",
        "x = {'image': f, 'text': g}[kind]",
        "x = READERS.get('audio')",
        "if type(m).__name__ == 'Table': pass",
        "SEQUENCES = ('text', 'audio')",
        "[k for k in ('text', 'audio')]",
        "from amodal.modalities.image import Image as I\nisinstance(m, I)",
        "from amodal.modalities.text import Text\nisinstance(m, (int, Text))",
        "from amodal.modalities.text import Text\ntype(m) is Text",
        "PICTURE = 'image'\nif kind == PICTURE: pass",
        "if kind in frozenset({'image'}): pass",
        "KINDS = frozenset({'image', 'text'})\nif kind in KINDS: pass",
        "x = dict(image=f)[kind]",
        "isinstance(m, modalities.Image)",
        "from amodal.modalities import image\nisinstance(m, image.Image)",
        "match m:\n    case Image(): pass",
        "x = kind.endswith('image')",
        "x = getattr(self, f'on_{kind}')",
    ],
)
def test_the_test_sees_them(source):
    assert list(branches(source))


@pytest.mark.parametrize(
    "source",
    [
        "field('image', size=3)",
        "from amodal.modalities.text import Text\nText(patch=1)",
        "x: str = 'text'",
    ],
)
def test_declarations_are_allowed(source):
    assert not list(branches(source))
